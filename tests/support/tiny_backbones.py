"""Backbones of the learned metrics with random weights: the real classes at tiny size, in folders as published."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import (
    BitImageProcessorPil,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
    SiglipVisionModel,
)

SIDE = 32
WORDS = ("a", "red", "blue", "cup", "hat")


def tiny_clip(folder: Path) -> Path:
    """CLIP with its tokenizer: each letter of a word is a token, and a few whole words."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,'-"
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    merges = []
    for word in WORDS:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            merges.append(f"{parts[0]} {parts[1]}")
            parts = [parts[0] + parts[1], *parts[2:]]
            tokens.append(parts[0])
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({token: place for place, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(dict.fromkeys(merges)) + "\n")
    names = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    settings = {**names, "unk_token": "<|endoftext|>", "tokenizer_class": "CLIPTokenizer", "model_max_length": 77}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    last = len(tokens) - 1
    text = {"vocab_size": len(tokens), "eos_token_id": last, "bos_token_id": last - 1, "pad_token_id": last}
    layers = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**text, **layers, "max_position_embeddings": 77},
        vision_config={**layers, "image_size": SIDE, "patch_size": 8},
        projection_dim=24,
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}).save_pretrained(
        folder
    )
    return folder


def tiny_dino(folder: Path) -> Path:
    """DINOv2."""
    torch.manual_seed(1)
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, image_size=SIDE, patch_size=8
    )
    Dinov2Model(config).save_pretrained(folder)
    BitImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}).save_pretrained(
        folder
    )
    return folder


def tiny_aesthetic(folder: Path) -> Path:
    """SigLIP's picture half and a head with the published names."""
    torch.manual_seed(2)
    config = SiglipVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=SIDE, patch_size=8
    )
    SiglipVisionModel(config).save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    widths = (32, 1024, 128, 64, 16, 1)
    tensors = {}
    for number, (before, after) in enumerate(pairwise(widths)):
        layer = torch.nn.Linear(before, after)
        tensors |= {f"layers.{2 * number}.weight": layer.weight.data, f"layers.{2 * number}.bias": layer.bias.data}
    save_file(tensors, folder / "aesthetic_head.safetensors")
    return folder


def tiny_csd(folder: Path) -> Path:
    """CSD with the names of its checkpoint: OpenAI's picture half of CLIP, two heads wide, and the matrix of styles."""
    torch.manual_seed(3)
    width, patch = 128, 8
    shapes = {
        "class_embedding": (width,),
        "positional_embedding": ((SIDE // patch) ** 2 + 1, width),
        "conv1.weight": (width, 3, patch, patch),
        **{f"{norm}.{kind}": (width,) for norm in ("ln_pre", "ln_post") for kind in ("weight", "bias")},
    }
    for block in range(2):
        own = {
            **{f"{norm}.{kind}": (width,) for norm in ("ln_1", "ln_2") for kind in ("weight", "bias")},
            "attn.in_proj_weight": (3 * width, width),
            "attn.in_proj_bias": (3 * width,),
            "attn.out_proj.weight": (width, width),
            "attn.out_proj.bias": (width,),
            "mlp.c_fc.weight": (4 * width, width),
            "mlp.c_fc.bias": (4 * width,),
            "mlp.c_proj.weight": (width, 4 * width),
            "mlp.c_proj.bias": (width,),
        }
        shapes |= {f"transformer.resblocks.{block}.{name}": shape for name, shape in own.items()}
    tensors = {f"module.backbone.{name}": 0.1 * torch.randn(shape) for name, shape in shapes.items()}
    matrices = {f"module.last_layer_{what}": 0.1 * torch.randn(width, 24) for what in ("style", "content")}
    folder.mkdir(parents=True)
    save_file(tensors | matrices, folder / "csd.safetensors")
    return folder
