"""The regular expressions with which `words` reads an instruction, made of the lists of `words.yaml`.

They fit one clause in lower case; quoted text in it has become the word QUOTE.
"""

from __future__ import annotations

import re
from functools import cache

from tagmoe.annotation.rules.word_lists import WordLists, any_of, packaged_words


@cache
def packaged_patterns() -> Patterns:
    """The patterns of the lists that ship, made once."""
    return Patterns(packaged_words())


class Patterns:
    """Compiled patterns, each by the name of what it finds."""

    def __init__(self, words: WordLists) -> None:
        people, animals, clothes, parts = map(any_of, (words.people, words.animals, words.clothes, words.parts))
        colours, materials, looks = map(any_of, (words.colours, words.materials, words.looks))
        styles, places, lights, tones = map(any_of, (words.styles, words.places, words.lights, words.tones))
        feelings, postures = any_of(words.feelings), any_of(words.postures)
        put_verbs, change_verbs = any_of(words.put_verbs), any_of(words.change_verbs)
        verbs = any_of([*words.other_verbs, *words.change_verbs])
        numbers, singular_in_s = any_of(words.numbers), any_of(words.singular_in_s)
        images, not_replaced = any_of(words.images), any_of(words.not_replaced)
        clothes = f"{clothes}s?"
        whole = rf"(?:this|it|that|(?:the|this) (?:whole |entire |full |overall )?{images})"

        self.view = re.compile(
            r"\b"
            r"(?:from (?:behind|above|below|the (?:side|back|front|top|left|right|rear|air|other side)|overhead|(?:a|"
            r"an|another) (?:\w+ )?(?:angle|viewpoint|perspective|view|point of view|side|distance))|from (?:the|a) "
            r"(?:ceiling|ground|floor|street|balcony|window|corner|sky|distance|roof|rooftop|plane|drone)|(?:the|its) "
            r"(?:back|front|side|other side|underside|top) of the|zoom(?:ed)?[ -](?:in|out)|bird'?s[- ]eye|"
            r"worm'?s[- ]eye|aerial (?:view|shot)|top[- ]down|close[- ]?up|wide[- ](?:angle|shot)|(?:side|back|front|"
            r"rear|top) view|(?:(?<!at the )(?<!towards the )(?<!toward the )(?<!face the )(?<!facing the )(?<!for the "
            r")camera|viewpoint|perspective|point of view|viewing angle|view angle))\b"
        )
        self.several = re.compile(
            rf"\b(?:all|every|each|both|everything|everyone|everybody|{numbers}(?= (?:more )?(?:\w+ )?\w+s\b))\b"
        )
        self.as_one = re.compile(r"\b(?:all of it|all over|every(?:where)|pair of)\b")
        self.plural_object = re.compile(
            r"^\w+ (?:the |his |her |its |their |some |a few |a couple of |more )?(?:(?!(?:with|for|to|into|in|on|of|"
            r"from|at|and|by|like|as) )[\w-]+ ){0,2}?(?:people|men|women|children|"
            rf"(?!{singular_in_s}\b)\w{{2,}}[^su\W]s)\b"
        )
        self.preamble = re.compile(
            r"^(?:please|kindly|now|ok(?:ay)?|also|and|then|finally|next|(?:can|could|would|will) (?:you|we|i)(?: "
            r"please)?|let's|let us|i (?:want|would like|wish)(?: you)? to|i'd like(?: you)? to|what if|as if|if|we "
            r"(?:need|want) to|you should)\b[ ,]*"
        )
        self.between_clauses = re.compile(
            r"[.;!?]+\s+|,? (?:and )?then |"
            rf",? and (?:also )?(?={verbs}\b(?! (?:back|places)\b))|, (?:also )?(?={verbs}\b)"
        )
        self.quoted = re.compile(
            r"(?<!\w)['\"][^'\"]{1,80}['\"](?!\w)|[\u201c\u2018][^\u201d\u2019]{1,80}[\u201d\u2019]"
        )
        self.locative = re.compile(r"^(?:at|on|in|to|next to|behind|near|under|above) (?:the|his|her|its) [^,]{2,40}, ")
        self.remove = re.compile(
            r"^(?:remove|delete|erase|eliminate|get rid of|clear|wipe(?: out| away)?|take (?:off|away|out)|strip|crop "
            r"out|edit out|hide|lose)\b(?P<what>.*)$|"
            r"^(?:take|cut|get) (?P<what2>(?:the|his|her|all|every|a|that|this) .*?) (?:away|off|out)\b|"
            r"^(?:make|let|have) (?P<what3>.+?) (?:disappear|vanish|be gone)\b|"
            r"^(?:make|let|have) .+? (?:take off|remove) (?P<what4>.*)$"
        )
        self.without = re.compile(
            r"\b(?:with no|without(?: an?| the| his| her)?|wears? no|is no longer wearing|stop wearing|not "
            r"wear(?:ing)?) [\w-]+"
        )
        self.add = re.compile(
            r"^(?:add|insert|include|introduce|attach|(?:there|it) (?:should|could|must) (?:be|have)(?= (?:an?|some|"
            r"another|more) )|there (?:is|was|were|are)|(?:it|she|he|they|(?:the|his|her|their) .{2,40}?) (?:needs?|"
            r"(?:should|could|must) have)(?= (?:an?|some|another|more) )|let there be|create|write|"
            r"apply)\b(?P<what>.*)$"
        )
        self.control_map = re.compile(
            r"\b(?:this|given|from the|the given) map\b|"
            r"\b(?:depth|canny|edge|edges|hed|pose|segmentation|normal|line ?art) (?:map|image|condition)\b|"
            r"\b(?:scribble|skeleton) (?:map|image|condition)\b"
        )
        self.text = re.compile(
            r"\b(?:text|words?|letters?|lettering|caption|slogan|headline|title|logo text)\b|"
            r"\b(?:say|says|saying|read|reads|reading|spell|write|written) QUOTE"
        )
        self.swap = re.compile(
            r"^(?:swap|switch|exchange|interchange)\b(?!.* (?:for|with|to|into) ).* and |"
            r"\b(?:swap|switch|trade|exchange) (?:their )?(?:places|positions)|"
            r"^(?:let|have|make) .* and .* (?:swap|switch)$|"
            r"\b(?:swap|switch|exchange) the (?:places|positions) of\b"
        )
        self.move = re.compile(
            r"^(?:move|shift|relocate|reposition|bring|drag|slide|push|pull|take)\b(?! (?:the )?camera).*\b(?:to|into|"
            r"onto|left|right|up|down|closer|away|back|forward|toward|towards|higher|lower|over)\b"
        )
        self.to_a_place = re.compile(
            r"\b(?:at|to|in|on|into) the (?:very )?(?:(?:top|bottom|upper|lower|far|middle|center|centre) "
            r"?-?){0,2}(?:top|bottom|left|right|middle|center|centre|corner|foreground|edge)\b"
        )
        self.resize = re.compile(
            r"^(?:shrink|enlarge|grow|resize|scale)\b|"
            r"\b(?:small(?:er)?|bigger|big|larger?|huge|tiny|taller|shorter|wider|giant|(?:twice|double|half) (?:as|"
            r"the|its))$|"
            r"\b(?:bigger|smaller|larger|taller|wider)\b|\bsize\b"
        )
        self.background = re.compile(
            r"(?<!in the )(?<!from the )(?<!into the )(?<!to the )\b(?:background|backdrop|surroundings)\b"
        )
        self.behind = re.compile(
            rf"^(?:change|replace|turn|make|blur|swap) .*\bbehind (?:him|her|them|it|the (?:{people}|subject))\b|"
            r"^(?:change|replace) the (?:scenery|setting|location|surroundings)\b|"
            r"^(?:replace|change|swap|turn|make) the sky .*\b(?:with|to|into|for|an?)\b"
        )
        self.setting = re.compile(
            r"\b(?:setting|location|scenery)\b|\btakes? place (?:in|on|at)\b|"
            rf"^(?:set|have|put|place|move|send|take|transport|make) (?:{whole}|him|her|them|(?:the|this) "
            r"[\w ]{2,25}?)(?: be)? (?:(?:in|on|at|to|into|onto|inside|near) (?:an? |the |some )?(?:[\w-]+ "
            rf"){{0,2}}{places}|underwater|outdoors|indoors|outside|inside)\b"
        )
        self.setting_of_people = re.compile(
            r"^(?:have|let|make) (?:him|her|them|it|the [\w ]{2,25}?) (?:be|stand|walk|live|stay) (?:on|in|at) (?:an? |"
            rf"the )?(?:[\w-]+ ){{0,2}}{places}$"
        )
        self.light = re.compile(
            r"\b(?:at|by|during|in|into|to|under|it'?s?|it is|it were|was|is|be|look like|like|as|of|to be|now|back "
            r"the|more|very|a|the)(?: the| a| an| full| bright| warm| soft| heavy| dense| stormy| like)* "
            rf"{lights}\b(?! {colours}\b)|"
            r"\b(?:lighting|relight|time of (?:the )?day|season|weather|exposure|shadows?|sunlight|sunshine|golden "
            r"hour)\b|"
            rf"\b(?:make|turn) {whole} (?:look )?(?:more |much |a bit |a little |slightly |into )?(?:an? )?{lights}\b|"
            rf"^(?:brighten|darken|dim|lighten|relight)(?: up)?(?: {whole})?\b|"
            rf"^(?:make|turn) (?:{whole}|the (?:sky|room|sun|street)) (?:look )?(?:more |much |a bit |a little |"
            rf"slightly )?{tones}\b|"
            r"\b(?:turn|switch|change) (?:on |off |down |up )?(?:the |all the )?(?:street |room |stage )?lights?\b|"
            r"^(?:what if |as if |if )?(?:it|there)(?:'s| is| was| were| should be| could be)? (?:now )?(?:a |an "
            rf")?{lights}\b|\blet it (?:rain|snow)\b|\bmake it (?:rain|snow)\b"
        )
        self.light_added = re.compile(
            r"\b(?:fog|mist|haze|rain|snowfall|snow|sunlight|sunshine|moonlight|sun ?rays|sunbeams|light(?:ing)?|"
            r"shadows?|sunset|sunrise|lens flare|storm|thunderstorm|glare|lightning|glow)\b$|"
            r"^ (?:an? |some |the |more |heavy |light |soft |warm |dense |dramatic |falling )*(?:fog|mist|haze|rain|"
            r"snow|sunlight|sunshine|lighting|shadows?|sunset|sunrise|moonlight|snowfall|storm|lightning|glare)\b"
        )
        self.style_word = re.compile(rf"\bstyles?\b|\bstyli[sz]ed?\b|\b{styles}\b")
        self.style_whole = re.compile(
            rf"\b{whole}(?: (?:to|into|as|look|looks|like|be|were|was|is|a|an|the|should|could|it|more|in|back|by))* "
            rf"(?:[\w'-]+ ){{0,3}}?{styles}\b|"
            r"\b(?:in|to|into|with|using) (?:an? |the )?(?:[\w'-]+ ){0,4}style\b|\bstyle (?:of|to)\b|"
            r"\bas if (?:it (?:was|were) )?(?:painted|drawn)\b|"
            r"^(?:styli[sz]e|cartoonify|colou?ri[sz]e)\b|\b(?:the|this) style\b|"
            rf"^(?:make|turn|convert) (?:to|into) (?:an? )?{styles}|"
            rf"\bback (?:in)?to an? [\w -]{{0,20}}{images}$|"
            rf"\b{whole} (?:back )?(?:to|into|as|a) (?:an? )?[\w-]+ {images}$|"
            rf"^(?:an? )?(?:[\w'-]+ ){{0,3}}{styles}(?: style)?$|"
            r"\b(?:painted|drawn|made) (?:by|like) [a-z]+|\b(?:photo )?filter\b"
        )
        who = (
            rf"(?:the |a |an |this |that |his |her |their )?(?:[\w-]+ ){{0,3}}?(?:{people}|{animals}|face|it|them|they|"
            r"eyes|mouth)"
        )
        self.pose = re.compile(
            rf"\b{who}(?:'s)?(?: (?:[\w-]+ ){{0,4}}?)?\b(?:{feelings}|{postures})\b|"
            r"\b(?:expression|pose|posture|gesture|gaze)\b|"
            r"^(?:close|open) (?:his|her|the|their|its) (?:[\w']+ )?(?:eyes?|mouth)|^rais(?:e) (?:his|her|their|the)|"
            r"^smile$|"
            rf"^(?:make|let|have) (?:him|her|them|it) {postures}|^(?:turn|tilt) .*\bhead\b"
        )
        self.wear = re.compile(
            r"\b(?:wear|wears|wearing|dressed in|dress (?:him|her|them|it|the))\b|"
            rf"^put .*\bon (?:the |his |her |their |this )?(?:[\w-]+ ){{0,2}}?(?:{people}|face|head|{animals})\b|"
            rf"^(?:give|have|show|draw|let) {who} (?:in |with |have |a pair of |on )*(?:an? |some |the )?(?:[\w-]+ "
            rf"){{0,3}}?{clothes}\b|"
            rf"^(?:draw|add|place) .*{clothes} (?:on|to) "
        )
        self.on_person = re.compile(
            rf"\b(?:to|on|onto|for|of|off) (?:the |his |her |their |this )?(?:[\w-]+ ){{0,2}}?(?:{people}|face|"
            r"head)\b(?!'s (?:left|right))"
        )
        self.replace = re.compile(
            r"^(?:replace|substitute|exchange)\b|"
            r"^(?:swap|switch)\b.* (?:for|with|to|out) |\b(?:in place of|instead of)\b|"
            r"^(?:make|turn|change|transform|convert|morph|have|let|swap)\b (?!.*(?:an?|the) (?:[\w-]+ "
            rf"){{0,3}}?{not_replaced}\b)(?:the |this |that |his |her |its |all |both |every |him|them|everyone|each "
            r").*?\b(?:into|to be|to|be|as|become|becomes|in)?\b ?\b(?:an?|another|some) (?!bit |little |lot |pair of "
            r"\w+ \w+er)[\w-]+|"
            r"^(?:make|turn|change|transform|convert)\b .+ (?:into|to) (?:the |his |her )?[\w-]+|"
            r"\bso (?:that )?(?:it|he|she)(?:'s| is| becomes| looks like) an? |"
            r"^(?:(?:can|could|should) )?the .+ (?:should|could|be|is now|becomes?|turns? into)(?: be)? an? "
        )
        self.attribute_end = re.compile(
            rf"\b(?:{colours}|{materials}|{looks})(?: (?:hair|colou?r|look|texture|fur|paint|pattern|material|finish|"
            rf"stripes|dots|leaves|skin|walls?))?(?: and (?:{colours}|{materials}|{looks}))?$|"
            r"\b(?:colou?r|hue|shade|material|texture|finish)\b|\bmade (?:out )?of\b|\bhair\b|\b(?:more|less) \w+$|"
            r"(?<! a)(?<! an) \w+er$"
        )
        self.change = re.compile(
            rf"^{change_verbs}\b|"
            r"^(?:the|his|her|its|their) .+ (?:should|could) (?:be|have|look)\b|"
            r"^(?:it|they) (?:should|could) (?:be|have)\b"
        )
        # A clause with one of these words goes on after the look that it names.
        self.goes_on = re.compile(r"^\w+ .* (?:an?|like|on|with|was|were|that|so|of|as|set|go|come|be) ")
        self.noun_phrase = re.compile(
            r"^ ?(?P<head>.*?)(?= (?:from|of|on|in|at|behind|with|wearing|near|next|by|under|who|that|holding|to|for|"
            r"into)\b|$)"
        )

        # Parts of a clause.
        self.people = re.compile(rf"\b{people}\b")
        self.people_or_face = re.compile(rf"\b(?:{people}|faces?)\b")
        self.people_or_wear = re.compile(rf"\b(?:{people}|wear\w*)\b")
        # The person itself, not a thing of theirs ("the man's hat", "the player model").
        self.person_itself = re.compile(rf"\b{people}\b(?! ?(?:'s)? \w)")
        self.person_last = re.compile(rf"\b{people}$")
        self.face_words = re.compile(rf"\b{any_of(words.face_words)}\b")
        self.animals = re.compile(rf"\b{animals}\b")
        self.who = re.compile(rf"\b{who}")
        self.clothes = re.compile(clothes)
        self.garment = re.compile(rf"\b{clothes}\b")
        self.puts_something = re.compile(rf"^{put_verbs} (?:an?|some|another|{numbers}|more) ")
        self.puts = re.compile(rf"^{put_verbs} ")
        self.whole_object = re.compile(rf"^\w+ {whole}\b(?! \w+ (?:at|on|in) )")
        self.gives_part = re.compile(rf"^give .* an? (?:[\w-]+ )*{parts}$")
        self.becomes_thing = re.compile(
            rf"\b(?:into|to|for|with|be) an? (?:[\w-]+ )*(?!{not_replaced}$)(?!(?:{colours}|{looks})$)[\w-]+$"
        )
