"""Make the frozen parts of a PhotoWorld editor: the autoencoder is fitted, tokenizer and text encoder are trained.

    python tools/photoworld_components.py GROUNDS CUTOUTS -o runs/photoworld-components --size 64

Everything is fitted on training roots. Then the autoencoder's PSNR is measured on held-out ones, beside that of the
packaged autoencoder, with intervals over roots. About five minutes of one core.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from tagmoe.intervals import Bootstrap
from tagmoe.model.transformer import TagMoETransformer2DModel
from tagmoe.photoworld import PhotoWorld
from tagmoe.photoworld.sample import Split
from tagmoe.pipeline.components import make_scheduler, make_text_encoder, train_tokenizer
from tagmoe.pipeline.packaged import load_packaged
from tagmoe.pipeline.patch_autoencoder import fit_patches
from tagmoe.pipeline.pipeline import TagMoEPipeline
from tagmoe.train.text_encoder import TEMPLATE

FITTED, TEXTS, MEASURED = 1500, 6000, 300
HIDDEN = 128


def targets(world: PhotoWorld, split: Split, count: int) -> list[tuple[str, np.ndarray]]:
    """(digest of the ground, target) of pairs in which a photograph is the target."""
    tasks = ("add", "remove", "move", "restore")
    drawn = [world.sample(7, number, split=split, task=tasks) for number in range(count)]
    return [(case.roots[0], case.target) for case in drawn]


def read_instructions(world: PhotoWorld, count: int) -> list[str]:
    """Training instructions of pairs and of their inverses."""
    found = []
    for number in range(count):
        case = world.sample(11, number)
        found += [case.instruction, *([case.inverse.instruction] if case.inverse else [])]
    return found


def train_reader(tokenizer: Qwen2Tokenizer, texts: list[str], steps: int) -> Qwen2_5_VLForConditionalGeneration:
    """A small Qwen2.5-VL whose last state tells which tokens the instruction has, and whose others predict the next."""
    encoder = make_text_encoder(tokenizer, hidden_size=HIDDEN, num_layers=2)
    encoder.train()
    torch.manual_seed(0)
    head = torch.nn.Linear(HIDDEN, len(tokenizer))
    learned = [*encoder.model.language_model.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(learned, lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    rng = np.random.default_rng(0)
    for step in range(steps):
        chosen = [TEMPLATE.format(texts[i]) for i in rng.integers(len(texts), size=48)]
        batch = tokenizer(chosen, padding=True, padding_side="right", return_tensors="pt", add_special_tokens=False)
        output = encoder(**batch, output_hidden_states=True, use_cache=False)
        mask = batch.attention_mask
        last = output.hidden_states[-1][torch.arange(len(chosen)), mask.sum(dim=1) - 1]
        present = torch.zeros(len(chosen), len(tokenizer)).scatter_(1, batch.input_ids, mask.float())
        labels = batch.input_ids[:, 1:].masked_fill(mask[:, 1:] == 0, -100)
        read = F.binary_cross_entropy_with_logits(head(last), present, reduction="sum") / len(chosen)
        loss = read + F.cross_entropy(output.logits[:, :-1].flatten(0, 1), labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step + 1 == steps:
            print(f"text encoder {step}/{steps}: {float(read):.2f} nats of {len(tokenizer)} tokens a text")
    return encoder.eval()


def psnr_of(pipeline: TagMoEPipeline, pictures: list[np.ndarray]) -> list[float]:
    """PSNR in dB of each picture after encoding and decoding."""
    found = []
    for start in range(0, len(pictures), 32):
        pixels = torch.from_numpy(np.stack(pictures[start : start + 32])).permute(0, 3, 1, 2).float() / 127.5 - 1.0
        back = pipeline.decode(pipeline.encode_images(pixels)).clamp(-1, 1)
        error = ((back - pixels) / 2).square().flatten(1).mean(dim=1)
        found += (-10 * error.log10()).tolist()
    return found


def main() -> None:
    """Make the folder, measure, and print one object of figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("grounds", type=Path)
    parser.add_argument("cutouts", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=600, help="of the text encoder")
    given = parser.parse_args()
    world = PhotoWorld(given.grounds, given.cutouts, size=given.size)
    fitted = [picture for _, picture in targets(world, "train", FITTED)]
    fitted += [world.sample(7, number, task=("style", "night", "structure")).target for number in range(FITTED // 5)]
    vae = fit_patches(fitted)
    texts = read_instructions(world, TEXTS)
    tokenizer = train_tokenizer(texts, vocab_size=1024)
    encoder = train_reader(tokenizer, texts, given.steps)
    # Its weights are never used; the folder of a pipeline has a transformer that says what a token is.
    tiny = TagMoETransformer2DModel(
        patch_size=2,
        in_channels=4 * vae.config.z_dim,
        out_channels=vae.config.z_dim,
        num_layers=1,
        attention_head_dim=32,
        num_attention_heads=1,
        joint_attention_dim=HIDDEN,
        axes_dims_rope=(8, 12, 12),
    )
    pipeline = TagMoEPipeline(
        tiny,
        vae,
        encoder,
        tokenizer,
        make_scheduler(),
        prompt_template=TEMPLATE,
        max_prompt_tokens=64,
        default_steps=12,
        default_cfg=2.0,
        default_size=given.size,
    )
    pipeline.save_pretrained(given.out)
    held_out = targets(world, "test", MEASURED)
    groups, pictures = [group for group, _ in held_out], [picture for _, picture in held_out]
    figures = {}
    for kind, one in (("patches", pipeline), ("packaged", load_packaged())):
        found = np.array(psnr_of(one, pictures))
        means = np.array([found[[group == name for group in groups]].mean() for name in sorted(set(groups))])
        interval = Bootstrap().mean(means)
        figures[f"psnr_{kind}"] = {bound: round(float(value), 2) for bound, value in interval.as_data().items()}
    print(json.dumps({**figures, "unit": "dB", "n": len(pictures), "grounds": len(set(groups)), "size": given.size}))


if __name__ == "__main__":
    main()
