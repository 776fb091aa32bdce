"""Every paraphrase of every task. The held-out ones use only words that occur in training."""

from __future__ import annotations

from typing import NamedTuple


class Templates(NamedTuple):
    """Paraphrases of one instruction: for training, and held out for test. `{ref}` and the like are filled in."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]


# The key is the task, or "task.variant" where its cases need different words.
TEMPLATES: dict[str, Templates] = {
    "generate": Templates(
        ("{scene}", "draw {scene}", "show {scene}", "paint {scene}", "make a picture of {scene}"),
        ("put {scene}", "a picture of {scene}"),
    ),
    "add": Templates(
        (
            "add {new} at the {place}",
            "put {new} at the {place}",
            "draw {new} at the {place}",
            "place {new} at the {place}",
            "at the {place}, add {new}",
            "show {new} at the {place}",
        ),
        ("paint {new} at the {place}", "at the {place}, draw {new}"),
    ),
    "remove": Templates(
        ("remove {ref}", "delete {ref}", "erase {ref}", "take {ref} away", "get rid of {ref}", "clear {ref} away"),
        ("clear {ref}", "take away {ref}"),
    ),
    "replace": Templates(
        (
            "replace {ref} with {new}",
            "turn {ref} into {new}",
            "change {ref} to {new}",
            "swap {ref} for {new}",
            "make {ref} {new}",
            "put {new} in place of {ref}",
        ),
        ("change {ref} into {new}", "in place of {ref}, draw {new}"),
    ),
    "recolour": Templates(
        (
            "make {ref} {colour}",
            "paint {ref} {colour}",
            "turn {ref} {colour}",
            "change {ref} to {colour}",
            "colour {ref} {colour}",
            "change the colour of {ref} to {colour}",
        ),
        ("give {ref} the colour {colour}", "draw {ref} in {colour}"),
    ),
    "retexture": Templates(
        (
            "make {ref} {texture}",
            "turn {ref} {texture}",
            "change {ref} to {texture}",
            "draw {ref} {texture}",
            "make the look of {ref} {texture}",
            "give {ref} a {texture} look",
        ),
        ("change {ref} to a {texture} look", "paint {ref} {texture}"),
    ),
    "resize.small": Templates(
        (
            "make {ref} small",
            "shrink {ref}",
            "make {ref} smaller",
            "change {ref} to a small size",
            "give {ref} a small size",
            "turn {ref} small",
        ),
        ("draw {ref} small", "change the size of {ref} to small"),
    ),
    "resize.large": Templates(
        (
            "make {ref} large",
            "grow {ref}",
            "make {ref} larger",
            "change {ref} to a large size",
            "give {ref} a large size",
            "change the size of {ref} to large",
        ),
        ("draw {ref} large", "turn {ref} large"),
    ),
    "move": Templates(
        (
            "move {ref} to the {place}",
            "put {ref} at the {place}",
            "shift {ref} to the {place}",
            "take {ref} to the {place}",
            "bring {ref} to the {place}",
            "place {ref} at the {place}",
        ),
        ("shift {ref} over to the {place}", "show {ref} at the {place}"),
    ),
    "swap": Templates(
        (
            "swap {ref} and {ref2}",
            "let {ref} and {ref2} swap places",
            "switch {ref} and {ref2}",
            "swap the places of {ref} and {ref2}",
            "move {ref} over to {ref2} and back",
            "exchange {ref} and {ref2}",
        ),
        ("switch the places of {ref} and {ref2}", "let {ref} and {ref2} switch"),
    ),
    "expression": Templates(
        (
            "make the person {look}",
            "the person is {look} now",
            "give the person a {look} look",
            "let the person look {look}",
            "change the face to {look}",
            "show the person {look}",
        ),
        ("make the face look {look}", "change the person to {look}"),
    ),
    "wear": Templates(
        (
            "make the person wear {clothes}",
            "put {clothes} on the person",
            "give the person {clothes}",
            "add {clothes} to the person",
            "let the person wear {clothes}",
            "draw {clothes} on the person",
        ),
        ("show the person in {clothes}", "add {clothes} to the face"),
    ),
    "take_off": Templates(
        (
            "take off the {clothes}",
            "remove the {clothes}",
            "take the {clothes} off the person",
            "the person wears no {clothes} now",
            "let the person take off the {clothes}",
            "get rid of the {clothes} of the person",
        ),
        ("take the {clothes} away", "show the person with no {clothes}"),
    ),
    "hair": Templates(
        (
            "make the hair {hair}",
            "give the person {hair} hair",
            "change the hair to {hair}",
            "turn the hair {hair}",
            "change the colour of the hair to {hair}",
            "let the person have {hair} hair",
        ),
        ("show the person with {hair} hair", "colour the hair of the person {hair}"),
    ),
    "background": Templates(
        (
            "make the background {colour}",
            "change the background to {colour}",
            "turn the background {colour}",
            "paint the background {colour}",
            "change the colour of the background to {colour}",
            "give the background the colour {colour}",
        ),
        ("colour the background {colour}", "let the background have the colour {colour}"),
    ),
    "background.both": Templates(
        (
            "put everything on {background}",
            "change the background to {background}",
            "use {background}",
            "replace the background with {background}",
            "show everything on {background}",
            "turn the background into {background}",
        ),
        ("draw everything on {background}", "give the picture {background}"),
    ),
    "pattern": Templates(
        (
            "make the background {pattern}",
            "turn the background {pattern}",
            "give the background a {pattern} look",
            "change the background to {pattern}",
            "draw the background {pattern}",
            "use a {pattern} look for the background",
        ),
        ("change the look of the background to {pattern}", "show the background {pattern}"),
    ),
    "style": Templates(
        (
            "turn this into {style}",
            "make this {style}",
            "make it look like {style}",
            "redraw this as {style}",
            "change the picture to {style}",
            "show it as {style}",
        ),
        ("turn the picture into {style}", "draw it like {style}"),
    ),
    "destyle": Templates(
        (
            "turn this into a flat picture",
            "make this a flat picture",
            "turn {style} back into a flat picture",
            "redraw this as a flat picture",
            "take the style away",
            "show it as a flat picture",
        ),
        ("change this back to a flat picture", "remove the style"),
    ),
    "light": Templates(
        (
            "show this {light}",
            "make it look like it is {light}",
            "change the light, show it {light}",
            "put the picture {light}",
            "the picture is now {light}",
            "redraw this {light}",
        ),
        ("make the picture {light}", "turn the light, it is now {light}"),
    ),
    "relight": Templates(
        (
            "show this in daylight",
            "bring back the daylight",
            "make it look like it is in daylight",
            "change the light back to daylight",
            "make it day",
            "put the picture in daylight",
        ),
        ("redraw this in daylight", "the picture is now in daylight"),
    ),
    "viewpoint": Templates(
        (
            "look at it from behind",
            "show this from behind",
            "view it from behind",
            "turn around and look from behind",
            "show the view from behind",
            "redraw this from behind",
        ),
        ("draw it from behind", "look from behind"),
    ),
    "multi_recolour.all": Templates(
        (
            "make everything {colour}",
            "paint everything {colour}",
            "turn everything {colour}",
            "change everything to {colour}",
            "change all the things to {colour}",
            "colour everything {colour}",
        ),
        ("draw everything in {colour}", "make all the things {colour}"),
    ),
    "multi_recolour.group": Templates(
        (
            "make all the {group} {colour}",
            "paint all the {group} {colour}",
            "turn all the {group} {colour}",
            "change all the {group} to {colour}",
            "change the colour of all the {group} to {colour}",
            "colour all the {group} {colour}",
        ),
        ("draw all the {group} in {colour}", "give all the {group} the colour {colour}"),
    ),
    "multi_remove": Templates(
        (
            "remove all the {group}",
            "delete all the {group}",
            "erase all the {group}",
            "take all the {group} away",
            "get rid of all the {group}",
            "clear all the {group} away",
        ),
        ("clear all the {group}", "take away all the {group}"),
    ),
    "subject": Templates(
        (
            "put this {kind} at the {place} on {background}",
            "show this {kind} at the {place} on {background}",
            "place this {kind} at the {place} on {background}",
            "draw this {kind} at the {place} on {background}",
            "on {background}, put this {kind} at the {place}",
            "make a picture of this {kind} at the {place} on {background}",
        ),
        ("on {background}, show this {kind} at the {place}", "this {kind} at the {place} on {background}"),
    ),
    "style_ref": Templates(
        (
            "{scene} in this style",
            "draw {scene} in this style",
            "in this style, {scene}",
            "paint {scene} in this style",
            "in this style, draw {scene}",
            "show {scene} in this style",
        ),
        ("in this style, paint {scene}", "in this style, show {scene}"),
    ),
    "structure": Templates(
        (
            "fill this map with {scene}",
            "{scene} from this map",
            "turn this map into {scene}",
            "draw {scene} from this map",
            "use this map for {scene}",
            "paint this map as {scene}",
        ),
        ("show {scene} from this map", "redraw this map as {scene}"),
    ),
}
