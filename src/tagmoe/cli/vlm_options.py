"""Options of the verbs that ask a vision-language model, and a function that opens the model."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tagmoe.errors import UsageError
from tagmoe.extras import require

if TYPE_CHECKING:
    from tagmoe.vlm.question import VLM
    from tagmoe.vlm.servers import ChatServers

Endpoints = Annotated[
    list[str] | None,
    typer.Option(
        "--endpoint",
        metavar="URL",
        help="Server of chat completions, as http://127.0.0.1:8000/v1, or the folder of a Qwen-VL model; servers may "
        "be given several times. Its key is read from TAGMOE_VLM_KEY, else OPENAI_API_KEY.",
    ),
]
_NAME_HELP = "Name of the vision-language model on the server."
ServedModel = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", metavar="NAME", help=f"{_NAME_HELP[:-1]}; without --endpoint the folder of a Qwen-VL model."
    ),
]
VLMName = Annotated[str | None, typer.Option("--vlm-model", metavar="NAME", help=_NAME_HELP)]
"""For verbs whose --model is a pipeline."""
Concurrency = Annotated[int, typer.Option(min=1, max=10_000, help="Questions asked at the same time.")]
Timeout = Annotated[
    float, typer.Option(min=0.1, max=86_400, help="Seconds to wait for one answer before it is asked again.")
]
Pixels = Annotated[
    int,
    typer.Option(
        min=1, max=64 * 10**6, help="Most pixels of a picture sent to the model; larger ones are scaled down."
    ),
]


def need_vlm_extra(*further: str) -> None:
    """Raise MissingError when a module that every question needs, or one of `further`, is not installed."""
    require("vlm", "aiohttp", "jsonschema", *further, purpose="Asking a vision-language model")


def open_vlm(
    endpoints: Sequence[str],
    model: str | None,
    *,
    concurrency: int,
    timeout: float,
    attempts: int = 5,
    rewards: bool = False,
) -> VLM:
    """Open the VLM: the servers at these addresses, or the local model in one folder.

    rewards: whether the numbers of its heads are asked for, and no text; then it is a folder, for no server gives them.
    Servers are checked first: one must be reachable, accept the key and have the model. Raises UsageError otherwise,
    and MissingError without the extra. It must not be called inside an event loop.
    """
    if not endpoints and model and Path(model).expanduser().is_dir():
        endpoints = [model]
    if not endpoints:
        raise UsageError(
            "No vision-language model is given; give --endpoint URL of a server, or the folder of a Qwen-VL model."
        )
    folders = [endpoint for endpoint in endpoints if "://" not in endpoint]
    if folders:
        return _local(folders[0], alone=len(endpoints) == 1, rewards=rewards)
    if rewards:
        raise UsageError(
            "This judge is a head on a model's last layer, and a server of chat completions gives text alone; give the "
            "folder of its weights in place of the URL."
        )
    need_vlm_extra()
    if not model:
        raise UsageError("The model on the server is not named; give its name, as the server lists it at /v1/models.")
    from tagmoe.vlm.servers import ChatServers, server_key

    servers = ChatServers(
        endpoints, model, key=server_key(), concurrency=concurrency, timeout=timeout, attempts=attempts
    )
    asyncio.run(_check(servers))
    return servers


def _local(folder: str, *, alone: bool, rewards: bool) -> VLM:
    if not Path(folder).expanduser().is_dir():
        raise UsageError(
            f"The endpoint {folder!r} is neither a URL, as http://127.0.0.1:8000/v1, nor the folder of a model; "
            "correct --endpoint."
        )
    if not alone:
        raise UsageError(f"The folder {folder!r} is given beside other endpoints; give one folder, or servers only.")
    if rewards:
        from tagmoe.vlm.reward import RewardVLM

        return RewardVLM.load(folder)
    need_vlm_extra("llguidance")
    from tagmoe.vlm.local import LocalVLM

    return LocalVLM.load(folder)


async def _check(servers: ChatServers) -> None:
    try:
        await servers.check()
    finally:
        await servers.close()
