"""`loss.routing_tokens`: which tokens count in g and L_lbl. Each value changes that, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.training_runs import make_stage, metrics, weights

from tagmoe.config import RunConfig, check_config
from tagmoe.errors import TrainingError
from tagmoe.pipeline.pipeline import TagMoEPipeline
from tagmoe.train.mixture import with_mixture

Make = Callable[..., RunConfig]
SHORT = {"base": {"steps": 0}, "unified": {"steps": 2}}


@pytest.mark.slow
def test_each_value_changes_what_the_losses_see_and_not_the_velocity(config: Make, tmp_path: Path) -> None:
    stages = {
        kind: make_stage(config(moe={"num_moe_blocks": 2}, loss={"routing_tokens": kind}), tmp_path)
        for kind in ("all", "live", "target")
    }
    reports = {kind: [stage.loss(step, 0)[1] for step in (0, 1)] for kind, stage in stages.items()}
    for kind, (generated, edited) in reports.items():
        assert stages[kind].transformer.config.routing_tokens == kind
        assert edited["flow"] == pytest.approx(reports["all"][1]["flow"], rel=1e-6)
        # Without references every token is the target's.
        assert generated == pytest.approx(reports["all"][0], rel=1e-5)
    assert len({edited["alignment"] for _, edited in reports.values()}) == 3
    first, last = ("load/0_max", "load/0_min"), ("load/1_max", "load/1_min")
    loads = {
        kind: {names: [edited[n] for n in names] for names in (first, last)} for kind, (_, edited) in reports.items()
    }
    assert loads["live"][first] == loads["all"][first]
    assert loads["live"][last] == loads["target"][last] != loads["all"][last]
    assert loads["target"][first] != loads["all"][first]


@pytest.mark.slow
def test_the_default_is_every_token_and_computes_them_all(config: Make, tmp_path: Path) -> None:
    stage = make_stage(config(), tmp_path)
    asked = []
    stage.transformer.register_forward_pre_hook(lambda _m, _args, given: asked.append(given), with_kwargs=True)
    stage.loss(1, 0)
    assert asked[0]["target_only"] is False  # gradients summed over fewer rows would round otherwise than before
    assert stage.transformer.config.routing_tokens == "all"


@pytest.mark.slow
def test_runs_from_before_it_resume_and_others_are_told_apart(
    config: Make, run_training: Callable[..., Path], tmp_path: Path
) -> None:
    whole, old = config("whole", **SHORT), config("old", **SHORT)
    expected = run_training(whole)
    run_training(config("old", **{**SHORT, "unified": {"steps": 2}}))
    record = Path(old.output_dir) / "config.resolved.yaml"
    assert "routing_tokens" not in record.read_text()  # so a run keeps the hash from before the setting existed
    assert "routing_tokens" not in check_config(old.model_dump(mode="json")).model_dump(mode="json")["loss"]
    assert weights(run_training(old, resume=True)) == weights(expected)
    assert metrics(old) == metrics(whole)
    with pytest.raises(TrainingError, match=r"'loss.routing_tokens' is 'live' and was not set"):
        run_training(config("old", **SHORT, loss={"routing_tokens": "live"}), resume=True)


@pytest.mark.slow
def test_the_model_keeps_it_and_a_run_that_goes_on_follows_it(
    config: Make, run_training: Callable[..., Path], tmp_path: Path
) -> None:
    model = run_training(config("first", **SHORT, loss={"routing_tokens": "target"}))
    transformer = TagMoEPipeline.from_pretrained(model, dtype=torch.float32).transformer
    assert transformer.config.routing_tokens == "target"
    places = {"output_dir": str(tmp_path / "second"), "mixture": str(model)}
    stages = {"base": {"steps": 0}, "unified": {"steps": 0}}
    assert with_mixture(check_config({**places, **stages})).loss.routing_tokens == "target"
    other = check_config({**places, **stages, "loss": {"routing_tokens": "live"}})
    assert with_mixture(other).loss.routing_tokens == "live"
