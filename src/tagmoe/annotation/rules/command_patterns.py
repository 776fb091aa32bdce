"""Patterns for one clause: verbs with what they need, and marks by which a clause is known."""

from __future__ import annotations

from types import SimpleNamespace


def command_sources(w: SimpleNamespace) -> dict[str, str]:
    """Regular expressions by the name of what they find; `w` holds the fragments."""
    return {
        "view": (
            r"\b"
            r"(?:from (?:behind|above|below|the (?:side|back|front|top|left|right|rear|air|other side)|overhead|(?:a|"
            r"an|another) (?:\w+ )?(?:angle|viewpoint|perspective|view|point of view|side|distance))|from (?:the|a) "
            r"(?:ceiling|ground|floor|street|balcony|window|corner|sky|distance|roof|rooftop|plane|drone)|(?:the|its) "
            r"(?:back|front|side|other side|underside|top) of the|zoom(?:ed)?[ -](?:in|out)|bird'?s[- ]eye|"
            r"worm'?s[- ]eye|aerial (?:view|shot)|top[- ]down|close[- ]?up|wide[- ](?:angle|shot)|(?:side|back|front|"
            r"rear|top) view|(?:(?<!at the )(?<!towards the )(?<!toward the )(?<!face the )(?<!facing the )(?<!for the "
            r")camera|viewpoint|perspective|point of view|viewing angle|view angle))\b"
        ),
        "several": (
            rf"\b(?:all|every|each|both(?! (?:arms|hands|legs|feet|eyes|ears|wings|his|her))|everything|everyone|"
            rf"everybody|{w.numbers}(?= (?:more )?(?:\w+ )?\w+s\b))\b"
        ),
        "as_one": r"\b(?:all of it|all over|every(?:where)|pair of)\b",
        "plural_object": (
            r"^\w+ (?:the |his |her |its |their |some |a few |a couple of |more )?(?:(?!(?:with|for|to|into|in|on|of|"
            r"from|at|and|by|like|as) )[\w-]+ ){0,2}?(?:people|men|women|children|"
            rf"(?!{w.singular_in_s}\b)\w{{2,}}[^su\W]s)\b"
        ),
        "remove": (
            r"^(?:remove|delete|erase|eliminate|get rid of|clear|wipe(?: out| away)?|take (?:off|away|out)|strip|crop "
            r"out|edit out|hide|lose)\b(?P<what>.*)$|"
            r"^(?:take|cut|get) (?P<what2>(?:the|his|her|all|every|a|that|this) .*?) (?:away|off|out)\b|"
            r"^(?:make|let|have) (?P<what3>.+?) (?:disappear|vanish|be gone)\b|"
            r"^(?:make|let|have) .+? (?:take off|remove) (?P<what4>.*)$"
        ),
        "without": (
            r"\b(?:with no|without(?: an?| the| his| her)?|wears? no|is no longer wearing|stop wearing|not "
            r"wear(?:ing)?) [\w-]+"
        ),
        "add": (
            r"^(?:add|insert|include|introduce|attach|(?:there|it) (?:should|could|must) (?:be|have)(?= (?:an?|some|"
            r"another|more) )|there (?:is|was|were|are)|(?:it|she|he|they|(?:the|his|her|their) .{2,40}?) (?:needs?|"
            r"(?:should|could|must) have)(?= (?:an?|some|another|more) )|let there be|create|write|"
            r"apply)\b(?P<what>.*)$"
        ),
        "text": (
            r"\b(?:text|words?|letters?|lettering|caption|slogan|headline|title|logo text)\b|"
            r"\b(?:say|says|saying|read|reads|reading|spell|write|written) QUOTE"
        ),
        "swap": (
            r"^(?:swap|switch|exchange|interchange)\b(?!.* (?:for|with|to|into) ).* and |"
            r"\b(?:swap|switch|trade|exchange) (?:their )?(?:places|positions)|"
            r"^(?:let|have|make) .* and .* (?:swap|switch)$|"
            r"\b(?:swap|switch|exchange) the (?:places|positions) of\b"
        ),
        "move": (
            r"^(?:move|shift|relocate|reposition|bring|drag|slide|push|pull|take)\b(?! (?:the )?camera).*\b(?:to|into|"
            r"onto|left|right|up|down|closer|away|back|forward|toward|towards|higher|lower|over)\b"
        ),
        "to_a_place": (
            r"\b(?:at|to|in|on|into) the (?:very )?(?:(?:top|bottom|upper|lower|far|middle|center|centre) "
            r"?-?){0,2}(?:top|bottom|left|right|middle|center|centre|corner|foreground|edge)\b"
        ),
        "resize": (
            r"^(?:shrink|enlarge|grow|resize|scale)\b|"
            r"\b(?:small(?:er)?|bigger|big|larger?|huge|tiny|taller|shorter|wider|giant|(?:twice|double|half) (?:as|"
            r"the|its))$|"
            r"\b(?:bigger|smaller|larger|taller|wider)\b|\bsize\b"
        ),
        "background": (r"(?<!in the )(?<!from the )(?<!into the )(?<!to the )\b(?:background|backdrop|surroundings)\b"),
        "behind": (
            rf"^(?:change|replace|turn|make|blur|swap) .*\bbehind (?:him|her|them|it|the (?:{w.people}|subject))\b|"
            r"^(?:change|replace) the (?:scenery|setting|location|surroundings)\b|"
            r"^(?:replace|change|swap|turn|make) the sky .*\b(?:with|to|into|for|an?)\b"
        ),
        "setting": (
            r"\b(?:setting|location|scenery)\b|\btakes? place (?:in|on|at)\b|"
            rf"^(?:set|have|put|place|move|send|take|transport|make) (?:{w.whole}|him|her|them|(?:the|this) "
            r"[\w ]{2,25}?)(?: be)? (?:(?:in|on|at|to|into|onto|inside|near) (?:an? |the |some )?(?:[\w-]+ "
            rf"){{0,2}}{w.places}|underwater|outdoors|indoors|outside|inside)\b"
        ),
        "setting_of_people": (
            r"^(?:have|let|make) (?:him|her|them|it|the [\w ]{2,25}?) (?:be|stand|walk|live|stay) (?:on|in|at) (?:an? |"
            rf"the )?(?:[\w-]+ ){{0,2}}{w.places}$"
        ),
        "light": (
            r"\b(?:at|by|during|in|into|to|under|it'?s?|it is|it were|was|is|be|look like|like|as|of|to be|now|back "
            r"the|more|very|a|the)(?: the| a| an| full| bright| warm| soft| heavy| dense| stormy| like)* "
            rf"{w.lights}{w.alone}|"
            r"\b(?:lighting|relight|time of (?:the )?day|season|weather|exposure|shadows?|sunlight|sunshine|golden "
            r"hour)\b|"
            rf"\b(?:make|turn) {w.whole} (?:look )?(?:more |much |a bit |a little |slightly |into )?(?:an? "
            rf")?{w.lights}\b|"
            rf"^(?:brighten|darken|dim|lighten|relight)(?: up)?(?: {w.whole})?\b|"
            rf"^(?:make|turn) (?:{w.whole}|the (?:sky|room|sun|street)) (?:look )?(?:more |much |a bit |a little |"
            rf"slightly )?{w.tones}\b|"
            r"\b(?:turn|switch|change) (?:on |off |down |up )?(?:the |all the )?(?:street |room |stage )?lights?\b|"
            r"^(?:what if |as if |if )?(?:it|there)(?:'s| is| was| were| should be| could be)? (?:now )?(?:a |an "
            rf")?{w.lights}\b|\bmake it snow\b"
        ),
        "style_whole": (
            rf"\b{w.whole}(?: (?:to|into|as|look|looks|like|be|were|was|is|a|an|the|should|could|it|more|in|back|by))* "
            rf"(?:[\w'-]+ ){{0,3}}?{w.styles}\b|"
            r"\b(?:in|to|into|with|using) (?:an? |the )?(?:[\w'-]+ ){0,4}style\b|\bstyle (?:of|to)\b|"
            r"\bas if (?:it (?:was|were) )?(?:painted|drawn)\b|"
            r"^(?:styli[sz]e|cartoonify|colou?ri[sz]e)\b|\b(?:the|this) style\b|"
            rf"^(?:make|turn|convert) (?:to|into) (?:an? )?{w.styles}|"
            rf"\bback (?:in)?to an? [\w -]{{0,20}}{w.images}$|"
            rf"\b{w.whole} (?:back )?(?:to|into|as|a) (?:an? )?[\w-]+ {w.images}$|"
            rf"^(?:an? )?(?:[\w'-]+ ){{0,3}}{w.styles}(?: style)?$|"
            r"\b(?:painted|drawn|made) (?:by|like) [a-z]+|\b(?:photo )?filter\b"
        ),
        "pose": (
            rf"\b{w.who}(?:'s)?(?: (?:[\w-]+ ){{0,4}}?)?\b(?:{w.feelings}|{w.postures})\b|"
            r"\b(?:expression|pose|posture|gesture|gaze)\b|"
            r"^(?:close|open) (?:his|her|the|their|its) (?:[\w']+ )?(?:eyes?|mouth)|^rais(?:e) (?:his|her|their|the)|"
            r"^smile$|"
            rf"^(?:make|let|have) (?:him|her|them|it) {w.postures}|^(?:turn|tilt) .*\bhead\b"
        ),
        "on_person": (
            rf"\b(?:to|on|onto|for|of|off) (?:the |his |her |their |this )?(?:[\w-]+ ){{0,2}}?(?:{w.people}|face|"
            r"head)\b(?!'s (?:left|right))"
        ),
        "replace": (
            r"^(?:replace|substitute|exchange)\b|"
            r"^(?:swap|switch)\b.* (?:for|with|to|out) |\b(?:in place of|instead of)\b|"
            r"^(?:make|turn|change|transform|convert|morph|have|let|swap)\b (?!.*(?:an?|the) (?:[\w-]+ "
            rf"){{0,3}}?{w.not_replaced}\b)(?:the |this |that |his |her |its |all |both |every |him|them|everyone|each "
            r").*?\b(?:into|to be|to|be|as|become|becomes|in)?\b ?\b(?:an?|another|some) (?!bit |little |lot |pair of "
            r"\w+ \w+er)[\w-]+|"
            r"^(?:make|turn|change|transform|convert)\b .+ (?:into|to) (?:the |his |her )?[\w-]+|"
            r"\bso (?:that )?(?:it|he|she)(?:'s| is| becomes| looks like) an? |"
            r"^(?:(?:can|could|should) )?the .+ (?:should|could|be|is now|becomes?|turns? into)(?: be)? an? "
        ),
        "attribute_end": (
            rf"\b(?:{w.colours}|{w.materials}|{w.looks})(?: (?:hair|colou?r|look|texture|fur|paint|pattern|material|"
            rf"finish|stripes|dots|leaves|skin|walls?))?(?: and (?:{w.colours}|{w.materials}|{w.looks}))?$|"
            r"\b(?:colou?r|hue|shade|material|texture|finish)\b|\bmade (?:out )?of\b|\bhair\b|\b(?:more|less) \w+$|"
            r"(?<! a)(?<! an) \w+er$"
        ),
        "change": (
            rf"^{w.change_verbs}\b|"
            r"^(?:the|his|her|its|their) .+ (?:should|could) (?:be|have|look)\b|"
            r"^(?:it|they) (?:should|could) (?:be|have)\b"
        ),
        "replaces": (
            r"^(?:replace|substitute|exchange|swap|switch|trade)(?: out)? (?P<what>.+?) (?:with|for|by|to|into) "
            r"(?P<new>.+)$"
        ),
        "puts_new": (
            rf"^(?:put|place|draw|paint|show|set|have|let|position|hang|plant|write|insert|render|stick|build|"
            rf"park)(?: there be)? "
            rf"(?P<what>(?:an?|some|another|more|a few|{w.numbers}) .+|(?!(?:the|this|that|his|her|its|their|all|"
            rf"both|every|"
            rf"it|him|them|everything|everyone|{w.images}|on|up|in|at|{w.people})\b)[\w-]+(?: [\w-]+)? (?:on|in|onto|"
            rf"into|next|to|"
            r"over|around|under|behind|beside|at)\b.*|QUOTE.*)$"
        ),
        "moves": (
            r"^(?:move|shift|relocate|reposition|bring|drag|slide|push|pull|take|put|place|set|position|send|"
            r"transport|teleport|"
            r"lay|hang)\b (?!back\b)(?P<what>(?:the|this|that|his|her|its|their|all|both|every|it|him|them|"
            r"everyone)\b.*?) "
            r"(?:be )?(?P<goal>(?:(?:a bit |slightly |further |closer |more |all the way |much |over )*(?:to|into|"
            r"onto|left|right|up|down|"
            r"upwards?|downwards?|closer|away|back|forwards?|towards?|higher|lower|over|on|in|at|inside|next|beside|"
            r"behind|under|near|"
            r"underneath|in front|between|against|above|below|from|across|on top|underwater|outdoors|indoors|"
            r"outside)\b).*)$"
        ),
        "into_clothes": r"^(?:in|into) (?:an? |some |his |her |the )?",
        "new_place": rf"\b{w.place}",
        "known_goal": (
            r"^(?:a bit |slightly |further |closer |more |all the way |much |over )*(?:(?:left|right|up|down|"
            r"upwards?|downwards?|"
            r"closer|away|back|forwards?|higher|lower|over|further)\b|(?:to|into|onto|on|in|at|inside|next to|beside|"
            r"behind|under|near|"
            r"underneath|in front of|between|against|above|below|towards?|from|across|on top of|over) (?:(?:the|his|"
            r"her|its|their|this|"
            r"that)\b|front|left|right))"
        ),
        "close_up_of": (rf"\b(?:zoom(?:ed)?[ -]in|close[- ]?up|focus) (?:on|to|of|into|at) (?!{w.whole}$)"),
        "lit": r"\b(?:light|lit|lighting|sun|sunlight|sunshine|lamp|shadows?|glow|illuminat\w+|golden hour|ray|rays)\b",
        "extends": (
            rf"^(?:outpaint|uncrop)\b|^(?:extend|expand|enlarge|widen|continue) (?:{w.whole}|the (?:canvas|borders?|"
            rf"view|edges?|frame|"
            r"field of view|background))\b"
        ),
        "wears": (
            rf"^(?:(?:make|let|have|show|get|give|draw) )?(?:what if )?(?P<what>(?:{w.who}|[\w' -]{{1,40}}?)) (?:to |"
            rf"should |could |must |"
            r"be |is |now |in )*(?:wear|wears|wore|wearing|dressed in)\b (?!no\b)|"
            rf"^(?:show|draw|have|let|get|put) (?P<what4>{w.who}) in (?:an? |the |some |his |her |a pair of "
            rf")?(?:[\w-]+ ){{0,3}}?{w.garments}$|"
            rf"^dress (?P<what2>.+?) (?:in|up as|as|with)\b|"
            rf"^(?:put|draw|place) .*\bon (?:the |his |her |their |this )?(?:[\w-]+ ){{0,2}}?(?:face|head)(?P<what3>)$"
        ),
        "instead": r"\binstead of\b",
        "gives_new": (
            rf"^give (?P<what>him|her|he|she|they|it|them|everyone|everybody|(?:the|this|his|her|their|its|all|both|"
            rf"every) (?:[\w'-]+ )*?(?!(?:the|his|her|their|its|an?|on|in|at|with|of)\b)[\w'-]+) "
            rf"(?P<new>(?:an?|some|more|another|{w.numbers}|the (?:colou?r|size|look|shape)) .+|(?:(?:[\w-]+ "
            rf"){{0,3}}?(?:{w.hair}|{w.makeup}|{w.facial_hair}|"
            rf"{w.parts}|{w.garments}))(?: {w.prepositions}\b.*)?)$"
        ),
        "vague_gift": (
            r"\b(?:look|vibe|feel|feeling|touch|mood|atmosphere|makeover|job|treatment|appearance|aesthetic|life|"
            r"effect|style|break|"
            r"chance|character|glow|light|lighting|tone|hug|kiss)$"
        ),
        "acts": (
            rf"^(?:make|let|have|get|show) (?P<what>.+?) (?P<new>(?:to )?(?:(?:be |look |appear |now "
            rf")+(?:{w.feelings}|{w.postures}|"
            rf"{w.place}).*|(?!\w+ing\b)(?:{w.postures})\b.*|(?:stand|be|live|stay|walk|sit|run|swim|play)\w* "
            rf"{w.place}.*))$"
        ),
        "pose_statement": (
            rf"^(?:now )?(?:the|this|his|her|a) (?:[\w-]+ ){{0,3}}?(?:{w.people}|{w.animals}) (?:{w.gestures})\b"
        ),
        "stays_somewhere": (
            rf"^(?:to )?(?:be |stand |live |stay |standing |)(?:standing )?{w.place}(?:$| with| and| at| of)"
        ),
        "changes_by_look": (
            rf"^(?:make|turn|change|convert|have|let|paint|repaint|colou?r|recolou?r|dye|tint|cover|render|get|draw) "
            rf"(?P<what>\S.*?)(?<!\bthe)(?<!\bhis)(?<!\bits)(?<!\btheir)(?<!\ba)(?: (?:be|look|appear|become|into|to|"
            rf"to be|go|in|with|as))? (?P<new>{w.any_look})$"
        ),
        "changes_to": (
            r"^(?:turn|change|convert|transform|morph|switch|alter|modify|adjust|make|have|let|redesign|restyle|"
            r"remake|set|render|"
            r"redraw|update|edit) (?P<what>(?:the|this|that|his|her|its|their|all|both|every|it|him|them|everyone|"
            r"each)\b.*?) "
            r"(?:back )?(?P<joint>into|to be|(?<!next )(?<!close )(?<!front )to look like|(?<!next )(?<!close "
            r")(?<!due )(?<!adjacent )(?<!side )to|"
            r"(?:be|become|look) like|be|become|look|as) (?P<new>(?!the (?:very )?(?:left|right|top|bottom)\b)[^.]+)$"
        ),
        "in_place_of": r"^in place of ",
        "turn_around": r"^turn around$",
        "shows": (
            r"^(?:show|view|look|see|redraw|draw|render|change|make|turn|zoom|rotate|move|shift|take|switch|give|let|"
            r"have|tilt|pan|use|the|as|from|an?)\b"
        ),
        "lets_be": r"^(?:let|have) (?:an?|another|some|there be) ",
        "holds": r"\b(?:hold|holding|carry|carrying) (?:an?|some) ",
        "has_no": r"^have no ",
        "who_or_expression": rf"\b{w.who}|^(?:smile|raise|close|open)\b|\bexpression\b",
        "puts_instead": r"^(?:put|draw|place|paint)\b.*\bin(?:stead| place) of\b",
        "size_last": r" (?:small(?:er)?|big(?:ger)?|large(?:r)?|tall(?:er)?)$",
        "people_or_face": rf"\b(?:{w.people}|faces?)\b",
        "people_or_wear": rf"\b(?:{w.people}|wear\w*)\b",
        "face_words": rf"\b{w.face_words}\b",
        "animals": rf"\b{w.animals}\b",
        "puts": rf"^{w.put_verbs} ",
        "whole_object": rf"^\w+ {w.whole}\b(?! \w+ (?:at|on|in) )",
        "becomes_thing": (
            rf"\b(?:into|to|for|with|be) an? (?:[\w-]+ )*(?!{w.not_replaced}$)(?!(?:{w.colours}|{w.looks})$)[\w-]+$"
        ),
        "changes_a": (
            r"^(?:make|let|have|turn) (?P<what>(?:the|this|that|his|her|its|their|all|both|every|it|him|them|"
            r"each)\b(?: .*?)?"
            r"(?<! in)(?<! on)(?<! at)(?<! of)(?<! with)(?<! to)(?<! as)(?<! like)(?<! for)(?<! into)(?<! by)(?<! "
            r"near)(?<!ing)(?<! hold)"
            r"(?<! wear)(?<! have)(?<! behind)(?<! under)(?<! over)(?<! eat)(?<! drink)(?<! read)) (?P<new>(?:an?|"
            r"another) .+)$"
        ),
        "changes_whole": (
            rf"^(?:make|turn|have|let|render|show) (?P<what>{w.whole}(?: of [\w' -]+?)?) (?:look (?:like |as )?|be |"
            rf"into |to |in |appear )*(?P<new>.+)$"
        ),
        "grades": (
            r"^(?:increase|decrease|reduce|boost|raise|lower|intensify|soften|strengthen|tone down|turn (?:up|down)) "
            r"the (?P<what>.+)$"
        ),
        "ages": (r"^(?:age|de-age|rejuvenate)\b"),
        "lights_up": (rf"^(?:light|illuminate|backlight|relight|light up) (?:{w.whole}|the (?:scene|room|subject))\b"),
        "colours_whole": (rf"^(?:colou?ri[sz]e|add colou?rs? to) (?:{w.whole}|the|this)\b"),
        "and_back": (r"\band back$"),
        "eyes": (r"^(?:open|close|shut)\b.*\beyes?\b"),
        "new_thing_below": (r"\b(?:in|on|with|at) an? "),
    }
