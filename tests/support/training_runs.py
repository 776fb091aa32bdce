"""Training stages and runs, and what they leave: for the tests of training, resume and stored data."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from tagmoe.config import RunConfig
from tagmoe.model.transformer import TagMoETransformer2DModel
from tagmoe.model.upcycle import upcycle
from tagmoe.train.components_folder import Components, read_components
from tagmoe.train.recipe import assemble, dense_transformer
from tagmoe.train.stage import FlowStage

KILLED_RUN = """
import os, signal, sys, yaml
from pathlib import Path
from rich.console import Console
import tagmoe.train.loop as loop
from tagmoe.config import check_config
from tagmoe.train.recipe import train

original, stage_to_kill, step_to_kill = loop.train_step, sys.argv[2], int(sys.argv[3])

def train_step(stage, step, *rest):
    if stage.name == stage_to_kill and step == step_to_kill:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(stage, step, *rest)

loop.train_step = train_step
train(check_config(yaml.safe_load(Path(sys.argv[1]).read_text())), validator=lambda *_: {}, console=Console(quiet=True))
"""


def metrics(config: RunConfig) -> list[dict[str, float]]:
    """All logged steps without what may differ: the time they took."""
    lines = (Path(config.output_dir) / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


def weights(model: Path) -> dict[str, bytes]:
    """Every tensor of the finished transformer and of W_tag and H_pred, as bytes."""
    files = [model / "transformer" / "diffusion_pytorch_model.safetensors", model / "alignment.safetensors"]
    return {name: value.view(-1).float().numpy().tobytes() for file in files for name, value in load_file(file).items()}


def opened_mixture(config: RunConfig, parts: Components) -> TagMoETransformer2DModel:
    """A mixture upcycled from an untrained dense model. Its adaLN is opened, and its gates are far from ties."""
    dense = dense_transformer(config, parts)
    torch.manual_seed(0)
    for parameter in dense.parameters():  # adaLN-zero blocks would send no gradient to the gates yet
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    moe = upcycle(dense, **config.moe.model_dump())
    for name, parameter in moe.named_parameters():
        if ".gate." in name:  # near-tied gates would all choose alike
            parameter.data.add_(0.5 * torch.randn_like(parameter))
    return moe


def make_stage(config: RunConfig, folder: Path) -> FlowStage:
    """The unified stage of a config, upcycled from an untrained dense model whose adaLN is opened."""
    assert config.components is not None
    parts = read_components(config.components)
    return FlowStage(
        "unified", assemble(opened_mixture(config, parts), parts), config.unified, config.loss, config.optimizer,
        seed=0, cache=folder, validator=lambda *_: {},
    )  # fmt: skip
