"""Parts that are in memory only while they compute draw what they draw when they stay, and let go of what they had."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tagmoe.errors import CheckpointError, UsageError
from tagmoe.pipeline.memory.placing import load_pipeline
from tagmoe.pipeline.memory.plans import CPU_PLANS, WEIGHT_TOLERANCE
from tagmoe.pipeline.memory.turns import FromDisk
from tagmoe.pipeline.packaged import packaged_folder
from tagmoe.recipes.full_path.tiny_vlm import TEMPLATE
from tagmoe.vlm.local import LocalVLM
from tagmoe.vlm.question import Answer, Question

PLANS = {plan.name: plan for plan in CPU_PLANS}
AGAIN = [plan.name for plan in CPU_PLANS if plan.offload in ("turns", "disk")]


def numbers(part: nn.Module) -> int:
    """Parameters of a part that have numbers now."""
    return sum(tensor.numel() for tensor in part.parameters() if tensor.device.type != "meta")


def all_of(part: nn.Module) -> int:
    return sum(tensor.numel() for tensor in part.parameters())


def test_there_are_three_such_plans() -> None:
    assert AGAIN == ["in-turns", "4-bit-in-turns", "blocks-from-disk"]


@pytest.mark.parametrize(("name", "same_as"), [("in-turns", "resident"), ("4-bit-in-turns", "4-bit")])
def test_parts_in_turns_draw_the_same_picture_as_parts_that_stay(kept: Any, draw: Any, name: str, same_as: str) -> None:
    pipeline = kept(name)
    first = draw(pipeline, count=2)
    assert np.array_equal(first, draw(kept(same_as), count=2))
    # A second call reads them again.
    assert np.array_equal(draw(pipeline, count=2), first)
    assert numbers(pipeline.text_encoder) == numbers(pipeline.transformer) == 0


def test_blocks_from_disk_draw_within_the_tolerance_of_the_text_encoder(
    kept: Any, draw: Any, resident_pictures: np.ndarray
) -> None:
    pipeline = kept("blocks-from-disk")
    drawn = draw(pipeline)
    tolerance = PLANS["blocks-from-disk"].tolerance
    assert 0 < np.abs(drawn - resident_pictures).mean() <= WEIGHT_TOLERANCE["4-bit"] <= tolerance
    assert np.array_equal(draw(pipeline), drawn)


@contextmanager
def watched_blocks(pipeline: Any) -> Iterator[list[tuple[int, int]]]:
    """(parameters with numbers in the blocks, and in the text encoder) while each block computes."""
    seen: list[tuple[int, int]] = []
    fill = FromDisk.pre_forward

    def pre_forward(self: Any, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        found = fill(self, module, *args, **kwargs)
        seen.append((numbers(pipeline.transformer.transformer_blocks), numbers(pipeline.text_encoder)))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FromDisk, "pre_forward", pre_forward)
        yield seen


def test_one_block_at_a_time_has_numbers_and_the_text_encoder_none(kept: Any, draw: Any) -> None:
    pipeline = kept("blocks-from-disk")
    blocks = pipeline.transformer.transformer_blocks
    with watched_blocks(pipeline) as seen:
        draw(pipeline, count=1)
    # three steps, guidance in one batch
    assert len(seen) == 3 * len(blocks)
    assert [found for found, _ in seen] == [all_of(block) for block in blocks] * 3
    assert {text for _, text in seen} == {0}
    assert numbers(blocks) == 0


def test_while_the_transformer_computes_the_text_encoder_has_no_numbers(kept: Any, draw: Any) -> None:
    pipeline = kept("in-turns")
    seen = []

    def look(*_: Any) -> None:
        seen.append((numbers(pipeline.transformer), numbers(pipeline.text_encoder)))

    for part in (pipeline.transformer, pipeline.text_encoder):
        part.register_forward_hook(look)
    draw(pipeline, count=1)
    # A shell has both ends of the text encoder, which are one once they are read.
    whole = all_of(pipeline.transformer), all_of(kept("resident").text_encoder)
    assert {found for found in seen if found[0]} == {(whole[0], 0)}
    assert {found for found in seen if found[1]} == {(0, whole[1])}
    assert numbers(pipeline.vae) == all_of(pipeline.vae)


def test_a_text_encoder_in_turns_answers_questions_as_one_that_stays(kept: Any) -> None:
    """As `--rewrite self` asks it: its device is looked at before it is called."""
    questions = [Question(("Is it day?",), choices=("yes", "no")), Question(("Is it day?",), schema={"const": "day"})]

    def answers(name: str) -> list[Answer]:
        pipeline = kept(name)
        pipeline.tokenizer.chat_template = TEMPLATE
        vlm = LocalVLM(pipeline.text_encoder, pipeline.tokenizer, name="own")
        return [asyncio.run(vlm.ask(question)) for question in questions]

    found = answers("in-turns")
    assert [answer.status for answer in found] == ["ok", "ok"]
    assert found == answers("resident")


@pytest.mark.parametrize("name", AGAIN)
def test_a_lora_that_would_be_lost_is_refused(kept: Any, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="A LoRA would be lost: this memory plan reads the weights again in each call"):
        kept(name).load_lora_weights(tmp_path)


def test_such_a_plan_is_for_a_processor() -> None:
    with pytest.raises(UsageError, match="'in-turns' is for a CPU"):
        load_pipeline(packaged_folder(), PLANS["in-turns"], "cuda")


@pytest.mark.parametrize("name", AGAIN)
def test_a_damaged_part_is_found_when_the_pipeline_is_loaded(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(packaged_folder(), folder)
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="cut short"):
        load_pipeline(folder, PLANS[name], "cpu")


def test_a_block_that_is_not_finite_is_refused_when_it_is_read(tmp_path: Path, draw: Any) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "model"
    shutil.copytree(packaged_folder(), folder)
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if name.startswith("transformer_blocks.1.") and name.endswith(".weight"))
    weights[name] = torch.full_like(weights[name], float("nan"))
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="not finite"):
        draw(load_pipeline(folder, PLANS["blocks-from-disk"], "cpu"), count=1)
