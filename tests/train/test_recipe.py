"""The run folder: what a failed start leaves, what a resumed run may change, how a model folder is replaced."""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tagmoe.config import RunConfig, load_config
from tagmoe.errors import MissingError, TrainingError, UsageError
from tagmoe.files import atomic
from tagmoe.losses.objective import Objective
from tagmoe.pipeline import packaged
from tagmoe.pipeline.model_folder import RECORD
from tagmoe.pipeline.packaged import packaged_folder
from tagmoe.pipeline.pipeline import TagMoEPipeline
from tagmoe.pipeline.training_range import is_divided_by_content
from tagmoe.train import recipe, run_folder
from tagmoe.train.recipe import _divide, save_model

Make = Callable[..., RunConfig]
RunTraining = Callable[..., Path]
ROOT = Path(__file__).parents[2]


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def short(config: Make, name: str = "run", **changes: Any) -> RunConfig:
    return config(name, base={"steps": 1}, unified={"steps": 1}, **changes)


# A run that does not start -------------------------------------------------------------------------------------------


@pytest.mark.slow_but_first
@pytest.mark.parametrize("exists", [False, True])
def test_missing_components_leave_nothing_and_the_corrected_call_works(
    config: Make, run_training: RunTraining, tmp_path: Path, exists: bool
) -> None:
    good = short(config, "deep/run")
    if exists:
        Path(good.output_dir).mkdir(parents=True)
    before = tree(tmp_path)
    with pytest.raises(MissingError, match=r"'no/such/folder'.*tagmoe train tagworld/components"):
        run_training(good.model_copy(update={"components": "no/such/folder"}))
    assert tree(tmp_path) == before
    assert run_training(good).is_dir()


@pytest.mark.slow_but_first
@pytest.mark.parametrize("exists", [False, True])
def test_a_failure_before_the_first_step_leaves_nothing(
    config: Make, run_training: RunTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exists: bool
) -> None:
    run = short(config, "deep/run")
    if exists:
        Path(run.output_dir).mkdir(parents=True)
    before = tree(tmp_path)

    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Objective, "forward", fail)
        with pytest.raises(KeyboardInterrupt):
            run_training(run)
    assert tree(tmp_path) == before


def test_a_failure_after_a_step_keeps_the_run(
    config: Make, run_training: RunTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = short(config)

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(recipe, "save_model", fail)
        with pytest.raises(TrainingError, match="the disk is full; mend that, then add --resume") as stopped:
            run_training(run)
    assert "\n" not in str(stopped.value)
    assert (Path(run.output_dir) / RECORD).is_file()
    assert run_training(run, resume=True).is_dir()


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("file", "is a file"),
        ("file/run", "Not a directory"),
        ("x" * 300, "File name too long"),
        ("nul\0", "null"),
        ("/proc/run", "No such file"),  # nobody can write there, not even root
    ],
)
def test_an_output_folder_that_cannot_be(
    config: Make, run_training: RunTraining, tmp_path: Path, name: str, part: str
) -> None:
    (tmp_path / "file").write_text("precious")
    bad = config().model_copy(update={"output_dir": str(tmp_path / name)})
    with pytest.raises(UsageError, match=f"The output folder .*{part}.*choose another output_dir") as refused:
        run_training(bad)
    assert "\n" not in str(refused.value)
    with pytest.raises(UsageError, match=r"no run to resume|cannot be used"):
        run_training(bad, resume=True)
    assert tree(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.slow
def test_a_second_process_is_refused_and_removes_nothing(config: Make, run_training: RunTraining) -> None:
    run = short(config)
    folder = Path(run.output_dir)
    folder.mkdir()
    with (folder / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(TrainingError, match="Another process"):
            run_training(run)
        assert tree(folder) == [".lock"]
    # a lone lock is no run
    assert run_training(run).is_dir()


def test_the_packaged_model_that_is_missing_asks_for_a_new_installation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packaged, "FOLDER", tmp_path)
    with pytest.raises(MissingError, match=r"reinstall tagmoe\.$"):
        packaged.packaged_folder()


# Resuming under other settings ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_harmless_settings_may_change_and_are_recorded(config: Make, run_training: RunTraining) -> None:
    first = short(config)
    run_training(first)
    second = short(config, save_every=7, validate_every=8, validation_cases=1, keep_checkpoints=5)
    run_training(second, resume=True)
    record = yaml.safe_load((Path(first.output_dir) / RECORD).read_text())
    assert record == second.model_dump(mode="json")
    assert record["save_every"] == 7


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"seed": 1}, "'seed' is 1 and was 0"),
        ({"threads": 2}, "'threads' is 2 and was 1"),
        ({"optimizer": {"lr": 0.5}, "save_every": 9}, "'optimizer.lr' is 0.5 and was 0.0015"),
        ({"transformer": {"axes_dims_rope": [6, 6, 4]}}, r"'transformer.axes_dims_rope' is \[6, 6, 4\] and was"),
    ],
)
def test_other_settings_are_refused_by_name_and_both_values(
    config: Make, run_training: RunTraining, changes: dict[str, Any], part: str
) -> None:
    folder = Path(config().output_dir)
    folder.mkdir()
    (folder / RECORD).write_text(yaml.safe_dump(short(config).model_dump(mode="json")))
    before = (folder / RECORD).read_bytes()
    with pytest.raises(TrainingError, match=part):
        run_training(short(config, **changes), resume=True)
    assert (folder / RECORD).read_bytes() == before


