"""The parts of which the patterns are made: the lists of `words.yaml`, and what is common to several patterns."""

from __future__ import annotations

from types import SimpleNamespace

from tagmoe.annotation.rules.word_lists import WordLists, any_of


def fragments_of(words: WordLists) -> SimpleNamespace:
    """Regular expressions by name: one of each list, and fragments of patterns."""
    w = SimpleNamespace(**{name: any_of(entries) for name, entries in words.items()})
    w.verbs = any_of([*words["other_verbs"], *words["change_verbs"]])
    w.garments = f"{w.clothes}s?"
    w.whole = rf"(?:this|it|that|(?:the|this) (?:whole |entire |full |overall )?{w.images})"
    w.who = (
        rf"(?:the |a |an |this |that |his |her |their )?(?:[\w-]+ ){{0,3}}?(?:{w.people}|{w.animals}|face|it|them|they|"
        r"eyes|mouth)"
    )
    w.determiner = (
        r"(?:(?:all|both|every|each|any|some|more|another|one|a few|(?:a |the )?(?:pair|couple|group|bunch|crowd|row|"
        r"set|"
        rf"bowl|flock|lot|number|piece|slice|herd) of|{w.numbers}) )*(?:(?:the|this|that|these|those|an?|his|her|its|"
        r"their|my|your|some|all|more|other|rest of the) )*"
    )
    # Words that stand between a noun and what describes it.
    w.after_noun = (
        rf"(?:{w.prepositions}|who|that|which|whose|and|or|as|he|she|they|the|his|(?!{w.nouns_in_ing}\b)\w{{2,}}ing|"
        rf"{w.participles})"
    )
    w.known = r"(?:the|this|that|these|those|his|her|their|my|your|both|all)"
    w.shade = (
        r"(?:(?:a bit|a little|much|slightly|very|really|completely|all|entirely|fully|dark|light|bright|pale|deep|"
        r"neon|"
        r"plain|pastel|hot|baby|royal|navy|sky|forest|lime|olive|mint|rose|pure|jet|off|vivid|vibrant|solid|even|more|"
        r"less|new|different|another|other|shade of|kind of|look more) )*"
    )
    w.comparative = rf"(?:(?!{w.no_comparatives}\b)\w{{3,}}er|(?:more|less) {w.graded})"
    w.look = rf"{w.shade}(?:{w.colours}|{w.materials}|{w.looks}|{w.sizes}|{w.comparative})(?:ish|-colou?red|-ish)?\b"
    w.any_look = (
        rf"(?:(?:made (?:out )?of |out of )?(?!an? ){w.look}(?:(?:,? and|,| or| instead of) (?:an? )?{w.look})*|an? "
        rf"(?=.* \w+$){w.look}(?:(?:,? and|,| or) {w.look})*(?= (?:colou?r|hue|tone|shade|look|texture|finish|"
        rf"pattern|material|size)))(?: "
        r"(?:colou?r|hue|tone|shade|look|texture|finish|pattern|material|paint|skin|stripes|dots|leaves|size))?"
    )
    w.place = (
        rf"(?:(?:in|on|at|to|into|onto|inside|near|under|by|through|across) (?:an? |the |some )?(?:[\w-]+ ){{0,2}}?"
        rf"{w.places}|underwater|outdoors|indoors|outside|inside)\b(?! (?:table|chair|cup|tree|house|wall|bench))"
    )
    # The word is a noun of its own: what follows is no noun that it describes.
    w.alone = r"\b(?!(?:-\w+)? (?!with\b|and\b|in\b|at\b|on\b|but\b|so\b|while\b|from\b|instead\b|time\b|here\b)\w)"
    return w
