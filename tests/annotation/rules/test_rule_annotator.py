"""The annotator without a model: real kinds of instructions, what the pixels decide, and when it cannot tell."""

from __future__ import annotations

import ast
import io
import itertools
import json
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tagmoe.annotation.rules import annotator, patterns, word_lists, words
from tagmoe.annotation.rules.annotator import VERSION, annotate
from tagmoe.annotation.rules.words import Operation, Reading, read
from tagmoe.data.store.record import Picture, Record
from tagmoe.tags import RULES, TAG_NAMES, TaskDescriptor
from tagmoe.world import TASKS, sample

# Scope, type and instruction, in the words of people who edit photographs.
INSTRUCTIONS = """
local editing | object editing | add a hat to the man
local editing | object editing | Put a cat on the couch.
local editing | object editing | insert a red balloon in the sky
local editing | object editing | have there be a dog next to the bench
local editing | object editing | there should be a boat on the lake
local editing | object editing | Let a bird sit on the branch
local editing | object editing | It needs a second candle on the cake
local editing | object editing | What if there was a sailboat in the distance?
local editing | object editing | give her a pair of sunglasses
local editing | object editing | put a crown on her head
local editing | object editing | the woman should wear a red scarf
local editing | object editing | remove the car
local editing | object editing | Please delete the watermark in the lower right corner.
local editing | object editing | get rid of the man in the background
local editing | object editing | take the glasses off the man
local editing | object editing | make the bench disappear
local editing | object editing | replace the apple with an orange
local editing | object editing | swap the candle for a lantern
local editing | object editing | turn the dog into a wolf
local editing | object editing | change the horse to a zebra
local editing | object editing | it should be a pizza instead of a salad
local editing | object editing | let the cat be a tiger
local editing | object editing | Can the horse be a unicorn?
local editing | object editing | move the lamp to the left
local editing | object editing | change the text on the sign to 'OPEN'
local editing | attribute editing | make the car red
local editing | attribute editing | Change the colour of her dress to dark green.
local editing | attribute editing | turn the wall into brick
local editing | attribute editing | make the statue out of gold
local editing | attribute editing | make her hair blonde
local editing | attribute editing | the bus should be yellow
local editing | attribute editing | make the dog fluffier
local editing | attribute editing | make the man older
local editing | attribute editing | give the horse a white mane
multi region editing | attribute editing | make all the chairs blue
multi region editing | object editing | remove both cars
multi region editing | object editing | swap the dog and the cat
multi region editing | object editing | remove the car and add a tree
global editing | background editing | change the background to a beach
global editing | background editing | blur the background
global editing | background editing | put her on a beach
global editing | background editing | make it take place in a forest
global editing | background editing | Replace the sky with a galaxy
global editing | style transfer | turn it into a watercolor painting
global editing | style transfer | make it look like a Van Gogh painting
global editing | style transfer | convert the image to black and white
global editing | style transfer | as a pencil sketch
global editing | style transfer | in the style of Picasso
global editing | style transfer | Apply a vintage film effect
global editing | illumination editing | make it night
global editing | illumination editing | make it snow
global editing | illumination editing | what if it were sunset?
global editing | illumination editing | change the weather to rainy
global editing | illumination editing | make the lighting warmer
global editing | illumination editing | add fog
global editing | illumination editing | turn off the lights in the room
local editing | pose editing | make her smile
local editing | pose editing | have the dog jump
local editing | pose editing | change her expression to surprised
local editing | pose editing | let him raise his left arm
viewpoint editing | | show it from above
viewpoint editing | | zoom out
viewpoint editing | | change the camera angle to a side view
"""
CASES = [[part.strip() for part in line.split("|")] for line in INSTRUCTIONS.strip().splitlines()]


def picture(array: np.ndarray, role: str = "source") -> Picture:
    data = io.BytesIO()
    Image.fromarray(array).save(data, "PNG")
    return Picture(data.getvalue(), array.shape[1], array.shape[0], role)  # type: ignore[arg-type]


def scene(*places: tuple[int, int]) -> np.ndarray:
    """A striped ground with squares at (y, x)."""
    ground = np.zeros((128, 128, 3), dtype=np.uint8)
    ground[:] = np.linspace(60, 180, 128, dtype=np.uint8)[:, None, None]
    for y, x in places:
        ground[y : y + 24, x : x + 24] = (220, 30, 30)
    return ground


def record(
    instruction: str,
    source: np.ndarray | None = None,
    target: np.ndarray | None = None,
    *,
    roles: tuple[str, ...] = ("source",),
    native_task: str = "",
    dataset: str = "made",
) -> Record:
    source = scene() if source is None else source
    target = scene((50, 50)) if target is None else target
    images = tuple(picture(source, role) for role in roles)
    return Record("id", dataset, picture(target), instruction, "CC0", images, native_task=native_task)


def tags_of(*args: object, **options: object) -> TaskDescriptor:
    answer = annotate(record(*args, **options))  # type: ignore[arg-type]
    assert answer.status == "ok", answer.reason
    return TaskDescriptor.from_tags(TAG_NAMES[index] for index in answer.tags or ())


