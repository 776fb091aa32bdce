"""`tagmoe data encode`: latents and embeddings as columns of a store."""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tagmoe.cli.models import check_model, quiet_libraries
from tagmoe.cli.options import MOST_PROCESSES, MOST_ROWS, AsJson, Engine, EngineName, Model, RayAddress, Threads
from tagmoe.cli.output import print_result
from tagmoe.cli.progress import count_bar
from tagmoe.errors import UsageError
from tagmoe.sentences import counted
from tagmoe.weights.presets import RELEASE

if TYPE_CHECKING:
    from tagmoe.data.encoder import Encoder, Size


class DtypeName(StrEnum):
    """Values of --dtype, equal to `tagmoe.train.encoder.DTYPES`."""

    float32 = "float32"
    bfloat16 = "bfloat16"


class LongPrompts(StrEnum):
    """Values of --long-prompts, equal to `tagmoe.train.encoder.LONG_PROMPTS`."""

    truncate = "truncate"
    skip = "skip"


def encode(
    store: Annotated[str, typer.Argument(metavar="STORE", help="Store to encode.")],
    model: Model = None,
    engine: Engine = EngineName.local,
    workers: Annotated[
        int, typer.Option(min=1, max=MOST_PROCESSES, help="Processes, each with its own copy of the model.")
    ] = 1,
    address: RayAddress = None,
    sizes: Annotated[
        str | None,
        typer.Option(
            metavar="SIZES",
            help="Buckets as WxH,WxH, or release for its 33; by default those, or a small model's one square.",
        ),
    ] = None,
    dtype: Annotated[
        DtypeName | None, typer.Option(help="Dtype of the model; by default bfloat16 on a GPU. Columns are float16.")
    ] = None,
    long_prompts: Annotated[
        LongPrompts, typer.Option(help="Cut wordings of more tokens than the model reads, or leave them out.")
    ] = LongPrompts.truncate,
    limit: Annotated[
        int | None,
        typer.Option(min=1, max=MOST_ROWS, help="Stop after the import batch in which this many rows are reached."),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Drop the encoded columns and start again.")] = False,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Encode pictures and instructions once, so that training need not; the same command goes on after a kill.

    Example: tagmoe data encode my/store --model my/model --workers 2
    """
    chosen = None if sizes is None else parse_sizes(sizes)
    folder = check_model(model)
    from tagmoe.data.encode import encode_store
    from tagmoe.data.store.engine import check_engine
    from tagmoe.data.store.store import Store

    check_engine(engine.value, workers, address)
    opened = Store.open(store)
    quiet_libraries()
    from tagmoe.train.encoder import encoder_of

    if threads is None and (workers > 1 or engine is EngineName.ray):
        threads = 1
    load, fingerprint = encoder_of(
        folder, chosen, None if dtype is None else dtype.value, threads, long_prompts=long_prompts.value
    )
    with count_bar("encode") as progress:
        result = encode_store(
            opened,
            partial(_load_quietly, load),
            fingerprint,
            engine=engine.value,
            workers=workers,
            address=address,
            limit=limit,
            again=again,
            progress=progress,
        )
    data: dict[str, Any] = {
        "store": store,
        "rows": result.rows,
        "unusable_rows": result.unusable,
        "errors": dict(sorted(result.errors.items())),
        "cut_prompts": result.cut,
        "fragments": result.fragments,
        "fragments_before": result.before,
        "fragments_left": result.left,
        "sizes": fingerprint["sizes"],
    }
    lines = [f"{store}: {counted(result.rows, 'row')} encoded, left: {counted(result.left, 'fragment')}"]
    if result.errors:
        parts = ", ".join(f"{part} {count:,}" for part, count in sorted(result.errors.items()))
        lines.append(
            f"{counted(result.unusable, 'row')} cannot be trained on; not encoded: {parts} (reasons in encoded_error)"
        )
    if result.cut:
        lines.append(
            f"{counted(result.cut, 'prompt')} with more tokens than the model reads: cut to that (--long-prompts)"
        )
    print_result(data, "\n".join(lines), as_json=as_json)


def parse_sizes(text: str) -> list[Size]:
    """The (width, height) pairs of "WxH,WxH,...", or those of "release". Raises UsageError."""
    if text == RELEASE.name:
        return list(RELEASE.sizes)
    if not re.fullmatch(r"\d{1,5}x\d{1,5}(,\d{1,5}x\d{1,5})*", text):
        raise UsageError(f"The sizes are {text!r}; give WIDTHxHEIGHT, several of them with commas, or release.")
    pairs = (pair.split("x") for pair in text.split(","))
    return [(int(width), int(height)) for width, height in pairs]


def _load_quietly(load: Callable[[], Encoder]) -> Encoder:
    quiet_libraries()
    return load()