@pytest.mark.slow
def test_a_run_from_before_the_divide_resumes_only_as_it_began(config: Make, run_training: RunTraining) -> None:
    run = short(config, divide="stream")
    folder = Path(run.output_dir)
    folder.mkdir()
    settings = run.model_dump(mode="json")
    assert settings.pop("divide") == "stream"
    (folder / RECORD).write_text(yaml.safe_dump(settings))
    with pytest.raises(TrainingError, match=r"'divide' is 'content' and was 'stream'; resume with the same recipe"):
        run_training(short(config), resume=True)
    run_training(run, resume=True)
    assert yaml.safe_load((folder / RECORD).read_text())["divide"] == "stream"


@pytest.mark.slow
def test_the_folder_of_a_model_says_what_kept_test_cases_from_its_training(
    config: Make, run_training: RunTraining
) -> None:
    """The frozen parts of these runs come from a folder that says nothing; the packaged ones are known."""
    assert not is_divided_by_content(run_training(short(config)))
    new = short(config, name="new", components="packaged")
    assert _divide(new) == "content"
    assert _divide(new.model_copy(update={"divide": "stream"})) == "stream"
    begun = str(Path(short(config).output_dir))
    assert _divide(new.model_copy(update={"dense": begun})) == "stream"
    assert _divide(new.model_copy(update={"mixture": begun})) == "stream"
    assert is_divided_by_content(packaged_folder())


def test_a_setting_that_only_one_of_the_two_has_is_named(config: Make, run_training: RunTraining) -> None:
    run = short(config)
    folder = Path(run.output_dir)
    folder.mkdir()
    settings = run.model_dump(mode="json")
    for change, part in (
        ({"old": 3}, "'old' is not set and was 3"),
        ({"unified": None}, r"'unified' is a section \(steps: 1, .*\) and was null"),
    ):
        (folder / RECORD).write_text(yaml.safe_dump(settings | change))
        with pytest.raises(TrainingError, match=part):
            run_training(run, resume=True)


@pytest.mark.parametrize("content", [b"", b"a: [1", b"just words", b"\xff\xfe\x00", b"- 1\n"])
def test_a_damaged_record_is_named(config: Make, run_training: RunTraining, content: bytes) -> None:
    run = short(config)
    folder = Path(run.output_dir)
    folder.mkdir()
    (folder / RECORD).write_bytes(content)
    with pytest.raises(TrainingError, match=rf"{RECORD}.*cannot be read; restore") as refused:
        run_training(run, resume=True)
    assert "\n" not in str(refused.value)
    assert (folder / RECORD).read_bytes() == content


RECIPES = [*(ROOT / "recipes").glob("*/*.yaml"), *(ROOT / "recipes").rglob("common.yaml")]


@pytest.mark.slow_but_first
@pytest.mark.parametrize("path", sorted(RECIPES), ids=lambda path: path.stem)
def test_every_recipe_fits_and_resumes_under_its_own_record(path: Path, tmp_path: Path) -> None:
    settings = load_config(path).model_dump(mode="json")
    (tmp_path / RECORD).write_text(yaml.safe_dump(settings, sort_keys=False))
    run_folder.check_resumable(tmp_path, settings)
    with pytest.raises(TrainingError, match="'seed' is 9"):
        run_folder.check_resumable(tmp_path, settings | {"seed": 9})


# The model folder ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_alignment_is_in_the_folder_before_it_is_moved_into_place(
    components: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = TagMoEPipeline.from_pretrained(components, dtype=torch.float32)
    target = tmp_path / "model"
    target.mkdir()
    (target / "old.txt").write_text("old")
    original, moves = atomic.os.replace, []

    def replace(source: Path, to: Path) -> None:
        moves.append((Path(source).name, Path(to).name, (Path(source) / "alignment.safetensors").exists()))
        original(source, to)

    monkeypatch.setattr(atomic.os, "replace", replace)
    save_model(pipeline, target, alignment={"w": torch.ones(3, 2).T})
    assert moves == [("model", "replaced", False), ("model.partial", "model", True)]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert not (target / "old.txt").exists()
    assert load_file(target / "alignment.safetensors")["w"].dtype == torch.bfloat16
    assert TagMoEPipeline.from_pretrained(target, dtype=torch.float32).transformer.dtype == torch.float32


@pytest.mark.slow
def test_a_failed_save_keeps_the_old_folder(components: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = TagMoEPipeline.from_pretrained(components, dtype=torch.float32)
    target = tmp_path / "model"
    target.mkdir()
    (target / "old.txt").write_text("old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(recipe, "save_file", fail)
    with pytest.raises(OSError, match="space"):
        save_model(pipeline, target, alignment={"w": torch.ones(1)})
    assert (target / "old.txt").read_text() == "old"
    assert (pipeline.vae.dtype, pipeline.text_encoder.dtype) == (torch.float32, torch.float32)


@pytest.mark.slow
def test_a_finished_run_leaves_the_model_alone_in_its_folder(config: Make, run_training: RunTraining) -> None:
    run = short(config)
    model = run_training(run)
    assert (model / "alignment.safetensors").is_file()
    left = {path.name for path in Path(run.output_dir).iterdir()}
    files = {"metrics.jsonl", "routing.jsonl", "about.json", "index.html"}
    assert left == {".lock", RECORD, "checkpoints", "model", *files}
