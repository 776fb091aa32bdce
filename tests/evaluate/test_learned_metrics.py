"""Learned metrics: equal to plain calls of the backbone, the same bits in any company, refused where unusable."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from support.prepared_benchmarks import anchor_run, tagworld_bench
from support.reference_pairs import pairs_of
from support.tiny_backbones import tiny_aesthetic, tiny_clip, tiny_dino
from transformers import AutoImageProcessor as Processor
from transformers import AutoTokenizer, CLIPModel, Dinov2Model, SiglipVisionModel

from tagmoe.cli import run as cli
from tagmoe.errors import CheckpointError, ResultError, TagMoEError, UsageError
from tagmoe.evaluate.benchmarks.cases import Case
from tagmoe.evaluate.comparison.pairs import compare
from tagmoe.evaluate.metrics.learned import Learned
from tagmoe.evaluate.metrics.metric import NoValue, Pair
from tagmoe.evaluate.metrics.registry import LearnedSettings, make_metrics
from tagmoe.evaluate.run_folder import read_run
from tagmoe.evaluate.scoring import read_scores, score
from tagmoe.pictures import load_image

MAKERS = {"clip": tiny_clip, "dino": tiny_dino, "aesthetic": tiny_aesthetic}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("backbones")
    return {name: make(root / name) for name, make in MAKERS.items()}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[Pair]:
    """Seven cases of every kind: edits, a mask, one and several references, a caption or none."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(5)
    for number in range(12):
        low = generator.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        Image.fromarray(low).resize((48, 40), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    mask = np.zeros((40, 48), dtype=np.uint8)
    mask[10:30, 8:30] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    subject = {"reference": "subject"}
    cases = [
        Case(bench="x", id="edit", task="a", instruction="a red cup", target_caption="a cup", source="0.png"),
        Case(bench="x", id="same", task="a", instruction="a blue cup", target_caption="a hat", source="0.png"),
        Case(bench="x", id="no caption", task="a", instruction="a blue hat", source="1.png", target="9.png"),
        Case(bench="x", id="control", task="c", instruction="b", source="2.png", meta={"control": "blur"}),
        Case(bench="x", id="made", task="r", instruction="a red hat", refs=("3.png", "4.png"), meta=subject),
        Case(
            bench="x",
            id="worn",
            task="r",
            instruction="x",
            source="5.png",
            mask="mask.png",
            refs=("6.png",),
            meta=subject,
        ),
        Case(bench="x", id="faces", task="r", instruction="x", refs=("7.png",), meta={"reference": ["face"]}),
    ]
    outputs = [load_image(folder / f"{number + 5}.png") for number in range(len(cases))]
    return pairs_of(folder, cases, outputs)


def made(folders: dict[str, Path], name: str, batch: int = 4, **choices: str) -> Learned:
    settings = LearnedSettings(weights={name: str(folders[name])}, choices={name: choices}, batch=batch)
    (metric,) = make_metrics([name], settings)
    assert isinstance(metric, Learned)
    return metric


def numbers(metric: Learned, pairs: Sequence[Pair], name: str) -> dict[str, float]:
    """The values by the id of the case, where there is one."""
    found = zip(pairs, metric.many(pairs), strict=True)
    return {pair.case.id: values[name] for pair, values in found if not isinstance(values[name], NoValue)}


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0))


