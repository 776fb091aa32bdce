"""The instructions of PhotoWorld: several wordings of each task. The last one of each is held out of training."""

from __future__ import annotations

import numpy as np

WORDINGS: dict[str, tuple[str, ...]] = {
    "add": ("Add {new} {place}.", "Put {new} {place}.", "Place {new} {place}.", "{place}, let there be {new}."),
    "add.reference": (
        "Add the {noun} of the second picture {place}.",
        "Put the {noun} from the other picture {place}.",
        "Take the {noun} of the second picture and put it {place}.",
        "{place}, show the {noun} of the second picture.",
    ),
    "remove": ("Remove the {noun}.", "Take the {noun} away.", "Delete the {noun}.", "The {noun} should be gone."),
    "replace": (
        "Replace the {old} by {new}.",
        "Turn the {old} into {new}.",
        "Swap the {old} for {new}.",
        "Where the {old} is, show {new}.",
    ),
    "replace.reference": (
        "Replace the {old} by the {noun} of the second picture.",
        "Swap the {old} for the {noun} of the second picture.",
        "Put the {noun} of the second picture in the place of the {old}.",
        "Where the {old} is, show the {noun} of the second picture.",
    ),
    "move": (
        "Move the {noun} {place}.",
        "Put the {noun} {place}.",
        "Shift the {noun} {place}.",
        "The {noun} goes {place}.",
    ),
    "background": (
        "Put everything in front of the second picture.",
        "Use the second picture as the background.",
        "Replace the background by the second picture.",
        "The background should be that of the second picture.",
    ),
    "background.plain": (
        "Make the background plain {colour}.",
        "Replace the background by plain {colour}.",
        "Cut everything out and lay it on {colour}.",
        "Behind the things let there be only {colour}.",
    ),
    "grey": (
        "Make everything grey but the {noun}.",
        "Turn all but the {noun} grey.",
        "Keep only the colours of the {noun}.",
        "Only the {noun} stays in colour.",
    ),
    "night": ("Make it night.", "Turn day into night.", "Show this at night.", "Let it be a moonlit night."),
    "night.day": ("Make it day.", "Turn night into day.", "Show this by day.", "Let it be a bright day."),
    "style": ("Turn this into {style}.", "Make this {style}.", "Draw this as {style}.", "Show this as {style}."),
    "style.photograph": (
        "Turn {style} into a photograph.",
        "Make this a natural photograph.",
        "Show this as a photograph.",
        "This should be a photograph.",
    ),
    "restore": (
        "Repair this photograph.",
        "Restore this photograph.",
        "Remove the {damage} from this photograph.",
        "Undo the {damage}.",
    ),
    "enlarge": (
        "Make this picture sharp.",
        "Add the missing detail.",
        "Show this small picture in full detail.",
        "Raise the resolution.",
    ),
    "subject": (
        "Show the {noun} of the first picture in the second picture, {place}.",
        "Put the {noun} of the first picture into the second picture, {place}.",
        "A photograph of the {noun} at the place of the second picture, {place}.",
        "{place}, in the second picture, stands the {noun} of the first.",
    ),
    "structure": (
        "A photograph with these edges: {new} {place}.",
        "Follow this edge map: {new} {place}.",
        "Make a photograph of this edge map, {new} {place}.",
        "Fill these lines: {new} {place}.",
    ),
    "structure.edges": (
        "Draw the edges of this picture.",
        "Show the edge map of this picture.",
        "Turn this into its edge map.",
        "Only the edges, please.",
    ),
}


def say(rng: np.random.Generator, key: str, *, held_out: bool = False, **values: str) -> str:
    """A wording of WORDINGS[key], filled in. held_out: the one that training lacks."""
    options = WORDINGS[key]
    chosen = options[-1] if held_out else options[int(rng.random() * (len(options) - 1))]
    text = chosen.format(**values)
    return text[0].upper() + text[1:]
