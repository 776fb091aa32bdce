"""How clauses are read: descriptions, adjectives, questions, places and light that look like other things."""

from __future__ import annotations

import pytest

from tagmoe.annotation.rules.annotator import annotate
from tagmoe.annotation.rules.clauses import split
from tagmoe.annotation.rules.phrases import phrase
from tagmoe.data.store.record import Picture, Record
from tagmoe.tags import TAG_NAMES, TaskDescriptor

SOURCE = Picture(b"", 1, 1, "source")
# The first letters of scope and types, whether a face stays, and the instruction.
READ = """
local object      | no   | remove the woman sitting at the table
local object      | no   | delete the man who is leaning on the fence
local object      | no   | erase the girl with the umbrella on the left
local object      | no   | get rid of the crowd in the background
local object      | no   | take the boy out of the picture
local object      | no   | remove the baby stroller
local object      | no   | replace the man in the suit with a woman
local object      | no   | turn the woman into an elf
local object      | no   | add a woman walking her dog on the sidewalk
local object      | face | delete the people walking behind the bride
local object      | face | get rid of the guy in the blue shirt next to the woman
local object      | face | remove the man on the right, keep the woman unchanged
local object      | face | remove the handbag she is carrying
local object      | face | remove the dog lying next to the man
local object      | face | put her in a summer dress
local object      | face | dress the man in a light linen suit
local object      | face | change his shirt to a light blue hoodie
local object      | no   | add a winter landscape painting to the wall
local object      | no   | add a night stand beside the bed
local object      | no   | move the chair from the left side to the right side
local object      | face | move the man from the left to the right
local object      | no   | put the cup next to the plate
local object      | no   | what if there were balloons in the sky?
local object      | no   | how about adding a tree on the left
local object      | face | what if the boy was wearing a blue hat?
local object      | face | could the man have a hat?
local attribute   | face | give her long wavy hair
local attribute   | face | what if he had a mohawk?
local attribute   | no   | I want the car to be yellow
local attribute   | no   | add stripes to the shirt
local attribute   | no   | change the dress from red to blue
local pose        | face | what if he was smiling?
local pose        | face | make her look to the left
local pose        | no   | let the bird fly away
local illumination | no  | turn off the lamp
local illumination | no  | remove the shadow under the chair
global illumination | no | light the room from the left
global illumination | no | turn the day into night
global background | face | put the man on the moon
global background | no   | the background should be blue
global background | no   | extend the background to the right
global style      | no   | turn the painting into a photograph
global attribute  | no   | make the colors more vibrant
viewpoint         | no   | show the car from the left
viewpoint         | no   | what would the car look like from the side?
multi object      | no   | replace the car with a bus and the tree with a lamp post
multi attribute   | no   | make the shirt blue and the pants black
image             | no   | convert the canny edges to a photo of a castle
global illumination | no   | remove the shadows
global style      | no   | remove the sepia filter
global illumination | no   | remove the fog
local attribute   | face | remove her makeup
local attribute   | face | remove the lipstick from her lips
local object      | face | take off his glasses
global style      | no   | add a film grain effect
global style      | no   | apply a watercolor style
global background | no   | add a beach background
local pose        | face | add a smile to her face
local object      | no   | add the text "SALE" at the top
global illumination | no   | add warm sunlight
local attribute   | face | add red lipstick to her lips
global attribute  | no   | add more color to the picture
viewpoint         | no   | move the camera to the left
viewpoint         | no   | rotate the camera to the right
local attribute   | face | move her hair behind her ears
global background | face | move the woman to a beach
local attribute   | no   | give the room a new color
global background | no   | give the picture a new background
local attribute   | no   | give the cat a larger size
local pose        | face | give the man a smile
local object      | face | give the man a hat
local pose        | face | the woman should raise her arms
global background | no   | change the sky to a starry night
global illumination | no   | change the time of day to evening
global illumination | no   | change the lighting to candlelight
local illumination | no   | make the shadow of the tree longer
global illumination | no   | change the sunset to a sunrise
global style      | no   | change the style to anime
viewpoint         | no   | change the camera angle to a top view
local pose        | face | change her expression to angry
local pose        | face | change his pose to running
local attribute   | no   | change the color of the text to red
local attribute   | no   | change the size of the ball to large
local attribute   | face | change his beard to grey
global attribute  | no   | change the colors of the whole picture to pastel
global style      | no   | turn the drawing into a photo
global illumination | no   | make the image warmer
global background | no   | change the kitchen into a forest
local pose        | face | make the man happy
global attribute  | no   | increase the saturation
global illumination | no   | increase the brightness
local attribute   | no   | increase the size of the ball
global illumination | no   | brighten the picture
local object      | no   | replace the apples with oranges
global background | no   | replace the background with a forest
local object      | no   | change the text to "OPEN"
local object      | no   | give the shirt the text "GO"
multi object      | no   | add two birds
global background illumination | no   | turn the picture into winter
"""
CASES = [[part.strip() for part in line.split("|")] for line in READ.strip().splitlines()]