def test_clip_is_a_plain_call_of_the_model(folders: dict[str, Path], pairs: list[Pair]) -> None:
    folder = folders["clip"]
    model, tokenizer = CLIPModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    processor = Processor.from_pretrained(folder, backend="pil")

    def seen(picture: Image.Image) -> torch.Tensor:
        pooled = model.vision_model(**processor(picture, return_tensors="pt")).pooler_output
        return model.visual_projection(pooled)

    def read(text: str) -> torch.Tensor:
        return model.text_projection(model.text_model(**tokenizer(text, return_tensors="pt")).pooler_output)

    by_id = {pair.case.id: pair for pair in pairs}
    metric = made(folders, "clip")
    with torch.no_grad():
        wanted = {
            "clip_src": {
                name: cosine(seen(by_id[name].output), seen(by_id[name].source))  # type: ignore[arg-type]
                for name in ("edit", "same", "no caption", "worn")
            },
            "clip_cap": {
                name: cosine(seen(by_id[name].output), read(str(by_id[name].case.target_caption)))
                for name in ("edit", "same")
            },
            "clip_ref": {
                name: cosine(seen(by_id[name].output), seen(by_id[name].reference(0))) for name in ("made", "faces")
            },
        }
        second = cosine(seen(by_id["made"].output), seen(by_id["made"].reference(1)))
    for measure, values in wanted.items():
        assert numbers(metric, pairs, measure) == pytest.approx(values, abs=2e-6)
    first = wanted["clip_ref"]["made"]
    for choice, value in (("mean", (first + second) / 2), ("max", max(first, second))):
        assert numbers(made(folders, "clip", refs=choice), pairs, "clip_ref")["made"] == pytest.approx(value, abs=2e-6)
    instructed = numbers(made(folders, "clip", text="caption-or-instruction"), pairs, "clip_cap")
    assert instructed.keys() == {"edit", "same", "no caption", "made", "worn", "faces"}
    assert numbers(made(folders, "clip", cases="all"), pairs, "clip_ref").keys() == {"made", "worn", "faces"}


def test_dino_is_a_plain_call_and_is_blind_outside_the_mask(folders: dict[str, Path], pairs: list[Pair]) -> None:
    folder = folders["dino"]
    model, processor = Dinov2Model.from_pretrained(folder), Processor.from_pretrained(folder, backend="pil")

    def seen(picture: Image.Image) -> torch.Tensor:
        with torch.no_grad():
            return model(**processor(picture, return_tensors="pt")).last_hidden_state[0]

    worn = next(pair for pair in pairs if pair.case.id == "worn")
    assert worn.mask is not None
    white = Image.composite(worn.output, Image.new("RGB", worn.output.size, "white"), worn.mask)
    wanted = cosine(seen(white).mean(0), seen(worn.reference(0)).mean(0))
    whole = cosine(seen(worn.output).mean(0), seen(worn.reference(0)).mean(0))
    assert abs(wanted - whole) > 1e-4
    found = numbers(made(folders, "dino"), pairs, "dino_ref")
    assert found.keys() == {"made", "worn"}
    assert found["worn"] == pytest.approx(wanted, abs=2e-6)
    assert numbers(made(folders, "dino", mask="ignore"), pairs, "dino_ref")["worn"] == pytest.approx(whole, abs=2e-6)
    first = cosine(seen(worn.output)[0], seen(worn.reference(0))[0])
    token = numbers(made(folders, "dino", mask="ignore", pooling="class-token"), pairs, "dino_ref")["worn"]
    assert token == pytest.approx(first, abs=2e-6)
    target = next(pair for pair in pairs if pair.target is not None)
    assert numbers(made(folders, "dino"), pairs, "dino_target") == pytest.approx(
        {target.case.id: cosine(seen(target.output).mean(0), seen(target.target).mean(0))},
        abs=2e-6,  # type: ignore[arg-type]
    )


def test_aesthetic_is_a_plain_call_of_the_model_and_its_head(folders: dict[str, Path], pairs: list[Pair]) -> None:
    folder = folders["aesthetic"]
    model, processor = SiglipVisionModel.from_pretrained(folder), Processor.from_pretrained(folder, backend="pil")
    head = load_file(folder / "aesthetic_head.safetensors")
    for height in ("1024", "own"):
        wanted = {}
        for pair in pairs:
            width = int(pair.output.width * 1024 / pair.output.height)
            picture = pair.output if height == "own" else pair.output.resize((width, 1024))
            with torch.no_grad():
                x = model(**processor(picture, return_tensors="pt")).pooler_output
            x = x / x.norm()
            for number in range(5):
                x = x @ head[f"layers.{2 * number}.weight"].T + head[f"layers.{2 * number}.bias"]
            wanted[pair.case.id] = float(x)
        metric = made(folders, "aesthetic", height=height, dtype="float32")
        assert numbers(metric, pairs, "aes") == pytest.approx(wanted, abs=2e-6)
    # The default is half the digits, as ICE-Bench has it.
    halved = numbers(made(folders, "aesthetic", height="own"), pairs, "aes")
    assert halved != wanted
    assert halved == pytest.approx(wanted, abs=0.02)


