"""Patterns for noun phrases: where they end, what kind of thing they name, and whether that is a look."""

from __future__ import annotations

from types import SimpleNamespace


def noun_sources(w: SimpleNamespace) -> dict[str, str]:
    """Regular expressions by the name of what they find; `w` holds the fragments."""
    return {
        "noun_phrase": rf"^(?P<head>{w.determiner}\S+?(?: \S+?)*?)(?=,| {w.after_noun}\b|$)",
        "person_last": rf"\b(?:{w.people}|them|everyone|everybody|someone)$",
        "whole_head": rf"^(?:it|this|that|(?:the|this) (?:[\w'-]+ ){{0,3}}?{w.images})$",
        "known_person": (
            rf"\b{w.known} (?:[\w-]+ ){{0,3}}?{w.people}\b|\b(?:his|her|their|him|he|she|them|my)\b|\b{w.people}'s?\b|"
            rf"\b(?:the|his|her|their) (?:[\w-]+ )?(?:face|head)\b"
        ),
        "beside_person": (
            rf"^(?:he|she|they|the (?:[\w-]+ )?{w.people}) |"
            r"\b(?:behind|beside|next to|near|in front of|(?:left|right|side|back) of|between|around|by|against|"
            r"above|below|"
            r"facing|from|close to|away from|toward|towards|hugging|hiding) (?:(?:the|an?|this|that|his|her|their|"
            r"two|both|my|"
            rf"other) )*(?:[\w-]+ ){{0,2}}?(?:{w.people}|them|me)\b(?! \w+ (?:table|chair))"
        ),
        "owner": rf"\b(?:his|her|their|my|your)\b(?! ?$)|\b{w.people}(?:'s|s'|')",
        "facial_hair": rf"\b(?:{w.facial_hair})$",
        "background_noun": r"\b(?:background|backdrop|surroundings|scenery|setting|environment|location)$",
        "sky_noun": r"\bsky$",
        "style_noun": r"\b(?:style|filter|medium|art style|film look|effects?)$",
        "cast_noun": r"\b(?:shadows?|glow|glare|lens flares?|highlights?|halo)$",
        "weather_noun": r"\b(?:fog|mist|haze|rain|snowfall|snow|storm|thunderstorm|lightning|clouds of fog)$",
        "light_noun": (
            r"\b(?:lighting|(?<!a )(?<!street )(?<!traffic )(?<!string )(?<!the )light|sunlight|sunshine|moonlight|"
            r"sun ?rays|"
            r"sunbeams|daylight|candlelight|illumination|brightness|exposure|sunset|sunrise|golden hour|time|"
            r"ambience|light "
            r"source|weather)$"
        ),
        "time_of_day": r"\btime of (?:the )?day|\btime$",
        "season_noun": r"\bseason$",
        "weather_name": r"\b(?:weather|season|scene|picture|photo|image)$",
        "season": (
            rf"^(?:an? |the |be |look like |in |during )*(?:[\w-]+ )?{w.seasons}(?:time| scene| day| landscape)?$"
        ),
        "hair_noun": rf"\b(?:{w.hair})$",
        "makeup": rf"\b(?:{w.makeup})$",
        "text_noun": (
            r"\b(?:texts?|words?|letters?|lettering|captions?|title|slogan|headline|watermarks?|logo text|"
            r"inscription|numbers?|"
            r"writing)$|\b(?:text|word|words|letters|title|caption|number) QUOTE$"
        ),
        "view_noun": (
            r"\b(?:perspective|viewpoint|(?:camera |view(?:ing)? )?angle|point of view|view|camera|camera position|"
            r"framing)$"
        ),
        "expression_noun": r"\b(?:expressions?|smile|frown|face)$",
        "pose_noun": r"\b(?:pose|posture|stance|gesture|gaze|body position)$",
        "size_noun": r"\b(?:size|height|width|length)$",
        "colour_noun": r"\b(?:colou?rs?|saturation|contrast|vibrance|vibrancy|colou?ri[sz]ation)$",
        "look_noun": (
            rf"\b(?:colou?rs?|colou?r {w.colours}|hues?|shades?|tint|material|texture|pattern|finish|look|fabric|"
            rf"saturation|contrast|vibrance|vibrancy|dots|polka dots|stripes|print|plaid|spots|cracks|rust|scratches|"
            rf"dirt|gloss|patina|age)$"
        ),
        "part_noun": rf"\b{w.parts}$",
        "feeling_noun": (
            rf"\b(?:smile|grin|frown|smirk|laugh|wink|{w.feelings} (?:look|expression|face)|facial expression|pose)$"
        ),
        "feeling": rf"^(?:an? |be |look |feel |more |very |to )*{w.feelings}\b",
        "garment": rf"\b{w.garments}$|\bpair of (?:[\w-]+ )*{w.garments}$",
        "thing": r"^(?:an?|another|some|the|two|three|his|her) (?:[\w'-]+ ?)+|^[\w-]+s?$",
        "known_thing": rf"\b{w.garments}$",
        "place_last": rf"\b(?:{w.places}|{w.grounds})$",
        "whole_place": (
            rf"\b(?:to|of|in|over|across|on|from|for|throughout) (?:it|this|that|(?:the|this) (?:[\w-]+ "
            rf"){{0,3}}?(?:{w.images}|scene|room))(?: of\b.*)?$"
        ),
        "of_background": r"\bof the (?:background|backdrop)\b",
        "plural_or_mass": r"(?:\w\ws|glare|glow)$",
        "and_to": (
            r"\b(?:to|on|in|at|for|beside|behind|near) (?:the|his|her|their) .+ and (?:an? |some |the )?.+ (?:to|on|"
            r"in|at|for|beside|behind|near) (?:the|his|her|their) "
        ),
        "two_new": r"^(?:an?|some|one|two|three) .+ and (?:an?|some|one|two|three) ",
        "two_things": r"^(?:the|his|her|all|both|that|this) .+ and (?:the|his|her|all|its|a) ",
        "two_places": (
            r"^(?:the|all) .+ (?:on|in|at|from|by|under|near|behind) the .+ and (?:the|all) .+ (?:on|in|at|from|by|"
            r"under|near|"
            r"behind) the "
        ),
        "two_looks": rf"\b{w.look} and (?:the|his|her|their) ",
        "unsure_addition": (
            r"\b(?:reflections?|blur|grain|noise|bokeh|depth|border|frame|details?|drama|emotion|life|texture|warmth|"
            r"depth of field|"
            r"something|stuff|vignette|quality|realism|filter effect)$"
        ),
        "worn_by": (
            rf"^(?:[\w'-]+ )*{w.garments} (?:to|on|onto|for) (?!the (?:table|chair|floor|bed|ground|wall|shelf|hook))"
        ),
        "who_last": (
            rf"(?:\b(?:{w.people}|{w.animals}|it|they|them|face|eyes|mouth|robot|monkey|statue|everyone|everybody|"
            rf"someone|character|"
            r"subject)|'s (?:eyes|mouth|head|face|arms?|hands?|legs?|tail|wings))$|^(?:his|her|its|their) "
        ),
        "tone": rf"^(?:look |be |into |a (?:bit|little) |much |slightly |very |more |less |even )*{w.tones}$",
        "shade": rf"\b(?:light|dark|warm|cool) {w.colours}\b",
        "look_only": rf"^(?:be |look |into |to )*{w.any_look}$",
        "size_only": rf"\b(?:{w.sizes}|taller|shorter|wider|longer|narrower|thinner|bigger|larger|smaller|size)$",
        "styled": rf"\b{w.styles}\b|\bstyle\b|\b(?:drawing|painting|character|print|film still)$",
        "drawn": (
            r"\b(?:cartoon|sketch|painting|drawing|anime|illustration|manga|comic|doodle|line ?art|render|artwork|"
            r"mosaic|negative|watercolou?r|engraving|caricature)$"
        ),
        "photo_last": r"\b(?:photo|photograph|realistic picture|real image|realistic image|picture)$",
        "person_as_drawn": r"\b(?:cartoon|anime|pixar|disney|ghibli|lego|manga|comic|clay|pixel|3d)\b",
        "instead_look": r"\b(?:version|look|vibe|style)$",
        "light_of_thing": (
            r"^(?:turn|switch) (?:on|off) (?:the |all the )?(?:[\w-]+ )*(?:lamps?|bulb|candles?|screen|tv|neon sign|"
            r"lights? (?:in|on|of|at) the "
            r"(?!room\b|scene\b|house\b$)[\w-]+)|^light (?:up )?(?:the |a )(?:candles?|lamp|fireplace|lantern|bulb|"
            r"windows?)\b|"
            r"^(?:turn|switch) (?:the |all the )?(?:[\w-]+ )*(?:lamps?|candles?) (?:on|off)$"
        ),
        "QUOTE": r"QUOTE",
        "weather_state": (
            r"\b(?:rain(?:y|ing)?|snow(?:y|ing)?|fogg?y|mist(?:y)?|storm(?:y)?|cloudy|overcast|windy|hail(?:ing)?|"
            r"thunderstorm|blizzard)\b"
        ),
        "moment": (rf"\b(?:{w.lights}|{w.seasons})\b"),
        "vivid": (rf"\b(?:{w.colours}|vibrant|saturated|vivid|colou?rful|colou?rless)\b"),
        "all_colours": (r"^(?:the |all |all the )?(?:colou?rs|saturation|contrast|vibrance|vibrancy)$"),
        "has_look": (rf"\b(?!new\b)(?:{w.colours}|{w.materials}|{w.looks})\b"),
        "camera_last": (r"\b(?:camera|viewpoint|viewer|perspective)$"),
        "falling": (r"^(?:coming|shining|streaming|falling|pouring|from)\b"),
        "bare_word": (r"^[\w-]+$"),
        "alone_look": (r"^(?:the )?(?:colou?r|hue|tint|material|texture|pattern|finish)$"),
        "bare_light": (r"^(?:the |all the )?(?:lights?|lighting|sunlight|sun)$"),
        "two_pairs": (r"\b(?:with|by|for|into) .+ and (?:the|his|her) .+ (?:with|by|for|into) "),
        "depiction": (rf"\b(?:{w.images}|poster|statue|portrait|bust|print|billboard|doll|figurine)$"),
        "moment_last": (rf"\b(?:{w.lights})$"),
        "falling_weather": (r"\b(?:rain|snow|snowfall|storm|thunderstorm|blizzard|hail)$"),
        "disguise": (r"\b(?:zombie|skeleton|vampire|werewolf|clown|superhero|knight|king|queen|princess|pirate)s?$"),
    }