def answer(instruction: str) -> TaskDescriptor | None:
    found = annotate(Record("", "made", SOURCE, instruction, "", (SOURCE,)), pixels=False)
    return None if found.tags is None else TaskDescriptor.from_tags(TAG_NAMES[index] for index in found.tags)


@pytest.mark.parametrize(("tags", "face", "instruction"), CASES, ids=[case[-1] for case in CASES])
def test_what_describes_a_thing_decides_nothing(tags: str, face: str, instruction: str) -> None:
    found = answer(instruction)
    assert found is not None
    assert " ".join(name.split()[0] for name in (*found.scope, *found.types)) == tags
    assert ("face preservation" in found.preservation) == (face == "face")
    assert found.broken_rules() == ()


@pytest.mark.parametrize(
    "instruction",
    [
        "crop to the face",
        "extract the chair",
        "rotate the image",
        "sharpen the photo",
        "remove the scratches from the photo",
        "make a depth map of this image",
        "detect the edges",
        "zoom in on the man's hand",
        "put the shirt of the second image on the man",
        "make it prettier",
        "make it red",
        "summer",
        "try again",
        "how about a dog?",
        "a man in a hat",
        "remove everything except the dog",
        "remove the lamp and the chair",
        "make her hair blonde and give her glasses",
        "give the room a cozy look",
        "turn the woman into a cartoon character",
        "make the night darker, adding a moon",
    ],
)
def test_words_that_are_not_enough_are_refused(instruction: str) -> None:
    assert answer(instruction) is None


def test_a_season_changes_what_lies_around_and_the_light() -> None:
    found = answer("change the season to winter")
    assert found is not None
    assert found.types == ("background editing", "illumination editing")


@pytest.mark.parametrize(
    ("text", "head"),
    [
        ("the man standing next to the car", "the man"),
        ("the building on the left", "the building"),
        ("the hat the man is wearing", "the hat"),
        ("all the people in the park", "all the people"),
        ("a pair of sunglasses", "a pair of sunglasses"),
        ("the man's red hat", "the man's red hat"),
    ],
)
def test_a_phrase_ends_where_its_description_begins(text: str, head: str) -> None:
    assert phrase(text).head == head


@pytest.mark.parametrize(
    ("text", "commands", "kept"),
    [
        ("could there be a boat on the lake", ("add a boat on the lake",), ""),
        ("what if the horse was a zebra", ("make the horse be a zebra",), ""),
        ("there should be no clouds in the sky", ("remove the clouds in the sky",), ""),
        ("make the car red, keeping the man unchanged", ("make the car red",), "keeping the man unchanged"),
        ("remove the boy but keep the girl", ("remove the boy",), "but keep the girl"),
        ("add a cat and remove the dog", ("add a cat", "remove the dog"), ""),
    ],
)
def test_questions_become_commands_and_what_stays_is_set_apart(text: str, commands: tuple[str, ...], kept: str) -> None:
    found = split(text)
    assert found.commands == commands
    assert found.kept.strip(" ,") == kept
