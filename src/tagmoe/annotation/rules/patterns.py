"""The regular expressions with which `words` reads an instruction, made of the lists of `words.yaml`.

They fit one clause in lower case; quoted text in it has become the word QUOTE.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from types import SimpleNamespace

from tagmoe.annotation.rules.word_lists import WordLists, any_of, packaged_words


@cache
def packaged_patterns() -> Mapping[str, re.Pattern[str]]:
    """The patterns of the lists that ship, made once."""
    return patterns_of(packaged_words())


def patterns_of(words: WordLists) -> dict[str, re.Pattern[str]]:
    """Compiled patterns, each by the name of what it finds."""
    w = SimpleNamespace(**{name: any_of(entries) for name, entries in words.items()})
    verbs = any_of([*words["other_verbs"], *words["change_verbs"]])
    clothes = f"{w.clothes}s?"
    whole = rf"(?:this|it|that|(?:the|this) (?:whole |entire |full |overall )?{w.images})"
    who = (
        rf"(?:the |a |an |this |that |his |her |their )?(?:[\w-]+ ){{0,3}}?(?:{w.people}|{w.animals}|face|it|them|they|"
        r"eyes|mouth)"
    )
    sources = {
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
            rf"\b(?:all|every|each|both|everything|everyone|everybody|{w.numbers}(?= (?:more )?(?:\w+ )?\w+s\b))\b"
        ),
        "as_one": r"\b(?:all of it|all over|every(?:where)|pair of)\b",
        "plural_object": (
            r"^\w+ (?:the |his |her |its |their |some |a few |a couple of |more )?(?:(?!(?:with|for|to|into|in|on|of|"
            r"from|at|and|by|like|as) )[\w-]+ ){0,2}?(?:people|men|women|children|"
            rf"(?!{w.singular_in_s}\b)\w{{2,}}[^su\W]s)\b"
        ),
        "preamble": (
            r"^(?:please|kindly|now|ok(?:ay)?|also|and|then|finally|next|(?:can|could|would|will) (?:you|we|i)(?: "
            r"please)?|let's|let us|i (?:want|would like|wish)(?: you)? to|i'd like(?: you)? to|what if|as if|if|we "
            r"(?:need|want) to|you should)\b[ ,]*"
        ),
        "between_clauses": (
            r"[.;!?]+\s+|,? (?:and )?then |"
            rf",? and (?:also )?(?={verbs}\b(?! (?:back|places)\b))|, (?:also )?(?={verbs}\b)"
        ),
        "quoted": (r"(?<!\w)['\"][^'\"]{1,80}['\"](?!\w)|[\u201c\u2018][^\u201d\u2019]{1,80}[\u201d\u2019]"),
        "locative": r"^(?:at|on|in|to|next to|behind|near|under|above) (?:the|his|her|its) [^,]{2,40}, ",
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
        "control_map": (
            r"\b(?:this|given|from the|the given) map\b|"
            r"\b(?:depth|canny|edge|edges|hed|pose|segmentation|normal|line ?art) (?:map|image|condition)\b|"
            r"\b(?:scribble|skeleton) (?:map|image|condition)\b"
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
            rf"^(?:set|have|put|place|move|send|take|transport|make) (?:{whole}|him|her|them|(?:the|this) "
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
            rf"{w.lights}\b(?! {w.colours}\b)|"
            r"\b(?:lighting|relight|time of (?:the )?day|season|weather|exposure|shadows?|sunlight|sunshine|golden "
            r"hour)\b|"
            rf"\b(?:make|turn) {whole} (?:look )?(?:more |much |a bit |a little |slightly |into )?(?:an? "
            rf")?{w.lights}\b|"
            rf"^(?:brighten|darken|dim|lighten|relight)(?: up)?(?: {whole})?\b|"
            rf"^(?:make|turn) (?:{whole}|the (?:sky|room|sun|street)) (?:look )?(?:more |much |a bit |a little |"
            rf"slightly )?{w.tones}\b|"
            r"\b(?:turn|switch|change) (?:on |off |down |up )?(?:the |all the )?(?:street |room |stage )?lights?\b|"
            r"^(?:what if |as if |if )?(?:it|there)(?:'s| is| was| were| should be| could be)? (?:now )?(?:a |an "
            rf")?{w.lights}\b|\blet it (?:rain|snow)\b|\bmake it (?:rain|snow)\b"
        ),
        "light_added": (
            r"\b(?:fog|mist|haze|rain|snowfall|snow|sunlight|sunshine|moonlight|sun ?rays|sunbeams|light(?:ing)?|"
            r"shadows?|sunset|sunrise|lens flare|storm|thunderstorm|glare|lightning|glow)\b$|"
            r"^ (?:an? |some |the |more |heavy |light |soft |warm |dense |dramatic |falling )*(?:fog|mist|haze|rain|"
            r"snow|sunlight|sunshine|lighting|shadows?|sunset|sunrise|moonlight|snowfall|storm|lightning|glare)\b"
        ),
        "style_word": rf"\bstyles?\b|\bstyli[sz]ed?\b|\b{w.styles}\b",
        "style_whole": (
            rf"\b{whole}(?: (?:to|into|as|look|looks|like|be|were|was|is|a|an|the|should|could|it|more|in|back|by))* "
            rf"(?:[\w'-]+ ){{0,3}}?{w.styles}\b|"
            r"\b(?:in|to|into|with|using) (?:an? |the )?(?:[\w'-]+ ){0,4}style\b|\bstyle (?:of|to)\b|"
            r"\bas if (?:it (?:was|were) )?(?:painted|drawn)\b|"
            r"^(?:styli[sz]e|cartoonify|colou?ri[sz]e)\b|\b(?:the|this) style\b|"
            rf"^(?:make|turn|convert) (?:to|into) (?:an? )?{w.styles}|"
            rf"\bback (?:in)?to an? [\w -]{{0,20}}{w.images}$|"
            rf"\b{whole} (?:back )?(?:to|into|as|a) (?:an? )?[\w-]+ {w.images}$|"
            rf"^(?:an? )?(?:[\w'-]+ ){{0,3}}{w.styles}(?: style)?$|"
            r"\b(?:painted|drawn|made) (?:by|like) [a-z]+|\b(?:photo )?filter\b"
        ),
        "pose": (
            rf"\b{who}(?:'s)?(?: (?:[\w-]+ ){{0,4}}?)?\b(?:{w.feelings}|{w.postures})\b|"
            r"\b(?:expression|pose|posture|gesture|gaze)\b|"
            r"^(?:close|open) (?:his|her|the|their|its) (?:[\w']+ )?(?:eyes?|mouth)|^rais(?:e) (?:his|her|their|the)|"
            r"^smile$|"
            rf"^(?:make|let|have) (?:him|her|them|it) {w.postures}|^(?:turn|tilt) .*\bhead\b"
        ),
        "wear": (
            r"\b(?:wear|wears|wearing|dressed in|dress (?:him|her|them|it|the))\b|"
            rf"^put .*\bon (?:the |his |her |their |this )?(?:[\w-]+ ){{0,2}}?(?:{w.people}|face|head|{w.animals})\b|"
            rf"^(?:give|have|show|draw|let) {who} (?:in |with |have |a pair of |on )*(?:an? |some |the )?(?:[\w-]+ "
            rf"){{0,3}}?{clothes}\b|"
            rf"^(?:draw|add|place) .*{clothes} (?:on|to) "
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
        # A clause with one of these words goes on after the look that it names.
        "goes_on": r"^\w+ .* (?:an?|like|on|with|was|were|that|so|of|as|set|go|come|be) ",
        "noun_phrase": (
            r"^ ?(?P<head>.*?)(?= (?:from|of|on|in|at|behind|with|wearing|near|next|by|under|who|that|holding|to|for|"
            r"into)\b|$)"
        ),
        "QUOTE": r"QUOTE",
        "in_place_of": r"^in place of ",
        "turn_around": r"^turn around$",
        "shows": (
            r"^(?:show|view|look|see|redraw|draw|render|change|make|turn|zoom|rotate|move|shift|take|switch|give|let|"
            r"have|tilt|pan|use|the|as|from|an?)\b"
        ),
        "lets_be": r"^(?:let|have) (?:an?|another|some|there be) ",
        "holds": r"\b(?:hold|holding|carry|carrying) (?:an?|some) ",
        "has_no": r"^have no ",
        "who_or_expression": rf"\b{who}|^(?:smile|raise|close|open)\b|\bexpression\b",
        "hair": r"\bhair\b",
        "puts_instead": r"^(?:put|draw|place|paint)\b.*\bin(?:stead| place) of\b",
        "size_last": r" (?:small(?:er)?|big(?:ger)?|large(?:r)?|tall(?:er)?)$",
        "replaces": r"^(?:replace|substitute)\b",
        "replaced_first": r"^\w+ (?P<first>.*?) (?:with|for|into|to|by|an?)\b",
        "gives": r"^(?:have|give|let|show)\b.* (?:an?|some|with) ",
        # Parts of what is removed or added.
        "style_removed": r"^ (?:the |this |any )?(?:[\w-]+ )?(?:style|filter|effect)\b",
        "light_removed": r"^ (?:the |all (?:the )?|any )?(?:fog|mist|haze|rain|glare|shadows?|snowfall)\b",
        "text_added": r"\b(?:text|caption|watermark)\b",
        "lamp": r"\b(?:lamp|bulb|string|street) ",
        "style_added": r"\b(?:filter|style|effect)\b",
        "background_added": r"^ (?:an? |the )?(?:[\w-]+ ){0,3}(?:background|backdrop)$",
        # Parts of a clause.
        "people": rf"\b{w.people}\b",
        "people_or_face": rf"\b(?:{w.people}|faces?)\b",
        "people_or_wear": rf"\b(?:{w.people}|wear\w*)\b",
        # The person itself, not a thing of theirs ("the man's hat", "the player model").
        "person_itself": rf"\b{w.people}\b(?! ?(?:'s)? \w)",
        "person_last": rf"\b{w.people}$",
        "face_words": rf"\b{w.face_words}\b",
        "animals": rf"\b{w.animals}\b",
        "clothes": clothes,
        "garment": rf"\b{clothes}\b",
        "puts_something": rf"^{w.put_verbs} (?:an?|some|another|{w.numbers}|more) ",
        "puts": rf"^{w.put_verbs} ",
        "whole_object": rf"^\w+ {whole}\b(?! \w+ (?:at|on|in) )",
        "gives_part": rf"^give .* an? (?:[\w-]+ )*{w.parts}$",
        "becomes_thing": (
            rf"\b(?:into|to|for|with|be) an? (?:[\w-]+ )*(?!{w.not_replaced}$)(?!(?:{w.colours}|{w.looks})$)[\w-]+$"
        ),
    }
    return {name: re.compile(source) for name, source in sources.items()}
