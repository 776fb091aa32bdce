"""What a run shows of itself: shares of variance, alarms, spikes, and that watching changes no weight."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from support.html_page import Page
from support.training_runs import metrics, weights

from tagmoe.cli import run as tagmoe
from tagmoe.config import RunConfig, WatchConfig
from tagmoe.errors import ConfigError, MissingError, TrainingError, UsageError
from tagmoe.losses.objective import Objective
from tagmoe.tags import TAG_NAMES
from tagmoe.train import throughput
from tagmoe.train.progress import Pace, load_bar
from tagmoe.train.recipe import train
from tagmoe.train.routing_watch import RoutingWatch, scalars, share_explained
from tagmoe.train.run_page import PAGE, RunPage
from tagmoe.train.seen import Seen
from tagmoe.train.spikes import MOST_SKIPPED, Spikes
from tagmoe.train.throughput import StepFlops, peak_of
from tagmoe.train.trace import Shapes, Traced, trace
from tagmoe.train.trackers import check_trackers

Make = Callable[..., RunConfig]
NAMES = ("transformer_blocks.4.img_mlp", "transformer_blocks.5.img_mlp")


def groups(sizes: tuple[int, ...]) -> np.ndarray:
    return np.eye(len(sizes))[np.repeat(np.arange(len(sizes)), sizes)]


def test_the_share_of_variance_is_that_of_how_the_values_were_made() -> None:
    """Time and tags in every combination, as often; values by both and by noise in known parts."""
    rng = np.random.default_rng(0)
    time, tag = (part.ravel() for part in np.meshgrid(np.arange(10), np.arange(4), indexing="ij"))
    time, tag = np.tile(time, 100), np.tile(tag, 100)
    of_time, of_tag = np.eye(10)[time], np.eye(4)[tag]
    parts = [of_time @ rng.standard_normal((10, 3)), of_tag @ rng.standard_normal((4, 3))]
    parts.append(rng.standard_normal((4000, 3)))
    # Scaled to variances of 5, 3 and 2.
    values = sum(
        np.sqrt(share) * (part - part.mean(0)) / np.sqrt(((part - part.mean(0)) ** 2).sum() / 4000)
        for part, share in zip(parts, (5, 3, 2), strict=True)
    )
    assert share_explained(values, of_time) == pytest.approx(0.5, abs=0.02)
    assert share_explained(values, of_tag) == pytest.approx(0.3, abs=0.02)
    assert share_explained(parts[1], of_tag) == pytest.approx(1.0)


def test_chance_explains_nothing_in_the_mean_and_too_few_samples_tell_nothing() -> None:
    rng = np.random.default_rng(1)
    design = groups((20,) * 10)
    found = [share_explained(rng.standard_normal((200, 4)), design) for _ in range(200)]
    assert np.mean([share for share in found if share is not None]) == pytest.approx(0.0, abs=0.005)
    assert share_explained(rng.standard_normal((50, 4)), groups((5,) * 10)) is None
    assert share_explained(np.full((200, 4), 0.25), design) is None


def seen(shares: list[list[float]], *, samples: int = 4, tag: int = 0, flow: float = 1.0) -> Seen:
    """Samples with one tag, whose tokens go to experts by these shares in each layer."""
    counts = torch.tensor(shares)[:, None].expand(-1, samples, -1) * 1000
    tags = torch.zeros(samples, 18)
    tags[:, tag] = 1
    names = tuple(f"row{i}" for i in range(samples))
    t = (torch.arange(samples) + 0.5) / samples
    flows = flow * torch.arange(1, samples + 1).float()
    return Seen("edit", names, Shapes(samples, ((4, 4),), 8), t, tags, flows, counts / 1000, counts)


def test_the_first_record_is_of_the_first_step_and_others_of_a_whole_span() -> None:
    watch = RoutingWatch(NAMES, 2, WatchConfig(routing_every=3))
    even, odd = [[0.5, 0.5], [0.5, 0.5]], [[1.0, 0.0], [0.2, 0.8]]
    first = watch.add(1, [seen(even)])
    assert first is not None
    assert (first["steps"], first["samples"], first["load"]) == (1, 4, even)
    assert watch.add(2, [seen(even, tag=2)]) is None
    record = watch.add(3, [seen(odd, tag=3), seen(odd, tag=3)])
    assert record is not None
    assert (record["steps"], record["samples"]) == (3, 16)
    assert record["by_tag"][TAG_NAMES[2]] == {"samples": 4, "load": even}
    assert record["load"][0] == [0.75, 0.25]
    assert [n for n, _ in record["flow_by_time"]] == [0, 4, 0, 4, 0, 0, 4, 0, 4, 0]
    assert scalars(record)["routing/0/0"] == 0.75


def test_alarms_name_the_layer_once_and_again_after_it_was_well() -> None:
    watch = RoutingWatch(NAMES, 4, WatchConfig(routing_every=1))
    well, dead, fallen = [0.25] * 4, [0.4, 0.3, 0.3, 0.0], [0.97, 0.03, 0.0, 0.0]
    told = []
    for step, (lower, upper) in enumerate([(well, well), (well, dead), (well, dead), (fallen, well), (well, dead)], 1):
        record = watch.add(step, [seen([lower, upper])])
        assert record is not None
        told.append(watch.alarms(record))
    assert [len(sentences) for sentences in told] == [0, 1, 0, 1, 1]
    assert told[1] == [f"expert 3 of {NAMES[1]} is dead: it gets 0 % of the tokens over 1 step (4 samples)."]
    assert told[3][0].startswith(f"{NAMES[0]} has collapsed: expert 0 gets 97.0 %")


def test_a_spike_names_its_samples_and_is_judged_among_its_kind() -> None:
    spikes = Spikes(WatchConfig(spike_factor=5))
    one = [seen([[0.5, 0.5]], samples=7)]
    assert all(spikes.accepts({"flow": 1.0, "grad_norm": 1.0}, one) for _ in range(10))
    assert spikes.sentence is None
    assert spikes.accepts({"flow": 6.0, "grad_norm": 1.0}, one)
    assert "a loss of 6 is a spike" in str(spikes.sentence)
    assert str(spikes.sentence).endswith("row6 (7), row5 (6), row4 (5), row3 (4), row2 (3) and 2 more")
    other = [Seen("generate", *list(vars(one[0]).values())[1:])]
    assert spikes.accepts({"flow": 6.0, "grad_norm": 1.0}, other)
    assert spikes.sentence is None


def test_skipped_steps_are_limited_and_its_state_is_restored() -> None:
    spikes = Spikes(WatchConfig(spike="skip"))
    for _ in range(10):
        spikes.accepts({"flow": 1.0, "grad_norm": 1.0}, [])
    again = Spikes(WatchConfig(spike="skip"))
    again.restore(json.loads(json.dumps(spikes.state())))
    for number in range(1, MOST_SKIPPED + 2):
        assert not again.accepts({"flow": float("nan"), "grad_norm": 1.0}, [])
        assert again.skips == (number <= MOST_SKIPPED)
    assert not again.accepts({"flow": 50.0, "grad_norm": 1.0}, [])
    assert not Spikes(WatchConfig()).accepts({"flow": 1.0, "grad_norm": float("inf")}, [])


def poison(monkeypatch: pytest.MonkeyPatch, at: int, factor: float) -> None:
    """Multiply the loss of the at-th forward pass."""
    original, calls = Objective.forward, [0]

    def poisoned(self: Objective, prediction: torch.Tensor, *rest: Any, **named: Any) -> Any:
        calls[0] += 1
        return original(self, prediction * factor if calls[0] == at else prediction, *rest, **named)

    monkeypatch.setattr(Objective, "forward", poisoned)


def test_a_step_that_is_not_finite_is_skipped_by_policy_and_stops_otherwise(
    config: Make, run_training: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    stages: dict[str, Any] = {"base": {"steps": 0}, "unified": {"steps": 4}}
    poison(monkeypatch, 3, float("nan"))
    with pytest.raises(TrainingError, match=r"flow nan.* is not finite; its samples .*spike=skip"):
        run_training(config("stops", **stages))
    monkeypatch.undo()
    poison(monkeypatch, 3, float("nan"))
    run = config("skips", **stages, watch={"spike": "skip"})
    assert run_training(run).is_dir()
    lines = metrics(run)
    assert [line.get("skipped", 0) for line in lines] == [0, 0, 1, 0]
    assert "flow" not in lines[2]
    alarm = json.loads((Path(run.output_dir) / "alarms.jsonl").read_text())
    assert alarm["step"] == 3
    assert "changes no weight" in alarm["what"]


def polynomial(config: Any, shapes: Shapes, precision: str, **_: Any) -> Traced:
    """FLOPs that grow with the tokens as those of a transformer do."""
    image, text = shapes.image_tokens, shapes.text_tokens
    return Traced(0, forward=5 + 3 * image + 7 * (image + text) ** 2, backward=2 * text)


def test_a_collapse_stops_the_run_by_policy_after_it_is_saved(
    config: Make, run_training: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throughput, "trace", polynomial)
    run = config(
        base={"steps": 0}, unified={"steps": 4},
        watch={"routing_every": 2, "collapse_share": 0.1, "routing_alarm": "stop", "peak_flops": 1e6},
    )  # fmt: skip
    with pytest.raises(TrainingError, match=r"saved at step 2, because transformer_blocks\.1\.img_mlp has collapsed"):
        run_training(run)
    assert (Path(run.output_dir) / "checkpoints" / "unified" / "00000002").is_dir()
    assert all(line["utilisation"] > 0 for line in metrics(run))
    assert "has collapsed" in Page((Path(run.output_dir) / PAGE).read_text()).text
    going_on = config(base={"steps": 0}, unified={"steps": 4}, watch={"routing_every": 2})
    assert run_training(going_on, resume=True).is_dir()


def test_watching_changes_no_weight_and_writes_a_page(
    config: Make, run_training: Callable[..., Path], whole: RunConfig
) -> None:
    quiet = config("quiet", watch={"page_seconds": None, "routing_every": 1000, "spike": "skip"})
    assert weights(run_training(quiet)) == weights(Path(whole.output_dir) / "model")
    assert not (Path(quiet.output_dir) / PAGE).exists()
    folder = Path(whole.output_dir)
    page = Page((folder / PAGE).read_text(encoding="utf-8"))
    assert {"L_flow", "expert 0", "block 1", "image generation"} <= {word.strip() for word in page.visible}
    assert [address for address in page.addresses if "//" in address] == []
    records = [json.loads(line) for line in (folder / "routing.jsonl").read_text().splitlines()]
    assert [(record["stage"], record["step"]) for record in records] == [("base", 1), ("unified", 1)]
    again = Page(RunPage.read(folder).write().read_text(encoding="utf-8"))
    assert "finished" in again.text


def test_trackers_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"'nobody', which accelerate does not know; give aim, .*wandb"):
        check_trackers(("nobody",))
    with pytest.raises(MissingError, match="dvclive, which is not installed; run: pip install dvclive"):
        check_trackers(("dvclive",))


def test_any_tracker_of_accelerate_gets_the_numbers(config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate import tracking

    taken: list[Any] = []

    class Kept(tracking.GeneralTracker):
        name, requires_logging_directory = "kept", True

        def __init__(self, run_name: str, logging_dir: str) -> None:
            super().__init__()
            taken.append((run_name, Path(logging_dir).name))

        @property
        def tracker(self) -> None:
            return None

        def store_init_configuration(self, values: dict[str, Any]) -> None:
            taken.append(values["unified.steps"])

        def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
            taken.append((step, values))

        def finish(self) -> None:
            taken.append("finished")

    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "aim", Kept)
    monkeypatch.setattr(tracking, "_available_trackers", ["aim"])
    run = config(base={"steps": 0}, unified={"steps": 1}, watch={"report_to": ["aim"]})
    train(run, validator=lambda *_: {"success": 0.5}, console=Console(file=StringIO()))
    name, steps, first, routing, validation, end = taken
    assert (name, steps, end) == (("tagmoe-run-unified", "aim"), 1, "finished")
    assert {"flow", "learning_rate", "samples/s", "tokens/s"} <= first[1].keys()
    assert "routing/0/0" in routing[1]
    assert validation == (1, {"validation/success": 0.5})


def test_the_pace_and_the_load_are_said_in_short() -> None:
    assert str(Pace(2.0, 64, 64_000, 0.37)) == "32 samples/s, 32k tokens/s, 37 % of the peak"
    assert str(Pace(0.0, 64, 64_000, None)) == ""
    assert load_bar([]) == ""
    assert load_bar([[0.5, 0.5], [1.0, 0.0]]) == "load \N{FULL BLOCK}\N{LOWER ONE EIGHTH BLOCK}"


def test_four_traces_give_the_flops_of_any_shape(monkeypatch: pytest.MonkeyPatch, config: Make) -> None:
    monkeypatch.setattr(throughput, "trace", polynomial)
    flops = throughput.step_flops("unified", {"_class_name": "any", "num_layers": 1}, config(), "fp32")
    shapes = Shapes(3, ((6, 8), (4, 10)), 21)
    traced = polynomial(None, shapes, "fp32")
    assert flops.of(shapes) == pytest.approx(3 * (traced.forward + traced.backward))
    assert throughput.peak_flops("fp32", torch.device("cpu"), None) is None
    assert throughput.peak_flops("fp32", torch.device("cpu"), 2e9) == 2e9


@pytest.mark.slow
def test_flops_of_any_shape_are_those_of_a_trace() -> None:
    described = {
        "num_layers": 3, "num_attention_heads": 2, "attention_head_dim": 16, "axes_dims_rope": [4, 6, 6],
        "in_channels": 16, "out_channels": 4, "joint_attention_dim": 32, "num_moe_blocks": 1, "num_experts": 4,
    }  # fmt: skip

    def frozen_first(model: Any) -> None:
        model.transformer_blocks[0].requires_grad_(False)

    flops = StepFlops(described, "fp32", frozen_first)
    shapes = Shapes(3, ((6, 8), (4, 10)), 21)
    traced = trace(described, shapes, "fp32", prepare=frozen_first)
    assert flops.of(shapes) == pytest.approx(traced.forward + traced.backward, rel=1e-9)


def test_peaks_are_found_by_the_names_that_torch_gives() -> None:
    names = ("NVIDIA H200", "NVIDIA H100 80GB HBM3", "NVIDIA H100 PCIe", "NVIDIA A100-SXM4-80GB", "NVIDIA GH200 480GB")
    assert [peak_of(name) for name in names] == [989e12, 989e12, 756e12, 312e12, 989e12]
    assert peak_of("NVIDIA GeForce GTX 1080") is None


def test_a_folder_without_a_run_has_no_page(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no training run"):
        RunPage.read(tmp_path)


def test_a_page_is_written_anew(whole: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole.output_dir, run)
    before = (run / "index.html").read_text(encoding="utf-8")
    (run / "index.html").unlink()
    assert tagmoe(["train", "--page", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"page": str(run / "index.html")}
    assert len((run / "index.html").read_text(encoding="utf-8")) > 0.8 * len(before)
    assert tagmoe(["train", "tagworld/quick", "--page", str(run)]) == 2
    assert tagmoe(["train", "--page", str(tmp_path / "none")]) != 0


def test_an_unknown_tracker_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "run")
    assert tagmoe(["train", "tagworld/quick", "--output-dir", out, "--report-to", "wandbb"]) == 2
    assert "wandbb" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