@pytest.mark.parametrize("name", MAKERS)
def test_no_bit_of_a_value_depends_on_its_company(name: str, folders: dict[str, Path], pairs: list[Pair]) -> None:
    choices = {"height": "own"} if name == "aesthetic" else {}
    together = made(folders, name, **choices).many(pairs)
    assert together == [made(folders, name, **choices)(pair) for pair in pairs]
    assert together[::-1] == made(folders, name, **choices).many(pairs[::-1])


def test_what_cannot_be_read_fails_alone(folders: dict[str, Path], pairs: list[Pair]) -> None:
    gone = Pair(pairs[0].case.model_copy(update={"source": "gone.png"}), pairs[0].output, pairs[0].prepared)
    first, second = made(folders, "clip").many([gone, pairs[1]])
    assert all(isinstance(value, NoValue) and value.status == "failed" for value in first.values())
    assert second == made(folders, "clip")(pairs[1])


def test_a_run_that_was_stopped_ends_with_the_same_bits(folders: dict[str, Path], tmp_path: Path) -> None:
    bench = tagworld_bench(tmp_path / "bench")
    whole, stopped = (anchor_run(bench, "shuffled", tmp_path / name) for name in ("whole", "stopped"))
    settings = LearnedSettings(weights={"clip": str(folders["clip"])}, batch=4)
    wanted = score(bench, whole, make_metrics(["clip", "source"], settings))

    def stop(done: int) -> None:
        if done == 6:
            with (stopped.folder / "scores" / "clip.jsonl").open("r+b") as file:
                file.truncate(file.seek(0, 2) - 20)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(bench, stopped, make_metrics(["clip", "source"], settings), on_cases=stop)
    found = score(bench, stopped, make_metrics(["clip", "source"], settings))
    assert found.digest == wanted.digest
    about = json.loads((stopped.folder / "scores" / "clip.json").read_text())
    assert about["choices"] == {"refs": "first", "cases": "marked", "text": "caption"}
    assert about["backbone"]["name"] == "clip"
    assert len(about["backbone"]["digest"]) == 64
    assert about["versions"].keys() == {"torch", "transformers"}


def test_values_of_other_weights_are_made_again_and_never_compared(folders: dict[str, Path], tmp_path: Path) -> None:
    bench = tagworld_bench(tmp_path / "bench")
    a, b = (anchor_run(bench, name, tmp_path / name) for name in ("copy", "target"))
    first = LearnedSettings(weights={"clip": str(folders["clip"])}, batch=4)
    other = shutil.copytree(folders["clip"], tmp_path / "other")
    tensors = load_file(other / "model.safetensors")
    tensors["visual_projection.weight"] = tensors["visual_projection.weight"].roll(1, 0)
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    second = LearnedSettings(weights={"clip": str(other)}, batch=4)
    score(bench, a, make_metrics(["clip"], first))
    score(bench, b, make_metrics(["clip"], second))
    a, b = read_run(a.folder, bench), read_run(b.folder, bench)
    with pytest.raises(ResultError, match="'clip' rests on other weights or choices"):
        compare(bench, a, b)
    assert score(bench, b, make_metrics(["clip"], second)).new == 0
    assert score(bench, b, make_metrics(["clip"], first)).new == len(read_scores(b, ["clip"])["clip"]) > 0
    assert compare(bench, a, b).editors[0].bases["clip"]["backbone"]["name"] == "clip"


