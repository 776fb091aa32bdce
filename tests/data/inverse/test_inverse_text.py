"""Templates say what a person would say, and nothing where the words are not certain."""

from __future__ import annotations

import pytest

from tagmoe.data.inverse.text import map_of, photograph_of, removal_of
from tagmoe.data.sources.native_tasks import EDITS, edit_of
from tagmoe.world import TASKS


@pytest.mark.parametrize(
    ("said", "undone"),
    [
        ("Add a red balloon to the sky.", "Remove the red balloon from the sky."),
        ("add a dog", "Remove the dog."),
        ("Please add some birds in the sky", "Remove the birds in the sky."),
        ("Could you add a few clouds?", "Remove the clouds."),
        ("Add an owl to the picture", "Remove the owl."),
        ("Add sunglasses to the man", "Remove the sunglasses from the man."),
        ("Add a hat and a scarf to the snowman", "Remove the hat and the scarf from the snowman."),
        ("Put a hat on the dog", "Remove the hat on the dog."),
        ("Add a mustache to him", "Remove the mustache from him."),
        ("Give the man a red hat", "Remove the red hat from the man."),
        ("Make the woman wear sunglasses", "Remove the sunglasses from the woman."),
        ("Add two boats to the river", "Remove the two boats from the river."),
        ("Add a tree to the left of the house", "Remove the tree to the left of the house."),
        ("Insert a wooden bench next to the path", "Remove the wooden bench next to the path."),
        ("Add a path leading to the house", "Remove the path leading to the house."),
        ("Add a building to the skyline", "Remove the building from the skyline."),
        ("Add the Eiffel Tower in the background", "Remove the Eiffel Tower in the background."),
    ],
)
def test_what_was_added_is_removed(said, undone):
    assert removal_of(said) == undone


@pytest.mark.parametrize(
    "said",
    [
        "",
        "Add",
        "Add fog",
        "Add more trees",
        "Add another cat",
        "Add a touch of colour",
        "Add a warm tone to the picture",
        'Add text "hello"',
        "Add a dog and make the sky blue",
        "Add a cat. Remove the dog.",
        "Add a cat, looking at the camera",
        "Add a frog to the pond that is green",
        "Put the cup on the table",
        "Add his hat",
        "Add glass to the door",
        "Add a man sitting to the bench",
        "Add a lot of people",
        "Let there be light",
        "Make the sky blue",
        "Give the man in the car a hat",
        "Add a " + "very " * 20 + "big dog",
    ],
)
def test_what_is_not_certain_is_not_guessed(said):
    assert removal_of(said) is None


def test_a_photograph_of_what_the_source_was():
    assert photograph_of(None) == "Turn this picture into a photograph."
    assert photograph_of("A dog on a beach.") == "Turn this picture into a photograph of a dog on a beach."
    assert photograph_of("a photo of two dogs") == "Turn this picture into a photograph of two dogs."
    assert photograph_of("The image shows a man. He is tall.") == "Turn this picture into a photograph."
    for caption in ("an oil painting of a dog", "a 3d render of a house", "anime girl"):
        assert photograph_of(caption) is None


def test_maps():
    assert map_of("depth_to_image") == ("depth map", "Draw the depth map of this picture.")
    assert map_of("canny2image") == ("edge map", "Draw the edge map of this picture.")
    assert map_of("noise_to_image") is None


def test_tasks_of_the_sources():
    assert [edit_of("omniedit", name) for name in ("removal", "addition", "swap", "attribute_modification", "env")] == [
        "remove",
        "add",
        "replace",
        "attribute",
        "light",
    ]
    assert edit_of("tagworld", "swap") == "move"
    assert all(edit_of("tagworld", task) in EDITS for task in TASKS)
    assert all(edit_of("any", name) == name for name in EDITS)
    for name in ("", "FreeForm", "something new"):
        assert edit_of("ultraedit", name) is None
    assert edit_of("tagworld", "addition") is None
