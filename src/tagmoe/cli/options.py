"""Options that several verbs share, and a decorator for verbs that take a dataclass of options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from enum import StrEnum
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import typer

MOST_PROCESSES = 1024
"""Upper bound of processes and threads: beyond it a machine stands still. Every number has one, to catch slips."""
MOST_CASES = 10_000
MOST_ROWS = 10**12
Memory = Literal["auto", "8gb", "16gb", "24gb", "48gb", "80gb"]
"""Values of --memory: those of `tagmoe.pipeline.memory.plans.CHOICES`."""


class EngineName(StrEnum):
    """Values of --engine, equal to `tagmoe.data.store.engine.ENGINES`."""

    local = "local"
    ray = "ray"


Engine = Annotated[EngineName, typer.Option("--engine", help="Where to run: on this machine, or on Ray.")]
RayAddress = Annotated[
    str | None, typer.Option("--address", help="Ray cluster to use; by default one is started here.")
]
Model = Annotated[
    Path | None,
    typer.Option(
        "--model", "-m", help="Folder of a pipeline or of a training run, or hub name; by default the packaged model."
    ),
]
Steps = Annotated[int | None, typer.Option(min=1, max=1000, help="Denoising steps; by default the model's own.")]
Cfg = Annotated[
    float | None, typer.Option(min=0, max=100, help="Guidance scale; 1 or less for none; by default the model's own.")
]
FixedSeed = Annotated[int, typer.Option(min=0, max=2**62, help="Seed of all random numbers.")]
Threads = Annotated[
    int | None, typer.Option(min=1, max=MOST_PROCESSES, help="Processor threads; by default 1 for TagWorld.")
]
Seeds = Annotated[
    str | None,
    typer.Option(
        "--seed",
        metavar="SEEDS",
        help="Seed of the noise, or one for each result: a range (0-7) or a list (1,5,9). By default a new one, which "
        "is printed.",
    ),
]
NumImages = Annotated[
    int | None,
    typer.Option(
        "--num-images", min=1, max=10_000, help="Results of each picture, with seeds from --seed on or new ones."
    ),
]
NegativePrompt = Annotated[
    str | None, typer.Option("--negative-prompt", help="What the picture shall not be like; needs --cfg above 1.")
]
Replay = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="PICTURE",
        help="Repeat what a result says about how it was made; options that are given too override it.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing output.")]
PresetName = Annotated[
    str | None,
    typer.Option("--preset", help="Named settings that your own options override. release: 30 steps, CFG 4, 33 sizes."),
]
Lora = Annotated[
    list[str] | None,
    typer.Option(
        "--lora", help="LoRA of Qwen-Image: safetensors file, folder or hub name; may be given several times."
    ),
]
LoraScale = Annotated[
    list[float] | None,
    typer.Option("--lora-scale", min=-100, max=100, help="Strength of each --lora, in the same order; by default 1."),
]
MemoryChoice = Annotated[
    Memory, typer.Option("--memory", help="Device memory to plan for: auto (what is free), or a card of this size.")
]
Size = Annotated[str, typer.Option(help="WIDTHxHEIGHT of the output, or match for the first picture's shape.")]
DrawPrompt = Annotated[
    str | None, typer.Option("--prompt", "-p", help="What to draw or to change; needed without --from.")
]
Prompt = Annotated[str, typer.Option("--prompt", "-p", help="What to draw or to change.")]
Out = Annotated[
    Path,
    typer.Option(
        "--out", "-o", help="Picture to write: .png, .jpg, .webp, .bmp or .tif; a folder; or - for PNG to stdout."
    ),
]
NoMetadata = Annotated[
    bool, typer.Option("--no-metadata", help="Leave out of the picture how it was made (prompt, seed, model, sources).")
]
Explain = Annotated[
    Path | None,
    typer.Option(
        "--explain", help="Page to write (.html): where each expert worked, and the tags that its routing predicts."
    ),
]


def takes(options: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a verb one command-line option for each field of a dataclass; it receives them as `options`.

    The fields are annotated like parameters of a verb, and have defaults. Without this, two verbs would have to repeat
    all shared options, because typer reads them from the signature of a function.
    """
    hints = get_type_hints(options, include_extras=True)
    added = [
        Parameter(field.name, Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name])
        for field in fields(options)
    ]

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        own = signature(verb, eval_str=True).parameters

        @wraps(verb)
        def run(**given: Any) -> None:
            chosen = options(**{field.name: given.pop(field.name) for field in fields(options)})
            verb(**given, options=chosen)

        parameters = [*(parameter for name, parameter in own.items() if name != "options"), *added]
        run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate
