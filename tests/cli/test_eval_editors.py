"""`tagmoe eval generate` with editors that are not ours, and with several workers."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from support.images_server import images_server
from support.tiny_editors import instruct_pix2pix

from tagmoe.cli.eval.editors import ANCHOR_NAMES, TAKEN_BY, EditorOptions
from tagmoe.evaluate.answers.anchors import ANCHORS
from tagmoe.world import TASKS

FUNCTION = """
from PIL import ImageOps

def mirror(instructions, images, seeds):
    return [ImageOps.mirror(pictures[0]) for pictures in images]

class Dark:
    def facts(self):
        return {"name": "dark", "settings": {"level": 3}}

    def __call__(self, instructions, images, seeds):
        return [pictures[0].point(lambda value: value // 3) for pictures in images]

dark = Dark()
number = 3
"""


@pytest.fixture
def bench(tagmoe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    # The command runs in this process: what it imports must not stay for the next test.
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_editors", raising=False)
    assert tagmoe("eval", "prepare", "tagworld", "--cases", 1, "--out", "bench").code == 0
    return Path("bench")


def facts_of(run: str) -> dict:
    return json.loads(Path(run, "run.json").read_text())["editor"]


def test_a_function_is_an_editor(tagmoe, bench: Path) -> None:
    Path("my_editors.py").write_text(FUNCTION)
    made = tagmoe("eval", "generate", bench, "--editor", "my_editors:mirror", "--out", "mirror", "--json")
    assert made.code == 1, "there is nothing to mirror where a picture is to be made from text"
    data = json.loads(made.out)
    assert data["statuses"] == {"failed": 1, "ok": len(TASKS) - 1}
    assert "IndexError" in data["failures"][0]["reason"]
    facts = facts_of("mirror")
    assert (facts["name"], len(facts["code"])) == ("my_editors:mirror", 64)
    assert tagmoe("eval", "generate", bench, "--editor", "my_editors:dark", "--out", "dark", "--tasks", "add").code == 0
    assert (facts_of("dark")["name"], facts_of("dark")["settings"]) == ("dark", {"level": 3})
    again = ("eval", "generate", bench, "--out", "x", "--editor")
    tagmoe(*again, "my_editors:none").refused(2, "cannot be imported (AttributeError", "package.module:function")
    tagmoe(*again, "no_such_module:edit").refused(2, "cannot be imported (ModuleNotFoundError")
    tagmoe(*again, "my_editors:number").refused(2, "is no function")
    assert not Path("x").exists()
    Path("my_editors.py").write_text(FUNCTION + "# changed\n")
    del sys.modules["my_editors"]
    command = ("eval", "generate", bench, "--editor", "my_editors:mirror", "--out", "mirror")
    tagmoe(*command).refused(2, "holds outputs of another run: its editor.code is")


def test_a_server_is_an_editor(tagmoe, bench: Path) -> None:
    with images_server() as server:
        command = ("eval", "generate", bench, "--endpoint", server.url, "--model", "tiny-editor")
        made = tagmoe(*command, "--concurrency", 3, "--set", "quality=low", "--out", "served", "--json")
        assert made.code == 0, made.err
        assert json.loads(made.out)["statuses"] == {"ok": len(TASKS)}
        assert {request["quality"] for request in server.requests} == {"low"}
        tagmoe("eval", "generate", bench, "--endpoint", server.url, "--out", "x").refused(
            2, "give its name with --model"
        )
        tagmoe(*command[:-1], "other", "--out", "x").refused(2, "has no model 'other'")
        tagmoe(*command, "--out", "served", "--set", "quality=high").refused(2, "settings.quality is 'low', not 'high'")
    facts = facts_of("served")
    assert (facts["name"], facts["server"], facts["weights"]) == ("tiny-editor", server.url, None)
    tagmoe(*command, "--out", "x").refused(2, "does not answer", "--endpoint")


def test_a_pipeline_of_diffusers_is_an_editor(tagmoe, bench: Path) -> None:
    instruct_pix2pix().save_pretrained("tiny")
    command = ("eval", "generate", bench, "--editor", "diffusers:tiny", "--steps", 1, "--tasks", "add,move")
    made = tagmoe(*command, "--set", "image_guidance_scale=1.2", "--out", "run", "--json")
    assert made.code == 0, made.err
    assert json.loads(made.out)["statuses"] == {"ok": 2}
    facts = facts_of("run")
    assert facts["class"] == "StableDiffusionInstructPix2PixPipeline"
    assert facts["settings"] == {"num_inference_steps": 1, "image_guidance_scale": 1.2, "dtype": "float32"}
    tagmoe("eval", "generate", bench, "--editor", "diffusers:none", "--out", "x").refused(3, "no model folder 'none'")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=pytest.mark.slow)])
def test_workers_make_one_run_of_the_same_digest(tagmoe, bench: Path, engine: str) -> None:
    Path("my_editors.py").write_text(FUNCTION)
    command = ("eval", "generate", bench, "--editor", "my_editors:dark", "--tasks", "add,move,hair,style")
    alone = json.loads(tagmoe(*command, "--out", "alone", "--json").out)
    several = tagmoe(*command, "--out", "several", "--engine", engine, "--workers", 2, "--json")
    assert several.code == 0, several.err
    data = json.loads(several.out)
    assert (data["digest"], data["key"], data["new"]) == (alone["digest"], alone["key"], 4)
    assert sorted(path.name for path in Path("several").iterdir()) == ["answers.jsonl", "outputs", "run.json"]
    tagmoe("eval", "score", bench, "alone", "--tasks", "add,move,hair,style")
    options = ("--tasks", "add,move,hair,style", "--engine", engine, "--workers", 2)
    scored = tagmoe("eval", "score", bench, "several", *options, "--json")
    assert scored.code == 0, scored.err
    assert json.loads(scored.out)["runs"]["several"]["new"] == 4 * len(list(Path("several/scores").glob("*.jsonl")))
    names = sorted(path.name for path in Path("alone/scores").iterdir())
    assert [Path("alone/scores", name).read_bytes() for name in names] == [
        Path("several/scores", name).read_bytes() for name in names
    ]


def test_what_cannot_go_together_is_refused(tagmoe, bench: Path) -> None:
    generate = ("eval", "generate", bench, "--out", "x")
    tagmoe(*generate, "--editor", "photoshop").refused(2, "There is no editor 'photoshop'", "shuffled")
    tagmoe(*generate, "--editor", "copy", "--steps", 3).refused(2, "--steps does not apply to the anchor 'copy'")
    tagmoe(*generate, "--editor", "a:b", "--cfg", 3).refused(2, "--cfg does not apply to a Python function")
    tagmoe(*generate, "--set", "a=1").refused(2, "--set does not apply to a model")
    tagmoe(*generate, "--outputs", "y", "--endpoint", "http://x").refused(2, "both given")
    tagmoe(*generate, "--editor", "diffusers:x", "--set", "a").refused(2, "--set is 'a'", "NAME=VALUE")
    tagmoe(*generate, "--editor", "copy", "--workers", 2, "--shard", "1/2").refused(2, "--shard is given")
    tagmoe(*generate, "--editor", "copy", "--address", "x").refused(2, "--engine ray")
    assert not Path("x").exists()


def test_the_tables_of_options_are_whole() -> None:
    assert ANCHOR_NAMES == ANCHORS
    always = {"editor", "outputs", "endpoint", "seed", "batch"}
    assert {*TAKEN_BY} | always == {*EditorOptions.__dataclass_fields__}
