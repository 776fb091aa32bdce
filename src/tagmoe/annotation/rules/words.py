"""What an English editing instruction asks for, read by its words: a list of operations, or the part not understood.

Not a parser: verbs, articles and a few hundred words that editing instructions of public data sets are made of. What
they do not settle stays open (`things`), for pixels to decide.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from tagmoe.data.sources.native_tasks import Edit

MAX_CHARACTERS = 2000
Things = Literal["one", "several", "some", "whole"]
"""How much is edited: one thing, several of them, a plural that may be one place or several, or the whole picture."""


@dataclass(frozen=True)
class Operation:
    """One thing that is asked for.

    worn: it is put on or taken off a person. resized: the thing gets another size. gone: a person does not stay.
    """

    edit: Edit
    things: Things = "one"
    worn: bool = False
    resized: bool = False
    gone: bool = False


@dataclass(frozen=True)
class Reading:
    """operations: in the order of the words. unread: a part that was not understood, or ''. face: a face is spoken of.

    style: the word "style" or a kind of it stands in it. control_map: it speaks of a map of edges, depth or a pose.
    """

    operations: tuple[Operation, ...]
    unread: str
    face: bool
    style: bool
    control_map: bool


def _words(text: str) -> str:
    return "|".join(re.sub(r"\s+", " ", text).strip().replace("_", "[ -]").split(" "))


_COLOUR = _words(
    "red orange yellow green blue purple pink brown black white gr[ae]y gold silver golden teal turquoise cyan "
    "magenta violet beige navy maroon crimson tan cream ivory olive lime indigo bronze peach mint lavender blond "
    "blonde brunette ginger auburn colou?rful multicolou?red rainbow transparent"
)
_MATERIAL = _words(
    "wood wooden metal metallic glass stone marble gold silver bronze brick concrete leather denim velvet silk paper "
    "cardboard plastic ice chocolate crystal diamond copper steel iron clay ceramic porcelain wool fur fabric lace "
    "rusty brass rubber tile tiles tiled hardwood carpet"
)
_PATTERN = _words(
    "striped dotted spotted plain plaid floral checked checkered chequered lined patterned smooth rough shiny matte "
    "glossy furry fluffy torn dirty clean wet broken old older young younger new vintage modern round square_shaped "
    "open closed lit empty full ripe burning frozen blurry sharp transparent glowing muscular fat thin slim "
    "hollow solid polka_dotted polka_dot"
)
_PEOPLE = _words(
    "person persons people man men woman women boy boys girl girls lady ladies guy guys child children kid kids baby "
    "babies toddler he she him her his hers model player players bride groom king queen soldier couple crowd family "
    "actor actress gentleman teenager skier surfer rider batter pedestrian pedestrians chef doctor nurse student "
    "students teacher worker cowboy princess prince waiter dancer singer portrait"
)
_FACE = _words(
    "face faces hair beard moustache mustache smile smiling eyes eye lips mouth nose makeup make-up glasses sunglasses "
    "hat cap wear wearing wears expression head eyebrows haircut hairstyle bald"
)
_ANIMAL = _words("dog dogs cat cats horse horses bird birds cow cows bear elephant giraffe puppy kitten animal sheep")
_WORN = (
    r"(?:hat|cap|beanie|helmet|crown|sunglasses|glasses|goggles|mask|scarf|tie|bow ?tie|necklace|earrings?|watch|"
    r"gloves|"
    r"beard|moustache|mustache|headphones|coat|jacket|shirt|t-?shirt|dress|suit|jeans|skirt|sweater|hoodie|boots|shoes|"
    r"backpack|cape|apron|vest|tiara|veil|wig|headband|bandana|bracelet|ring|uniform|costume)s?"
)
_IMAGE = (
    r"(?:image|picture|photo|photograph|scene|shot|pic|artwork|painting|drawing|illustration|portrait|landscape|frame)"
)
_WHOLE = rf"(?:this|it|that|(?:the|this) (?:whole |entire |full |overall )?{_IMAGE})"
_STYLES = (
    r"(?:oil |acrylic |water[- ]?colou?r |digital |ink |cave |chinese |japanese )?painting|water[- ]?colou?rs?|sketch|"
    r"drawing|doodle|cartoon|anime|manga|comics?(?: book)?(?: strip)?|caricature|mosaic|negative|engraving|woodcut|"
    r"etching|"
    r"pixel[- ]art|voxel(?: art)?|pop[- ]art|line[- ]art|fresco|tapestry|embroidery|stained[- ]glass|claymation|"
    r"sepia|monochrome|black[- ]and[- ]white|b&w|gr[ae]yscale|polaroid|daguerreotype|low[- ]poly|3d (?:render|model)|"
    r"illustration|poster|noir|\d{2,4}'?s|abstract|artistic|psychedelic|surreal|minimalist|ukiyo-?e|graffiti|impressionis[mt]\w*|"
    r"cubis[mt]\w*|surrealis[mt]\w*|pointillis[mt]\w*|"
    r"expressionis[mt]\w*|art (?:deco|nouveau)|baroque|renaissance painting|ghibli|pixar|disney|lego|origami|"
    r"(?:old|vintage|retro|antique) (?:photo|photograph|picture|postcard|movie|film)|van gogh|picasso|monet|warhol|"
    r"rembrandt|hokusai|minecraft|vaporwave|cyberpunk|steampunk|photo-?realistic|"
    r"realistic|pastel|charcoal|crayon|chalk|papercraft|hologram|blueprint|video game"
)
_STYLE = rf"(?:{_STYLES})"
_PLACES = (
    r"(?:beach|desert|forest|jungle|city|street|mountains?|moon|mars|space|ocean|sea|park|garden|office|kitchen|"
    r"library|museum|castle|stadium|farm|field|island|underwater|paris|new york|london|tokyo|rome|venice|times square|"
    r"snow|stage|studio|classroom|church|meadow|canyon|swamp|village|cave|rooftop|highway|supermarket|restaurant|bar)"
)
_LIGHT_WORDS = (
    r"(?:day|night|daytime|nighttime|night-?time|daylight|sunset|sunrise|dusk|dawn|noon|midday|midnight|morning|"
    r"evening|"
    r"afternoon|twilight|golden hour|blue hour|moonlight|sunlight|candlelight|fog|foggy|mist|misty|haze|hazy|rain|"
    r"rainy|"
    r"raining|snowy|snowing|snowfall|sunny|cloudy|overcast|storm|stormy|thunderstorm|lightning|windy|winter|summer|"
    r"autumn|fall|"
    r"spring|dark|bright|weather|wintertime|summertime)"
)
_TONE = (
    r"(?:bright(?:er|en)?|dark(?:er|en)?|dim(?:mer)?|light(?:er|en)?|warm(?:er)?|cool(?:er)?|moody|dramatic(?:ally)?|"
    r"sunni(?:er)|well-lit|underexposed|overexposed|shadowy|gloomy|gloomier)"
)
_FEELING = (
    r"(?:smil(?:e|es|ing)|sad|happy|angry|surprised|shocked|scared|afraid|excited|bored|serious|cry(?:ing)?|"
    r"laugh(?:ing)?|"
    r"frown(?:ing)?|grin(?:ning)?|wink(?:ing)?|scream(?:ing)?|yawn(?:ing)?|pout(?:ing)?|neutral|sleepy|sleeping|"
    r"worried|"
    r"confused|disgusted|furious|cheerful|joyful|proud|calm|blink(?:ing)?)"
)
_POSTURE = (
    r"(?:sit(?:ting)?(?: down)?|stand(?:ing)?(?: up)?|kneel(?:ing)?|crouch(?:ing)?|lie(?: down)?|lying(?: down)?|"
    r"jump(?:ing)?|"
    r"run(?:ning)?|walk(?:ing)?|danc(?:e|ing)|wav(?:e|ing)|point(?:ing)?|rais(?:e|ing) \w+ (?:\w+ )?(?:hands?|arms?|"
    r"legs?|paw)|"
    r"fold(?:ing)? \w+ arms|cross(?:ing)? \w+ (?:arms|legs)|fly(?:ing)?|clap(?:ping)?|bow(?:ing)?|stretch(?:ing)?|"
    r"look(?:ing)? (?:up|down|left|right|away|back|at|to|toward|towards|straight)|"
    r"(?:open|close|opening|closing) (?:his|her|its|their|the) (?:mouth|eyes?)|"
    r"(?:turn|tilt|lower|nod)(?:ing)? (?:his|her|its|their|the) head|"
    r"spread(?:ing)? \w+ (?:wings|arms)|fac(?:e|ing) (?:the (?:camera|viewer)|left|right|forward|away)|pos(?:e|ing)|"
    r"swim(?:ming)?|eat(?:ing)?|"
    r"hug(?:ging)?|kiss(?:ing)?|shak(?:e|ing) hands|thumbs[- ]up)"
)
_VIEW = (
    r"(?:from (?:behind|above|below|the (?:side|back|front|top|left|right|rear|air|other side)|overhead|(?:a|an|"
    r"another) "
    r"(?:\w+ )?(?:angle|viewpoint|perspective|view|point of view|side|distance))|"
    r"from (?:the|a) (?:ceiling|ground|floor|street|balcony|window|corner|sky|distance|roof|rooftop|plane|drone)|"
    r"(?:the|its) (?:back|front|side|other side|underside|top) of the|zoom(?:ed)?[ -](?:in|out)|bird'?s[- ]eye|"
    r"worm'?s[- ]eye|aerial (?:view|shot)|top[- ]down|close[- ]?up|wide[- ](?:angle|shot)|"
    r"(?:side|back|front|rear|top) view|"
    r"(?:(?<!at the )(?<!towards the )(?<!toward the )(?<!face the )(?<!facing the )(?<!for the )camera|viewpoint|"
    r"perspective|point of view|viewing angle|view angle))"
)
_PUT_VERB = r"(?:put|place|show|draw|paint|set|position|have|let)"
_CHANGE_VERB = (
    r"(?:make|turn|change|convert|transform|paint|repaint|colou?r|recolou?r|dye|tint|give|let|have|show|draw|redraw|"
    r"render|"
    r"alter|modify|adjust|swap|switch|replace|morph|edit|set|repaint|cover)"
)
_VERBS = (
    r"(?:add|insert|include|introduce|attach|remove|delete|erase|eliminate|take|get|clear|wipe|move|shift|bring|"
    r"drag|slide|"
    r"relocate|resize|enlarge|shrink|grow|exchange|substitute|put|place|blur|zoom|rotate|relight|brighten|darken|"
    r"lighten|"
    r"dim|look|view|open|close|raise|write|apply|use|stylize|fill|"
    + _CHANGE_VERB.removeprefix("(?:").removesuffix(")")
    + r")"
)
_NUMBER = r"(?:two|three|four|five|six|seven|eight|nine|ten|several|many|multiple|\d+)"
_SEVERAL = re.compile(
    rf"\b(?:all|every|each|both|everything|everyone|everybody|{_NUMBER}(?= (?:more )?(?:\w+ )?\w+s\b))\b"
)
_AS_ONE = re.compile(r"\b(?:all of it|all over|every(?:where)|pair of)\b")
_PLURAL_OBJECT = re.compile(
    r"^\w+ (?:the |his |her |its |their |some |a few |a couple of |more )?"
    r"(?:(?!(?:with|for|to|into|in|on|of|from|at|and|by|like|as) )[\w-]+ ){0,2}?"
    r"(?:people|men|women|children|(?!(?:glasses|sunglasses|jeans|pants|trousers|grass|dress|glass|cactus|bus|this|its|"
    r"his|headphones|goggles|shorts|scissors|canvas|christmas|cross)\b)\w{2,}[^su\W]s)\b"
)
_PREAMBLE = re.compile(
    r"^(?:please|kindly|now|ok(?:ay)?|also|and|then|finally|next|"
    r"(?:can|could|would|will) (?:you|we|i)(?: please)?|let's|let us|i (?:want|would like|wish)(?: you)? to|"
    r"i'd like(?: you)? to|what if|as if|if|we (?:need|want) to|you should)\b[ ,]*"
)
_SPLIT = re.compile(
    rf"[.;!?]+\s+|,? (?:and )?then |,? and (?:also )?(?={_VERBS}\b(?! (?:back|places)\b))|, (?:also )?(?={_VERBS}\b)"
)
_QUOTED = re.compile(r"(?<!\w)['\"][^'\"]{1,80}['\"](?!\w)|[\u201c\u2018][^\u201d\u2019]{1,80}[\u201d\u2019]")
_LOCATIVE = re.compile(r"^(?:at|on|in|to|next to|behind|near|under|above) (?:the|his|her|its) [^,]{2,40}, ")

_REMOVE = re.compile(
    r"^(?:remove|delete|erase|eliminate|get rid of|clear|wipe(?: out| away)?|take (?:off|away|out)|strip|crop out|"
    r"edit out|hide|lose)\b(?P<what>.*)$|"
    r"^(?:take|cut|get) (?P<what2>(?:the|his|her|all|every|a|that|this) .*?) (?:away|off|out)\b|"
    r"^(?:make|let|have) (?P<what3>.+?) (?:disappear|vanish|be gone)\b|"
    r"^(?:make|let|have) .+? (?:take off|remove) (?P<what4>.*)$"
)
_WITHOUT = re.compile(
    r"\b(?:with no|without(?: an?| the| his| her)?|wears? no|is no longer wearing|stop wearing|not wear(?:ing)?) [\w-]+"
)
_ADD = re.compile(
    r"^(?:add|insert|include|introduce|attach|(?:there|it) (?:should|could|must) (?:be|have)(?= (?:an?|some|another|"
    r"more) )|there (?:is|was|were|are)|(?:it|she|he|they|(?:the|his|her|their) .{2,40}?) (?:needs?|(?:should|could|"
    r"must) have)(?= (?:an?|some|another|more) )|let there be|create|write|apply)\b(?P<what>.*)$"
)
_MAP = re.compile(
    r"\b(?:this|given|from the|the given) map\b|\b(?:depth|canny|edge|edges|hed|pose|segmentation|normal|line ?art) "
    r"(?:map|image|condition)\b|\b(?:scribble|skeleton) (?:map|image|condition)\b"
)
_TEXT = re.compile(
    r"\b(?:text|words?|letters?|lettering|caption|slogan|headline|title|logo text)\b|"
    r"\b(?:say|says|saying|read|reads|reading|spell|write|written) QUOTE"
)
_SWAP = re.compile(
    r"^(?:swap|switch|exchange|interchange)\b(?!.* (?:for|with|to|into) ).* and |\b(?:swap|switch|trade|"
    r"exchange) (?:their )?(?:places|positions)|^(?:let|have|make) .* and .* (?:swap|switch)$|\b(?:swap|switch|"
    r"exchange) the (?:places|positions) of\b"
)
_MOVE = re.compile(
    r"^(?:move|shift|relocate|reposition|bring|drag|slide|push|pull|take)\b(?! (?:the )?camera).*\b(?:to|into|onto|"
    r"left|right|up|down|closer|away|back|forward|toward|towards|higher|lower|over)\b"
)
_WHERE = re.compile(
    r"\b(?:at|to|in|on|into) the (?:very )?(?:(?:top|bottom|upper|lower|far|middle|center|centre) ?-?){0,2}"
    r"(?:top|bottom|left|right|middle|center|centre|corner|foreground|edge)\b"
)
_RESIZE = re.compile(
    r"^(?:shrink|enlarge|grow|resize|scale)\b|\b(?:small(?:er)?|bigger|big|larger?|huge|tiny|taller|shorter|wider|"
    r"giant|"
    r"(?:twice|double|half) (?:as|the|its))$|\b(?:bigger|smaller|larger|taller|wider)\b|\bsize\b"
)
_BACKGROUND = re.compile(
    r"(?<!in the )(?<!from the )(?<!into the )(?<!to the )\b(?:background|backdrop|surroundings)\b"
)
_BEHIND = re.compile(
    rf"^(?:change|replace|turn|make|blur|swap) .*\bbehind (?:him|her|them|it|the (?:{_PEOPLE}|subject))\b|"
    r"^(?:change|replace) the (?:scenery|setting|location|surroundings)\b|"
    r"^(?:replace|change|swap|turn|make) the sky .*\b(?:with|to|into|for|an?)\b"
)
_SETTING = re.compile(
    rf"\b(?:setting|location|scenery)\b|\btakes? place (?:in|on|at)\b|^(?:set|have|put|place|move|send|take|"
    rf"transport|make) "
    rf"(?:{_WHOLE}|him|her|them|(?:the|this) [\w ]{{2,25}}?)(?: be)? (?:(?:in|on|at|to|into|onto|inside|"
    rf"near) (?:an? |the |some )?"
    rf"(?:[\w-]+ ){{0,2}}{_PLACES}|underwater|outdoors|indoors|outside|inside)\b"
)
_SETTING_OF_PEOPLE = re.compile(
    rf"^(?:have|let|make) (?:him|her|them|it|the [\w ]{{2,25}}?) (?:be|stand|walk|live|stay) (?:on|in|at) (?:an? |"
    rf"the )?(?:[\w-]+ ){{0,2}}{_PLACES}$"
)
_LIGHT = re.compile(
    rf"\b(?:at|by|during|in|into|to|under|it'?s?|it is|it were|was|is|be|look like|like|as|of|to be|now|back the|"
    rf"more|very|a|the)"
    rf"(?: the| a| an| full| bright| warm| soft| heavy| dense| stormy| like)* {_LIGHT_WORDS}\b(?! (?:{_COLOUR})\b)|"
    rf"\b(?:lighting|relight|time of (?:the )?day|season|weather|exposure|shadows?|sunlight|sunshine|golden hour)\b|"
    rf"\b(?:make|turn) {_WHOLE} (?:look )?(?:more |much |a bit |a little |slightly |into )?(?:an? )?{_LIGHT_WORDS}\b|"
    rf"^(?:brighten|darken|dim|lighten|relight)(?: up)?(?: {_WHOLE})?\b|"
    rf"^(?:make|turn) (?:{_WHOLE}|the (?:sky|room|sun|street)) (?:look )?(?:more |much |a bit |a little |"
    rf"slightly )?{_TONE}\b|"
    rf"\b(?:turn|switch|change) (?:on |off |down |up )?(?:the |all the )?(?:street |room |stage )?lights?\b|"
    rf"^(?:what if |as if |if )?(?:it|there)(?:'s| is| was| were| should be| could be)? (?:now )?(?:a |"
    rf"an )?{_LIGHT_WORDS}\b|"
    rf"\blet it (?:rain|snow)\b|\bmake it (?:rain|snow)\b"
)
_LIGHT_ADDED = re.compile(
    r"\b(?:fog|mist|haze|rain|snowfall|snow|sunlight|sunshine|moonlight|sun ?rays|sunbeams|light(?:ing)?|shadows?|"
    r"sunset|"
    r"sunrise|lens flare|storm|thunderstorm|glare|lightning|glow)\b$|"
    r"^ (?:an? |some |the |more |heavy |light |soft |warm |dense |dramatic |falling )*(?:fog|mist|haze|rain|snow|"
    r"sunlight|sunshine|"
    r"lighting|shadows?|sunset|sunrise|moonlight|snowfall|storm|lightning|glare)\b"
)
_STYLE_WORD = re.compile(rf"\bstyles?\b|\bstyli[sz]ed?\b|\b{_STYLE}\b")
_STYLE_WHOLE = re.compile(
    rf"\b{_WHOLE}(?: (?:to|into|as|look|looks|like|be|were|was|is|a|an|the|should|could|it|more|in|back|by))* "
    rf"(?:[\w'-]+ ){{0,3}}?{_STYLE}\b|"
    rf"\b(?:in|to|into|with|using) (?:an? |the )?(?:[\w'-]+ ){{0,4}}style\b|\bstyle (?:of|to)\b|"
    rf"\bas if (?:it (?:was|were) )?(?:painted|drawn)\b|"
    rf"^(?:styli[sz]e|cartoonify|colou?ri[sz]e)\b|\b(?:the|this) style\b|^(?:make|turn|convert) (?:to|"
    rf"into) (?:an? )?{_STYLE}|"
    rf"\bback (?:in)?to an? [\w -]{{0,20}}{_IMAGE}$|\b{_WHOLE} (?:back )?(?:to|into|as|"
    rf"a) (?:an? )?[\w-]+ (?:{_IMAGE})$|"
    rf"^(?:an? )?(?:[\w'-]+ ){{0,3}}{_STYLE}(?: style)?$|\b(?:painted|drawn|made) (?:by|like) [a-z]+|"
    rf"\b(?:photo )?filter\b"
)
_WHO = (
    r"(?:the |a |an |this |that |his |her |their )?(?:[\w-]+ ){0,3}?"
    rf"(?:{_PEOPLE}|{_ANIMAL}|face|it|them|they|eyes|mouth)"
)
_POSE = re.compile(
    rf"\b{_WHO}(?:'s)?(?: (?:[\w-]+ ){{0,4}}?)?\b(?:{_FEELING}|{_POSTURE})\b|\b(?:expression|pose|posture|gesture|"
    rf"gaze)\b|"
    rf"^(?:close|open) (?:his|her|the|their|its) (?:[\w']+ )?(?:eyes?|mouth)|^rais(?:e) (?:his|her|their|the)|^smile$|"
    rf"^(?:make|let|have) (?:him|her|them|it) {_POSTURE}|^(?:turn|tilt) .*\bhead\b"
)
_WEAR = re.compile(
    rf"\b(?:wear|wears|wearing|dressed in|dress (?:him|her|them|it|the))\b|^put .*\bon (?:the |his |her |their |"
    rf"this )?(?:[\w-]+ ){{0,2}}?(?:{_PEOPLE}|face|head|{_ANIMAL})\b|"
    rf"^(?:give|have|show|draw|let) {_WHO} (?:in |with |have |a pair of |on )*(?:an? |some |"
    rf"the )?(?:[\w-]+ ){{0,3}}?{_WORN}\b|^(?:draw|add|place) .*{_WORN} (?:on|to) "
)
_ON_PERSON = re.compile(
    rf"\b(?:to|on|onto|for|of|off) (?:the |his |her |their |this )?(?:[\w-]+ ){{0,2}}?(?:{_PEOPLE}|face|"
    rf"head)\b(?!'s (?:left|right))"
)
_PART = r"(?:mane|tail|fur|skin|eyes|lips|hair|nose|ears?|haircut|hairstyle|tan|roof|door|wheels|leaves|petals)"
_NOT_REPLACED = (
    r"(?:look|colou?r|shade|tone|hue|tint|texture|finish|pattern|material|size|shape|cut|haircut|smile|shine|glow|"
    r"lot|bit|"
    r"little|paint job|makeover)"
)
_REPLACE = re.compile(
    r"^(?:replace|substitute|exchange)\b|^(?:swap|switch)\b.* (?:for|with|to|out) |\b(?:in place of|instead of)\b|"
    rf"^(?:make|turn|change|transform|convert|morph|have|let|swap)\b (?!.*(?:an?|"
    rf"the) (?:[\w-]+ ){{0,3}}?{_NOT_REPLACED}\b)(?:the |this |that |his |her |its |all |both |every |him|them|"
    rf"everyone|each )"
    rf".*?\b(?:into|to be|to|be|as|become|becomes|in)?\b ?\b(?:an?|another|some) (?!bit |little |lot |"
    rf"pair of \w+ \w+er)[\w-]+|"
    r"^(?:make|turn|change|transform|convert)\b .+ (?:into|to) (?:the |his |her )?[\w-]+|"
    r"\bso (?:that )?(?:it|he|she)(?:'s| is| becomes| looks like) an? |"
    r"^(?:(?:can|could|should) )?the .+ (?:should|could|be|is now|becomes?|turns? into)(?: be)? an? "
)
_ATTRIBUTE_END = re.compile(
    rf"\b(?:{_COLOUR}|{_MATERIAL}|{_PATTERN})(?: (?:hair|colou?r|look|texture|fur|paint|pattern|material|finish|"
    rf"stripes|dots|"
    rf"leaves|skin|walls?))?(?: and (?:{_COLOUR}|{_MATERIAL}|{_PATTERN}))?$|\b(?:colou?r|hue|shade|material|texture|"
    rf"finish)\b|"
    rf"\bmade (?:out )?of\b|\bhair\b|\b(?:more|less) \w+$|(?<! a)(?<! an) \w+er$"
)
_CHANGE = re.compile(
    rf"^{_CHANGE_VERB}\b|^(?:the|his|her|its|their) .+ (?:should|could) (?:be|have|look)\b|^(?:it|they) (?:should|"
    rf"could) (?:be|have)\b"
)
# With these, what follows is more than a look that ends the clause.
_CLAUSE = re.compile(r"^\w+ .* (?:an?|like|on|with|was|were|that|so|of|as|set|go|come|be) ")
_NOUN_PHRASE = re.compile(
    r"^ ?(?P<head>.*?)(?= (?:from|of|on|in|at|behind|with|wearing|near|next|by|under|who|that|holding|to|for|into)\b|$)"
)


def read(instruction: str) -> Reading:
    """The operations of an English instruction. Case, politeness and punctuation are free; quoted text is not read.

    Nor is what follows its first MAX_CHARACTERS: the patterns take a time that grows with the square of the length.
    """
    text = " ".join(_QUOTED.sub("QUOTE", instruction[:MAX_CHARACTERS].strip()).split())
    text = text.lower().replace("\u2019", "'").replace("quote", "QUOTE").rstrip(" .!?,;")
    operations, unread = [], ""
    for clause in _clauses(text):
        found = _operation(clause)
        if found is not None:
            operations.append(found)
        elif len(clause.split()) >= 3 and not unread:
            unread = clause
    face = re.search(rf"\b(?:{_PEOPLE}|faces?)\b", text) is not None
    # A hat may be an animal's.
    face = face or (re.search(rf"\b(?:{_FACE})\b", text) is not None and not re.search(rf"\b(?:{_ANIMAL})\b", text))
    return Reading(
        tuple(operations),
        unread,
        face=face,
        style=_STYLE_WORD.search(text) is not None,
        control_map=_MAP.search(text) is not None,
    )


def _clauses(text: str) -> list[str]:
    clauses = []
    while (shorter := _PREAMBLE.sub("", text)) != text:
        text = shorter
    text = _LOCATIVE.sub("", text)
    if text.startswith("in place of "):
        return [text]
    for part in _SPLIT.split(text):
        while (shorter := _PREAMBLE.sub("", part)) != part:
            part = shorter
        if part.strip():
            clauses.append(part.strip(" ,"))
    return clauses


def _operation(text: str) -> Operation | None:
    """What one clause asks for; the first that fits, from the most certain words to the least."""
    things = _things(text)
    if text.startswith("in place of "):
        return Operation("replace", things)
    if _BEHIND.search(text):
        return Operation("background", "whole")
    if found := _REMOVE.search(text):
        return _removal(" " + next(part for part in found.groups() if part is not None).strip(), things)
    if found := _ADD.search(text):
        return _addition(found["what"], text, things)
    if _SETTING_OF_PEOPLE.search(text):
        return Operation("background", "whole")
    if _asks_view(text):
        return Operation("viewpoint", "whole")
    if re.match(r"^(?:let|have) (?:an?|another|some|there be) ", text):
        return Operation("add", things)
    if re.search(r"\b(?:hold|holding|carry|carrying) (?:an?|some) ", text):
        return Operation("add", things)
    if re.match(r"^have no ", text):
        return Operation("remove", things)
    if _WITHOUT.search(text):
        return Operation("remove", worn=re.search(rf"\b(?:{_PEOPLE}|wear\w*)\b", text) is not None)
    if _SWAP.search(text):
        return Operation("move", "several")
    if "QUOTE" in text and _TEXT.search(text):
        return Operation("text")
    if _BACKGROUND.search(text):
        return Operation("background", "whole")
    if _STYLE_WHOLE.search(text):
        return Operation("style", "whole")
    if _LIGHT.search(text):
        return Operation("light", "whole")
    if (re.search(rf"\b{_WHO}", text) and _POSE.search(text)) or (
        re.search(r"^(?:smile|raise|close|open)\b|\bexpression\b", text) and _POSE.search(text)
    ):
        return Operation("pose", things)
    if _WEAR.search(text) and not re.search(r"\bhair\b", text):
        return Operation("add", things, worn=True)
    if _SETTING.search(text):
        return Operation("background", "whole")
    return _thing_operation(text, things)


def _thing_operation(text: str, things: Things) -> Operation | None:
    """What a clause does to a thing, where it is neither added nor removed by its verb alone."""
    if re.search(r"^(?:put|draw|place|paint)\b.*\bin(?:stead| place) of\b", text):
        return Operation("replace", things)
    if re.match(rf"^{_PUT_VERB} (?:an?|some|another|{_NUMBER}|more) ", text):
        return Operation("add", things)
    if re.search(r" (?:small(?:er)?|big(?:ger)?|large(?:r)?|tall(?:er)?)$", text):
        return Operation("attribute", things, resized=True)
    if _MOVE.search(text) or (re.match(rf"^{_PUT_VERB} ", text) and _WHERE.search(text) and not _coloured(text)):
        return Operation("move", things)
    if _RESIZE.search(text):
        return Operation("attribute", things, resized=True)
    whole = "whole" if re.match(rf"^\w+ {_WHOLE}\b(?! \w+ (?:at|on|in) )", text) else things
    if _coloured(text) and not re.match(r"^(?:replace|substitute)\b", text):
        return Operation("attribute", whole)
    if re.match(rf"^give .* an? (?:[\w-]+ )*{_PART}$", text):
        return Operation("attribute", things)
    if _REPLACE.search(text):
        return Operation("replace", things, gone=_person_first(text))
    if re.match(r"^(?:have|give|let|show)\b.* (?:an?|some|with) ", text):
        return Operation("add", things)
    if _CHANGE.search(text) and not _CLAUSE.search(text):
        return Operation("attribute", whole)
    return None


def _coloured(text: str) -> bool:
    """Whether it ends in a look ("... red", "... to wood"), or names a colour or material as what is changed."""
    ends = _ATTRIBUTE_END.search(text) is not None
    return (
        ends
        and not re.search(
            rf"\b(?:into|to|for|with|be) an? (?:[\w-]+ )*(?!(?:{_NOT_REPLACED})$)(?!(?:{_COLOUR}|{_PATTERN})$)[\w-]+$",
            text,
        )
        and _CHANGE.search(text) is not None
    )


def _removal(what: str, things: Things) -> Operation:
    if _BACKGROUND.search(what):
        return Operation("background", "whole")
    if re.match(r"^ (?:the |this |any )?(?:[\w-]+ )?(?:style|filter|effect)\b", what):
        return Operation("style", "whole")
    if re.match(r"^ (?:the |all (?:the )?|any )?(?:fog|mist|haze|rain|glare|shadows?|snowfall)\b", what):
        return Operation("light", "whole")
    found = _NOUN_PHRASE.match(what)
    head = found["head"] if found else what
    gone = re.search(rf"\b(?:{_PEOPLE})\b(?! ?(?:'s)? \w)", head) is not None
    worn = not gone and (_ON_PERSON.search(what) is not None or re.search(rf"\b{_WORN}\b", head) is not None)
    return Operation("remove", things, worn=worn, gone=gone)


def _addition(what: str, text: str, things: Things) -> Operation:
    if "QUOTE" in text or re.search(r"\b(?:text|caption|watermark)\b", what):
        return Operation("text", things)
    if _LIGHT_ADDED.search(what) and not re.search(r"\b(?:lamp|bulb|string|street) ", what):
        return Operation("light", "whole")
    if re.search(r"\b(?:filter|style|effect)\b", what):
        return Operation("style", "whole")
    if re.search(r"^ (?:an? |the )?(?:[\w-]+ ){0,3}(?:background|backdrop)$", what):
        return Operation("background", "whole")
    worn = _ON_PERSON.search(what) is not None or (re.search(rf"\b(?:{_PEOPLE})\b", what) and re.search(_WORN, what))
    return Operation("add", things, worn=bool(worn))


def _things(text: str) -> Things:
    if _AS_ONE.search(text):
        return "one"
    if _SEVERAL.search(text):
        return "several"
    return "some" if _PLURAL_OBJECT.search(text) else "one"


def _person_first(text: str) -> bool:
    """Whether what is replaced is a person."""
    found = re.match(r"^\w+ (?P<first>.*?) (?:with|for|into|to|by|an?)\b", text)
    return found is not None and re.search(rf"\b(?:{_PEOPLE})$", found["first"]) is not None


def _asks_view(text: str) -> bool:
    shown = re.match(
        r"^(?:show|view|look|see|redraw|draw|render|change|make|turn|zoom|rotate|move|shift|take|switch|give|let|"
        r"have|tilt|pan|use|the|as|from|an?)\b",
        text,
    )
    # Without an object it is the viewer who turns.
    return text == "turn around" or (shown is not None and re.search(rf"\b{_VIEW}\b", text) is not None)
