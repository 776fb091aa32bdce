"""The stages that make the frozen parts: autoencoder, tokenizer, text encoder."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from tagmoe.config import AutoencoderConfig, RunConfig, TextEncoderConfig
from tagmoe.pipeline.components import make_autoencoder, make_text_encoder, train_tokenizer
from tagmoe.pipeline.single_frame import fast_single_frame
from tagmoe.train.autoencoder import AutoencoderStage, measure_latents, pictures, to_tensor
from tagmoe.train.components_folder import train_components
from tagmoe.train.loop import Run
from tagmoe.train.text_encoder import SlotReader, TextEncoderStage, instructions
from tagmoe.world import sample


def test_pictures_are_a_pure_function_and_show_every_style() -> None:
    x = pictures(3, 0, 45)
    assert x.shape == (45, 3, 1, 64, 64)
    assert torch.equal(x[10:20], pictures(3, 10, 10))
    assert x.min() >= -1
    assert x.max() <= 1
    targets = to_tensor(np.stack([sample(3, index).target for index in range(45)]))
    restyled = [index for index in range(45) if index % 3 == 2 and not torch.equal(x[index], targets[index])]
    assert len(restyled) >= 10
    assert all(torch.equal(x[index], targets[index]) for index in range(1, 45, 3))


@pytest.mark.slow
def test_the_autoencoder_learns_and_its_latents_are_normalised_by_what_was_measured() -> None:
    vae = fast_single_frame(make_autoencoder(base_dim=4, z_dim=4, dim_mult=(1, 1, 2, 2)))
    stage = AutoencoderStage(vae, AutoencoderConfig(batch=4), seed=0)
    optimizer = torch.optim.Adam(vae.parameters(), 3e-3)
    losses = []
    for _ in range(25):  # the same batch again and again
        loss, report = stage.loss(0, 0)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(report["absolute"])
    assert losses[-1] < 0.8 * losses[0]
    mean, std = measure_latents(vae, seed=0, count=128)
    latents = torch.cat([vae.encode(pictures(0, start, 64)).latent_dist.mode() for start in (0, 64)])
    normalised = (latents - torch.tensor(mean).view(1, -1, 1, 1, 1)) / torch.tensor(std).view(1, -1, 1, 1, 1)
    channels = normalised.detach().transpose(0, 1).flatten(1)
    torch.testing.assert_close(channels.mean(dim=1), torch.zeros(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(channels.std(dim=1), torch.ones(4), atol=1e-3, rtol=0)


def test_the_decoder_stage_leaves_the_latents_as_they_are() -> None:
    vae = fast_single_frame(make_autoencoder(base_dim=4, z_dim=4, dim_mult=(1, 1, 2, 2)))
    stage = AutoencoderStage(vae, AutoencoderConfig(batch=2, decoder_steps=5), seed=0, decoder_only=True)
    loss, _ = stage.loss(0, 0)
    loss.backward()
    for name, parameter in vae.named_parameters():
        is_encoder = name.startswith(("encoder.", "quant_conv."))
        assert (parameter.grad is None) == is_encoder, name
    assert stage.steps == 5


def test_slots_say_what_the_instruction_states_and_nothing_else() -> None:
    reader = SlotReader(8)
    samples = [sample(0, index) for index in range(50)]
    targets = reader.targets(samples)
    for row, drawn in zip(targets.tolist(), samples, strict=True):
        read = {slot: values[i] for (slot, values), i in zip(reader.values.items(), row, strict=True) if i}
        assert read == drawn.slots


def test_the_text_loss_reaches_the_language_model_and_not_the_picture_tower() -> None:
    tokenizer = train_tokenizer(instructions(0, 300), vocab_size=400)
    encoder = make_text_encoder(tokenizer, hidden_size=32, num_layers=1, num_heads=2, num_kv_heads=1)
    stage = TextEncoderStage(encoder, tokenizer, TextEncoderConfig(hidden_size=32, batch=4), seed=0)
    loss, report = stage.loss(0, 0)
    loss.backward()
    assert report["slots"] > 0
    for name, parameter in encoder.named_parameters():
        reached = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        assert reached == ("visual" not in name), name


@pytest.mark.slow
def test_components_train_end_to_end_and_are_not_trained_twice(
    config: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tagmoe.train.components_folder.TOKENIZER_TEXTS", 300)
    monkeypatch.setattr("tagmoe.train.components_folder.measure_latents", partial(measure_latents, count=64))
    settings = config(
        autoencoder={"base_dim": 4, "z_dim": 4, "dim_mult": [1, 1, 2, 2], "steps": 2, "decoder_steps": 2, "batch": 2},
        text_encoder={"hidden_size": 32, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "steps": 2, "batch": 4},
    )
    run = Run(settings, tmp_path, {}, {}, Console(quiet=True))
    first = train_components(run, torch.device("cpu"))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert {json.loads(line)["stage"] for line in lines} == {"autoencoder", "decoder", "text_encoder"}
    again = train_components(run, torch.device("cpu"))
    assert not any(p.requires_grad for p in first.vae.parameters())
    for one, two in zip(first.text_encoder.parameters(), again.text_encoder.parameters(), strict=True):
        assert torch.equal(one, two)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == len(lines)
