"""Several pictures, several seeds: what gives which result, and what happens to the rest when one fails."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tagmoe.cli.batch import choose_seeds
from tagmoe.errors import UsageError

PROMPT = "make the circle red"


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.fixture
def folder(tmp_path: Path, picture: Path) -> Path:
    """Three pictures, one hidden, and what is none."""
    made = tmp_path / "in"
    (made / "below").mkdir(parents=True)
    scene = Image.open(picture)
    scene.save(made / "a.png")
    scene.rotate(90).save(made / "b.jpg", quality=95)
    scene.rotate(180).save(made / "c.gif")
    scene.save(made / ".hidden.png")
    (made / "notes.txt").write_text("no picture")
    return made


@pytest.mark.parametrize(
    ("text", "count", "seeds"),
    [
        ("7", None, [7]),
        ("0-3", None, [0, 1, 2, 3]),
        ("1,5, 9", None, [1, 5, 9]),
        ("0-1,8", 3, [0, 1, 8]),
        ("4", 3, [4, 5, 6]),
        ("9223372036854775807", None, [2**63 - 1]),
    ],
)
def test_seeds(text: str, count: int | None, seeds: list[int]) -> None:
    assert choose_seeds(text, count) == seeds


def test_new_seeds_differ() -> None:
    assert len(set(choose_seeds(None, 50))) == 50
    assert choose_seeds(None, None) != choose_seeds(None, None)


@pytest.mark.parametrize(
    ("text", "count", "part"),
    [
        ("-1", None, "'-1'"),
        ("3-1", None, "goes up"),
        ("1,1", None, "twice"),
        ("a", None, "'a'"),
        ("1,", None, "'1,'"),
        ("1.5", None, "'1.5'"),
        ("0-99999999", None, "10000"),
        ("9223372036854775808", None, "2\\^63"),
        ("1,2", 3, "--num-images is 3"),
    ],
)
def test_bad_seeds(text: str, count: int | None, part: str) -> None:
    with pytest.raises(UsageError, match=part):
        choose_seeds(text, count)


@pytest.mark.slow
def test_a_folder_gives_a_result_for_each_picture(tagmoe, model, folder, tmp_path) -> None:
    out = tmp_path / "out"
    command = ["edit", folder, "-p", PROMPT, "-o", out, "--model", model, "--steps", 1, "--seed", 3]
    outcome = tagmoe(*command, "--json")
    assert outcome.code == 0, outcome.err
    told = json.loads(outcome.out)
    assert [Path(one["output"]).name for one in told["results"]] == ["a.png", "b.jpg", "c.png"]
    assert (told["kept"], told["failed"]) == ([], [])
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "b.jpg", "c.png"]
    single = tmp_path / "one.png"
    assert tagmoe("edit", folder / "c.gif", *command[2:4], "-o", single, *command[6:]).code == 0
    assert np.array_equal(pixels(out / "c.png"), pixels(single))


@pytest.mark.slow
def test_each_makes_a_result_of_each_and_without_it_one_of_all(tagmoe, model, folder, tmp_path) -> None:
    common = ["-p", PROMPT, "--model", model, "--steps", 1, "--seed", 0]
    out, pictures = tmp_path / "out", [folder / "a.png", folder / "b.jpg"]
    outcome = tagmoe("edit", *pictures, *common, "-o", out, "--each")
    assert outcome.code == 0, outcome.err
    assert outcome.out.split() == [str(out / "a.png"), str(out / "b.jpg")]
    outcome = tagmoe("edit", *pictures, *common, "-o", tmp_path / "both.png")
    assert outcome.out.split() == [str(tmp_path / "both.png")]
    assert (pixels(tmp_path / "both.png") != pixels(out / "a.png")).any()


@pytest.mark.slow
def test_a_bad_picture_is_said_and_the_others_go_on(tagmoe, model, folder, tmp_path) -> None:
    (folder / "b.jpg").write_text("no picture")
    out = tmp_path / "out"
    command = ["edit", folder, "-p", PROMPT, "-o", out, "--model", model, "--steps", 1, "--seed", 3]
    outcome = tagmoe(*command)
    assert outcome.code == 1
    assert outcome.out.split() == [str(out / "a.png"), str(out / "c.png")]
    assert f"{out / 'b.jpg'}: failed: " in outcome.err
    assert outcome.err.splitlines()[-1] == "error: 1 of 3 results are missing; the reasons are above."

    # The same command goes on: what is there was made in the same way.
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    Image.new("RGB", (64, 64), "red").save(folder / "b.jpg")
    outcome = tagmoe(*command, "--json")
    assert outcome.code == 0, outcome.err
    told = json.loads(outcome.out)
    assert [Path(one["output"]).name for one in told["results"]] == ["b.jpg"]
    assert [Path(name).name for name in told["kept"]] == ["a.png", "c.png"]
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "b.jpg", "c.png"]


@pytest.mark.slow
@pytest.mark.parametrize("change", ["prompt", "seed", "steps", "source", "no metadata"])
def test_what_was_made_otherwise_is_refused_without_force(tagmoe, model, folder, tmp_path, change) -> None:
    out = tmp_path / "out"
    options = {"-p": PROMPT, "-o": out, "--model": model, "--steps": 1, "--seed": 3}
    hidden = ["--no-metadata"] if change == "no metadata" else []
    words = [word for pair in options.items() for word in pair]
    pictures = [folder / "a.png", folder / "b.jpg"]
    assert tagmoe("edit", *pictures, *words, "--each", *hidden).code == 0
    before = (out / "a.png").read_bytes()
    if change == "source":
        Image.new("RGB", (64, 64), "blue").save(folder / "a.png")
        Image.new("RGB", (64, 64), "blue").save(folder / "b.jpg")
    changed = {"prompt": {"-p": "remove the circle"}, "seed": {"--seed": 4}, "steps": {"--steps": 2}}.get(change, {})
    words = [word for pair in (options | changed).items() for word in pair]
    outcome = tagmoe("edit", *pictures, *words, "--each", *hidden)
    assert outcome.code == 1
    assert outcome.err.count("exists; choose another name or add --force") == 2
    assert outcome.out == ""
    assert (out / "a.png").read_bytes() == before
    assert tagmoe("edit", *pictures, *words, "--each", *hidden, "--force").code == 0
    if change != "no metadata":
        assert (out / "a.png").read_bytes() != before


@pytest.mark.slow
def test_several_seeds_stand_in_the_names(tagmoe, model, picture, tmp_path) -> None:
    common = ["-p", PROMPT, "--model", model, "--steps", 1]
    outcome = tagmoe("edit", picture, *common, "--seed", "1,4-5", "-o", tmp_path / "out.png")
    assert outcome.code == 0, outcome.err
    names = [Path(line).name for line in outcome.out.split()]
    assert names == ["out-seed1.png", "out-seed4.png", "out-seed5.png"]
    assert tagmoe("edit", picture, *common, "--seed", 4, "-o", tmp_path / "alone.png").code == 0
    assert np.array_equal(pixels(tmp_path / "alone.png"), pixels(tmp_path / "out-seed4.png"))
    assert Image.open(tmp_path / "out-seed5.png").text["seed"] == "5"

    outcome = tagmoe("edit", picture, *common, "--seed", 7, "--num-images", 2, "-o", tmp_path / "new")
    assert [Path(line).name for line in outcome.out.split()] == ["scene-seed7.png", "scene-seed8.png"]
    outcome = tagmoe("generate", "-p", "a red circle", *common[2:], "--num-images", 2, "-o", tmp_path / "more")
    names = sorted(path.name for path in (tmp_path / "more").iterdir())
    assert len(names) == 2
    for name in names:
        assert name == f"seed{Image.open(tmp_path / 'more' / name).text['seed']}.png"


@pytest.mark.slow
def test_one_picture_into_a_folder_keeps_its_name(tagmoe, model, picture, tmp_path) -> None:
    outcome = tagmoe("edit", picture, "-p", PROMPT, "-o", tmp_path, "--model", model, "--steps", 1)
    assert outcome.out.split() == [str(tmp_path / "scene.png")]


@pytest.mark.parametrize(
    ("pictures", "options", "part"),
    [
        (["in"], ["-o", "out.png"], "for 3 pictures; give a folder"),
        (["in/a.png", "in/b.jpg"], ["-o", "out.png", "--each"], "for 2 pictures; give a folder"),
        (["in"], ["-o", "in"], "would replace a source"),
        (["in"], ["-o", "no/where"], "no folder"),
        (["in"], ["-o", "in/notes.txt"], "is a file"),
        (["in/a.png", "other/a.png"], ["-o", "out", "--each"], "would both be"),
        (["in/below"], ["-o", "out"], "holds no picture"),
        (["in"], ["-o", "-"], "-o - takes one picture, and this makes 3"),
        (["in/a.png"], ["-o", "-", "--seed", "0-1"], "this makes 2"),
        (["in/a.png"], ["-o", "no/x.png", "--seed", "0-1"], "no folder"),
        (["in/a.png"], ["-o", "x.gif", "--seed", "0-1"], "'.gif'"),
        (["in"], ["-o", "out", "--explain", "page.html"], "--explain is a page of one picture"),
        ([], ["-o", "out.png"], "no IMAGE"),
        (["-", "-"], ["-o", "out.png"], "twice"),
        (["in/a.png"], ["-o", "-", "--json"], "both write to stdout"),
    ],
)
def test_what_does_not_go_together_is_refused_at_once(
    tagmoe, folder, tmp_path, monkeypatch, pictures, options, part
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, tmp_path / "other")
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    tagmoe("edit", *pictures, "-p", PROMPT, *options).refused(2, part)
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


def test_an_unknown_word_is_refused_once_and_leaves_no_folder(tagmoe, model, folder, tmp_path) -> None:
    out = tmp_path / "out"
    tagmoe("edit", folder, "-p", "make the zebra red", "-o", out, "--model", model, "--rewrite", "none").refused(
        2, "'zebra'"
    )
    assert not out.exists()


def test_if_all_fail_no_empty_folder_is_left(tagmoe, model, tmp_path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "in" / name).write_text("no picture")
    outcome = tagmoe("edit", tmp_path / "in", "-p", PROMPT, "-o", tmp_path / "out", "--model", model)
    assert outcome.code == 1
    assert outcome.err.splitlines()[-1].startswith("error: 2 of 2 results are missing")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.slow
def test_a_prompt_is_rewritten_once_for_all_seeds_of_a_picture(tagmoe, model, picture, tmp_path) -> None:
    command = ["edit", picture, "-p", "night", "--rewrite", "tagworld", "-o", tmp_path / "out", "--seed", "0-2"]
    outcome = tagmoe(*command, "--model", model, "--steps", 1)
    assert outcome.code == 0, outcome.err
    assert outcome.err.count("rewritten by") == 1
    assert len({Image.open(path).text["prompt"] for path in (tmp_path / "out").iterdir()}) == 1
    outcome = tagmoe(*command, "--model", model, "--steps", 1)
    assert outcome.code == 0, outcome.err
    assert outcome.err.count("kept") == 3
    # Not rewritten is another way.
    plain = [*command[:3], "show this at night", "--rewrite", "none", *command[6:]]
    assert tagmoe(*plain, "--model", model, "--steps", 1).err.count("exists; choose") == 3


def test_an_interrupt_keeps_what_is_finished(tagmoe, model, folder, tmp_path, monkeypatch) -> None:
    from tagmoe.pipeline.pipeline import TagMoEPipeline

    real, calls = TagMoEPipeline.__call__, []

    def stop(*words: object, **options: object) -> object:
        calls.append(words)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*words, **options)  # type: ignore[arg-type]

    out = tmp_path / "out"
    command = ["edit", folder, "-p", PROMPT, "-o", out, "--model", model, "--steps", 1, "--seed", 0]
    with monkeypatch.context() as patched:
        patched.setattr(TagMoEPipeline, "__call__", stop)
        assert tagmoe(*command).code == 130
    assert [path.name for path in out.iterdir()] == ["a.png"]
    outcome = tagmoe(*command)
    assert outcome.code == 0, outcome.err
    assert outcome.err.count("kept") == 1
    assert len(list(out.iterdir())) == 3
