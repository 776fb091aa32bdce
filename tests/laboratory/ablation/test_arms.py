"""The arms: every one fits, differs from the others in what it may change, and shares the rest."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tagmoe.errors import ConfigError, UsageError
from tagmoe.laboratory.ablation.arms import arm_names, common_digest, load_arms
from tagmoe.laboratory.registered.plan import read_experiment
from tagmoe.train.stream import EDITING

ARMS = Path(__file__).parents[3] / "recipes" / "tagworld" / "ablation"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    common = yaml.safe_load((ARMS / "common.yaml").read_text())
    (tmp_path / "common.yaml").write_text(yaml.safe_dump(common))
    return tmp_path


def test_every_arm_shares_all_that_it_must_and_is_another_one() -> None:
    arms = load_arms(ARMS)
    assert {"dense", "moe", "align", "align-shuffled"} <= {arm.name for arm in arms}
    assert len({common_digest(arm.config, {"cases": 1}) for arm in arms}) == 1
    assert len({arm.config.model_dump_json() for arm in arms}) == len(arms)
    assert len({arm.about for arm in arms}) == len(arms)


def test_the_papers_three_arms_use_equally_many_weights_a_token() -> None:
    by_name = {arm.name: arm.config for arm in load_arms(ARMS, ["dense", "moe", "align"])}
    assert by_name["dense"].moe is None
    assert by_name["moe"].moe == by_name["align"].moe
    assert by_name["moe"].moe.top_k == 1
    assert by_name["moe"].loss.lambda_align == 0 < by_name["align"].loss.lambda_align


def test_the_digest_changes_with_what_is_shared_and_not_with_what_is_free() -> None:
    arm = load_arms(ARMS, ["align"])[0].config
    same = arm.model_copy(update={"seed": 7, "output_dir": "elsewhere", "moe": None})
    assert common_digest(same, {"cases": 1}) == common_digest(arm, {"cases": 1})
    assert common_digest(arm, {"cases": 2}) != common_digest(arm, {"cases": 1})
    longer = load_arms(ARMS, ["align"], ["unified.steps=900"])[0].config
    assert common_digest(longer, {"cases": 1}) != common_digest(arm, {"cases": 1})


def test_an_override_changes_what_all_share() -> None:
    assert {arm.config.unified.steps for arm in load_arms(ARMS, overrides=["unified.steps=7"])} == {7}


def test_an_unknown_arm_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"Unknown arm nonsense; .* has align, .*dense"):
        load_arms(ARMS, ["dense", "nonsense"])


def test_a_folder_without_common_settings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no common\.yaml"):
        arm_names(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("about: x\nsettings: {unified: {steps: 9}}", "changes 'unified', which all arms must share"),
        ("about: x\nsettings: {seed: 9}", "changes 'seed', which all arms must share"),
        ("about: x\nsettings: {loss: {edit_weight: 1}}", r"changes 'loss\.edit_weight', which all arms must share"),
        ("about: x\nsettings: {moe: {experts: 1}}", r"Unknown setting 'moe\.experts'"),
        ("about: x\nsettings: {moe: {top_k: 9}}", r"'moe\.top_k' is 9"),
        ("about: x", "must hold 'about'"),
        ("about: [x]\nsettings: {moe: null}", "must hold 'about'"),
        ("[1, 2]", "holds no settings"),
        ("a: [", "cannot be read as YAML"),
    ],
)
def test_an_arm_that_is_wrong_is_refused_by_name(folder: Path, text: str, said: str) -> None:
    (folder / "odd.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said) as refused:
        load_arms(folder)
    assert "\n" not in str(refused.value)


def test_each_switch_of_the_decisive_experiment_changes_one_setting() -> None:
    folder = ARMS.parent / "conflict"
    arms = {arm.name: arm.config.model_dump(mode="json") for arm in load_arms(folder)}
    assert len({common_digest(arm.config, {}) for arm in load_arms(folder)}) == 1
    align = arms["align"]

    def differences(name: str) -> set[str]:
        return {
            f"{block}.{setting}"
            for block in ("moe", "loss", "optimizer")
            for setting in (align[block] | (arms[name][block] or {}))
            if align[block].get(setting) != (arms[name][block] or {}).get(setting)
        }

    assert {name: differences(name) for name in arms if arms[name]["moe"] is not None and name != "align"} == {
        "moe": {"loss.lambda_align"},
        "oracle": {"moe.router", "moe.mode", "loss.lambda_align"},
        "shuffled": {"loss.align_tags"},
        "text-gate": {"moe.gate", "loss.lambda_align"},
        "contrastive": {"loss.align_loss"},
        "tags-learned": {"loss.tag_embedding"},
        "tags-from-text": {"loss.tag_embedding"},
        "signature-by-layer": {"loss.signature"},
        "hard-signature": {"loss.hard_signature"},
        "tokens-live": {"loss.routing_tokens"},
        "tokens-target": {"loss.routing_tokens"},
        "drop-upcycling": {"moe.drop"},
        "start-noise": {"moe.noise"},
        "gate-unmodulated": {"moe.gate_input"},
        "gate-faster": {"optimizer.gate_rate"},
        "experts-faster": {"optimizer.expert_rate"},
    }
    assert [name for name in arms if arms[name]["moe"] is None] == ["dense", "wide"]


def test_the_registered_plan_is_the_one_of_the_registration() -> None:
    folder = ARMS.parent / "conflict"
    experiment = read_experiment(folder, folder / "plan.yaml")
    assert len(experiment.runs) == 60
    assert experiment.plan.cases.per_task * len(EDITING) == 6000
    assert {(run.arm.config.unified.steps, run.arm.config.unified.batch) for run in experiment.runs} == {(3200, 128)}
    assert {run.arm.config.precision for run in experiment.runs} == {"fp32"}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("start=a", "'start' names 'a', but every arm starts from the dense base of its seed"),
        ("mixture=a", "'mixture' names 'a', but every arm"),
        ("parameters=lora", "'parameters' is 'lora', but the arms of an ablation train whole models"),
    ],
)
def test_what_takes_their_base_from_the_arms_is_refused(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_arms(ARMS, ["align"], [override, "base.steps=0"])


def test_arms_may_start_from_a_dense_model_that_is_named() -> None:
    [arm] = load_arms(ARMS, ["align"], ["dense=a", "base.steps=0"])
    assert arm.config.dense == "a"