def test_settings_are_honoured_or_refused(folders: dict[str, Path]) -> None:
    weights = {"clip": str(folders["clip"])}
    refused = {
        "needs weights: give --weights clip=FOLDER": (["clip"], LearnedSettings()),
        "no metric 'clap'": (None, LearnedSettings(weights={"clap": "x"})),
        "--weights is given for the metric 'clip', which is not among": (["source"], LearnedSettings(weights=weights)),
        "--weights is given for the metric 'source', which takes none": (
            None,
            LearnedSettings(weights={"source": "x"}),
        ),
        "--set for the metric 'clip': 'refs' is": (["clip"], LearnedSettings(weights, {"clip": {"refs": "best"}})),
        "no protocol of its own": (["clip"], LearnedSettings(weights, profile="official", benchmark="tagworld")),
        "The device 'gpu' cannot be used": (["clip"], LearnedSettings(weights, device="gpu")),
        "no model folder 'nowhere'": (["clip"], LearnedSettings({"clip": "nowhere"})),
    }
    for sentence, (names, settings) in refused.items():
        with pytest.raises(TagMoEError, match=sentence):
            make_metrics(names, settings)
    both = {name: str(folders[name]) for name in ("clip", "dino")}
    (metric,) = make_metrics(
        ["dino"], LearnedSettings({"dino": both["dino"]}, profile="official", benchmark="magicbrush")
    )
    assert isinstance(metric, Learned)
    assert metric.chosen.model_dump()["pooling"] == "class-token"
    for name in both:
        official = LearnedSettings({name: both[name]}, profile="official", benchmark="ice-bench")
        (metric,) = make_metrics([name], official)
        (faithful,) = make_metrics([name], LearnedSettings({name: both[name]}))
        assert metric.chosen == faithful.chosen, "faithful is ICE-Bench's own"  # type: ignore[attr-defined]
    assert {one.name for one in make_metrics(None, LearnedSettings(both))} > {"clip", "dino", "source"}


def test_unusable_weights_are_refused_at_load(folders: dict[str, Path], pairs: list[Pair], tmp_path: Path) -> None:
    def altered(name: str, change: str) -> dict[str, Path]:
        folder = shutil.copytree(folders[name], tmp_path / f"{name} {change}")
        file = folder / "model.safetensors"
        tensors = load_file(file)
        if change == "missing":
            del tensors[sorted(tensors)[3]]
        elif change == "shape":
            key = next(
                key for key in sorted(tensors) if key.endswith("layernorm.weight") or key.endswith("norm.weight")
            )
            tensors[key] = tensors[key][:-1].clone()
        save_file(tensors, file, metadata={"format": "pt"})
        if change == "pickle":
            file.rename(folder / "pytorch_model.bin")
        if change == "cut":
            file.write_bytes(file.read_bytes()[:-100])
        return {name: folder}

    for name in MAKERS:
        for change in ("missing", "shape", "pickle", "cut"):
            with pytest.raises(
                CheckpointError, match=r"The weights '.*' (have no tensor|hold no safetensors|cannot be)"
            ):
                made(altered(name, change), name).load()
    with pytest.raises(CheckpointError, match="of the architecture 'dinov2'; this metric needs clip"):
        made({"clip": folders["dino"]}, "clip")(pairs[0])
    bare = shutil.copytree(folders["aesthetic"], tmp_path / "bare")
    (bare / "aesthetic_head.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"aesthetic head '.*' is not in"):
        made({"aesthetic": bare}, "aesthetic").load()
    save_file({"0.weight": torch.zeros(3, 3)}, bare / "aesthetic_head.safetensors")
    with pytest.raises(CheckpointError, match="no head of layers from 32 to 1024"):
        made({"aesthetic": bare}, "aesthetic").load()
    with pytest.raises(UsageError):
        make_metrics(["clip"], LearnedSettings())


def test_the_command_refuses_another_backbone_and_keeps_what_is_scored(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = tagworld_bench(tmp_path / "bench")
    run = anchor_run(bench, "copy", tmp_path / "copy")
    words = ["eval", "score", str(bench.folder), str(run.folder), "--metrics", "source,clip", "--limit", "1"]
    assert cli([*words, "--weights", f"clip={folders['dino']}"]) == 1
    assert "are of the architecture 'dinov2'; this metric needs clip" in capsys.readouterr().err
    assert read_scores(read_run(run.folder, bench), ["source", "clip"]).keys() == {"source"}
    # A source that is gone fails for its case alone.
    gone = next(case for case in bench.cases if case.source is not None)
    (bench.folder / str(gone.source)).unlink()
    assert cli([*words, "--weights", f"clip={folders['clip']}", "--json"]) == 1
    rows = read_scores(read_run(run.folder, bench), ["clip"])["clip"]
    assert {reason.status for reason in rows[gone.key].lacking.values()} == {"failed"}
    assert sum(bool(row.values) for row in rows.values()) > 10