@pytest.mark.parametrize(("scope", "kind", "instruction"), CASES, ids=[case[-1] for case in CASES])
def test_words_tell_scope_and_type(scope: str, kind: str, instruction: str) -> None:
    answer = annotate(record(instruction), pixels=False)
    assert answer.status == "ok", answer.reason
    found = TaskDescriptor.from_tags(TAG_NAMES[index] for index in answer.tags or ())
    assert found.scope == (scope,)
    assert found.types == ((kind,) if kind else ())
    assert found.broken_rules() == ()
    assert answer.rules_version == VERSION


@pytest.mark.parametrize(
    "instruction", ["", "the quick brown fox", "do something about Monday", "hazlo mas bonito", "7", "make it a Banksy"]
)
def test_what_the_words_do_not_tell_is_not_guessed(instruction: str) -> None:
    answer = annotate(record(instruction))
    assert answer.status == "refused"
    assert answer.tags is None
    assert answer.reason


def test_an_unread_half_makes_no_tags() -> None:
    assert annotate(record("remove the car and then frobnicate the left tree")).status == "refused"
    assert annotate(record("remove the car and then add a tree")).status == "ok"


@pytest.mark.parametrize("words", ["remove the {}", "make the {} red", "replace the {} with vases"])
def test_whether_a_plural_is_one_place_the_pixels_decide(words: str) -> None:
    instruction = words.format("bottles")
    together = tags_of(instruction, scene((20, 20), (20, 46)), scene())
    apart = tags_of(instruction, scene((10, 10), (90, 90)), scene())
    assert (together.scope, apart.scope) == (("local editing",), ("multi region editing",))
    # One thing is one thing, whatever else an encoder or a model changed.
    single = tags_of(words.format("bottle"), scene((10, 10), (90, 90)), scene())
    assert single.scope == ("local editing",)


def test_whether_it_is_a_thing_or_the_picture_the_pixels_decide() -> None:
    assert tags_of("make it green", scene((40, 40)), scene()).scope == ("local editing",)
    green = np.uint8(scene((40, 40)) * (0.3, 1.0, 0.3))
    assert tags_of("make it green", scene((40, 40)), green).scope == ("global editing",)


def test_a_style_that_moves_every_edge_keeps_no_structure() -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (128, 128, 3), dtype=np.uint8)
    things = scene((20, 20), (20, 80), (80, 40))
    kept = tags_of("turn it into a painting", things, 255 - things).preservation
    lost = tags_of("turn it into a painting", things, np.kron(noise[::8, ::8], np.ones((8, 8, 1), "u1")))
    assert "structure preservation" in kept
    assert "structure preservation" not in lost.preservation


def test_the_same_picture_twice_is_refused() -> None:
    answer = annotate(record("make it red", scene(), scene()))
    assert answer.status == "refused"
    assert "same picture" in answer.reason
    assert annotate(record("make the car red", scene(), scene()), pixels=False).status == "ok"


def test_pictures_that_cannot_be_decoded_leave_the_words() -> None:
    broken = record("make the car red")
    broken = Record("id", "made", Picture(b"none", 1, 1), "make the car red", "CC0", broken.images)
    answer = annotate(broken)
    assert answer.status == "ok"
    assert "words alone" in answer.reason
    assert answer.tags == annotate(record("make the car red")).tags


@pytest.mark.parametrize("words", ["a ", "the cat ", "turn the an ", "make the very ", "\u201c"])
def test_a_text_made_to_be_slow_is_not(words: str) -> None:
    before = time.process_time()
    read(words * (1_000_000 // len(words)))
    assert time.process_time() - before < 2


def test_a_camera_that_moved_is_seen_without_words() -> None:
    rng = np.random.default_rng(3)
    wide = np.asarray(
        Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).resize((192, 192), Image.Resampling.BICUBIC)
    )
    assert tags_of("surprise me", wide, wide[:, ::-1].copy()).scope == ("viewpoint editing",)


@pytest.mark.parametrize(
    ("roles", "instruction", "scope"),
    [
        ((), "add a red car", "image generation"),
        (("reference",), "this toy on a shelf in a library", "content customization"),
        (("reference",), "a castle in this style", "style customization"),
        (("reference",), "a castle from this depth map", "image generation"),
        (("source", "reference"), "put this toy on the table", "content customization"),
        (("person", "garment"), "let her wear it", "content customization"),
        (("source", "mask"), "add a red car", "local editing"),
    ],
)
def test_roles_of_pictures_decide(roles: tuple[str, ...], instruction: str, scope: str) -> None:
    assert tags_of(instruction, roles=roles).scope == (scope,)


def test_a_person_of_a_reference_keeps_the_face() -> None:
    for roles in (("reference",), ("source", "reference")):
        assert "face preservation" in tags_of("this woman on a beach", roles=roles).preservation
        assert "face preservation" not in tags_of("this toy on a beach", roles=roles).preservation


def test_the_native_task_decides_what_the_words_leave_open() -> None:
    assert annotate(record("a horse")).status == "refused"
    assert tags_of("a horse", native_task="swap").types == ("object editing",)
    assert tags_of("a horse", native_task="style").types == ("style transfer",)
    assert tags_of("remove all horses", native_task="removal").scope == ("multi region editing",)
    assert annotate(record("a horse", native_task="swap"), native_task=False).status == "refused"
    refused = annotate(record("mend this photo", native_task="restoration"))
    assert refused.status == "refused"
    assert "restoring" in refused.reason
    assert annotate(record("a horse", native_task="no such task")).status == "refused"


def test_a_face_is_kept_where_words_speak_of_one_that_stays() -> None:
    assert "face preservation" in tags_of("give the man a hat").preservation
    assert "face preservation" not in tags_of("add a ball on the grass").preservation
    assert "face preservation" not in tags_of("remove the man from the beach").preservation
    assert "face preservation" in tags_of("remove the hat from the man").preservation
    assert "face preservation" not in tags_of("turn the man into a painting of a man").preservation


@pytest.mark.parametrize(
    ("instruction", "kept"),
    [
        ("add a ball on the grass", {"structure", "background", "style"}),
        ("make the car red", {"structure", "background", "identity", "style"}),
        ("make the building taller", {"background", "identity", "style"}),
        ("put a hat on the dog", {"background", "identity", "style"}),
        ("give the man a hat", {"background", "identity", "face", "style"}),
        ("move the lamp to the left", {"background", "identity", "style"}),
        ("make the image more colourful", {"structure", "identity", "style"}),
        ("make it night", {"structure", "identity", "style"}),
        ("change the background to a beach", {"structure", "identity", "style"}),
        ("as a pencil sketch", {"structure", "identity"}),
        ("zoom out", {"background", "identity", "style"}),
        ("add a tree and turn it into a watercolour", {"structure"}),
    ],
)
def test_what_is_kept(instruction: str, kept: set[str]) -> None:
    answer = annotate(record(instruction), pixels=False)
    found = TaskDescriptor.from_tags(TAG_NAMES[index] for index in answer.tags or ())
    assert {name.removesuffix(" preservation") for name in found.preservation} == kept


def test_no_two_operations_make_tags_that_break_a_rule() -> None:
    things = ("one", "several", "some", "whole")
    single = [
        Operation(edit, amount, worn=worn)  # type: ignore[arg-type]
        for edit in annotator._TYPES
        for amount in (("whole",) if edit in (*annotator._WHOLE, "viewpoint") else things)
        for worn in (False, True)
    ]
    few = single[::5]
    for face in (False, True):
        words = Reading((), "", face=face, style=False, control_map=False)
        for operations in (*((one,) for one in single), *itertools.product(few, few)):
            found = annotator._descriptor(operations, words, None)
            assert found.broken_rules() == (), operations


def test_politeness_case_and_quotes_change_nothing() -> None:
    plain = read("remove the car").operations
    for said in ("Could you please remove the car?", "REMOVE THE CAR!", "  Now, remove the car. "):
        assert read(said).operations == plain
    # What is in quotes is written, not done.
    assert [operation.edit for operation in read("add the text 'remove the background'").operations] == ["text"]


@pytest.mark.slow
def test_answers_break_no_rule_and_are_the_same_again() -> None:
    for task in TASKS:
        for number in range(2):
            case = sample(5, number, split="test", task=task)
            roles = ("source",) if case.sources else ()
            source = case.sources[0] if case.sources else None
            for instruction in (case.instruction, f"{case.instruction} and make the background blue"):
                made = record(instruction, source, case.target, roles=roles)
                answer = annotate(made, pixels=number % 2 == 0)
                assert answer == annotate(made, pixels=number % 2 == 0)
                if answer.tags is not None:
                    found = TaskDescriptor.from_tags(TAG_NAMES[index] for index in answer.tags)
                    assert not any(rule.broken(found) for rule in RULES)
                json.loads(answer.raw)


def test_words_alone_know_tagworld_but_for_its_faces() -> None:
    """A floor under the measurement in tools/measure_rules.py, whose gold the rules must not see."""
    right, cases = 0, 0
    unseen = {"face preservation", "identity preservation"}
    for task in TASKS:
        for number in range(5):
            case = sample(77, number, split="test", task=task)
            followed = task in ("subject", "style_ref", "structure")
            roles = () if not case.sources else ("reference",) if followed else ("source",)
            made = record(case.instruction, case.sources[0] if case.sources else None, case.target, roles=roles)
            answer = annotate(made, pixels=False)
            cases += 1
            said = {TAG_NAMES[index] for index in answer.tags or ()}
            right += said - unseen == set(case.tags.tags) - unseen
    assert right / cases > 0.97


@pytest.mark.parametrize("module", [annotator, patterns, word_lists, words])
def test_the_rules_never_see_the_world(module: object) -> None:
    tree = ast.parse(Path(module.__file__).read_text())  # type: ignore[attr-defined]
    imports = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not [name for name in imports if "world" in name]
