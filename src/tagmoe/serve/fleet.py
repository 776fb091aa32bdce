"""The images server as an application of Ray Serve: replicas behind one address, on one machine or on a cluster.

    serve run tagmoe.serve.fleet:app model=FOLDER replicas=2

Each replica is the server of `tagmoe serve` with a model of its own. The proxy of Ray Serve shares requests out. When
every replica has its requests and the proxy's queue is full, its back-pressure answers 429 with Retry-After. Requests
of a replica that dies are answered 500: the proxy repeats none, clients of OpenAI's protocol ask again by themselves.
Give a seed, so that asking again draws the same picture.
"""

# Not `from __future__ import annotations`: Ray Serve reads the class of the settings from the signature of `app`.
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from tagmoe.errors import MissingError, UsageError
from tagmoe.extras import require
from tagmoe.pipeline.model_folder import model_folder
from tagmoe.pipeline.packaged import packaged_folder
from tagmoe.serve.limits import Limits
from tagmoe.serve.server import read_keys

AHEAD = 2
"""Batches that a replica holds: one that it draws, and one that fills meanwhile."""
RETRY_AFTER = 1.0
"""Seconds that a client is told to wait. The proxy does not know how long a picture takes."""


class Fleet(BaseModel):
    """Settings, as `serve run` takes them from the command line or a config file.

    model: folder of a pipeline or of a training run; None: the packaged model. replicas: models that are loaded.
    gpus, cpus: what Ray reserves for each; gpus 0: it draws on the CPU. threads: of a CPU, for each. batch: pictures
    that are drawn together. queue: requests that wait at the proxy, beside those that the replicas hold. api_keys: file
    of keys, one a line; without it only requests that name this machine as their host are answered.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Path | None = None
    replicas: int = Field(1, ge=1, le=10_000)
    gpus: float = Field(0.0, ge=0, le=64)
    cpus: float = Field(1.0, ge=0, le=1024)
    threads: int = Field(1, ge=1, le=1024)
    batch: int = Field(8, ge=1, le=256)
    queue: int = Field(32, ge=1, le=100_000)
    api_keys: Path | None = None

    @property
    def ongoing(self) -> int:
        """Requests that one replica holds at most."""
        return AHEAD * self.batch


class Replica:
    """One server of the fleet. Raises the errors of loading a model."""

    def __init__(self, fleet: Fleet, keys: list[str]) -> None:
        self._fleet, self._keys = fleet, keys

    def __serve_build_asgi_app__(self) -> Any:
        """The application that Ray Serve runs in this replica."""
        import torch

        from tagmoe.pipeline.memory.placing import load_pipeline
        from tagmoe.pipeline.memory.plans import choose_plan
        from tagmoe.pipeline.memory.room import memory_room
        from tagmoe.pipeline.memory.sizes import read_sizes
        from tagmoe.routing.predicted_tags import Alignment
        from tagmoe.serve.api import make_app
        from tagmoe.serve.painter import PipelinePainter

        fleet = self._fleet
        torch.set_num_threads(fleet.threads)
        folder = packaged_folder() if fleet.model is None else model_folder(fleet.model)
        room = memory_room(on_gpu=fleet.gpus > 0)
        sizes = read_sizes(folder, value_bytes=room.value_bytes, quantised_value_bytes=room.quantised_value_bytes)
        pipeline = load_pipeline(folder, choose_plan(sizes, room.budget, room.host, room.plans), room.device)
        try:
            alignment = Alignment.load(folder)
        except MissingError:
            alignment = None
        painter = PipelinePainter(pipeline, folder.name, alignment=alignment, threads=fleet.threads)
        limits = Limits(batch=fleet.batch)
        # The proxy bounds the requests, so the queue has a place for every picture that they may ask for.
        limits = Limits(batch=fleet.batch, queue=fleet.ongoing * limits.n)
        return make_app(painter, limits=limits, keys=self._keys)


def app(fleet: Fleet) -> Any:
    """The application, as `serve run` wants it. Raises UsageError for no model and for keys that cannot be read."""
    require("fleet", purpose="A fleet of image servers")
    if fleet.model is not None and not fleet.model.is_dir():
        raise UsageError(f"There is no model folder {str(fleet.model)!r}; give one that every machine can read.")
    keys = [] if fleet.api_keys is None else read_keys(fleet.api_keys)
    from ray import serve
    from ray.serve.config import BackpressureConfig

    deployment = serve.deployment(
        serve.ingress()(Replica),
        name="images",
        num_replicas=fleet.replicas,
        max_ongoing_requests=fleet.ongoing,
        max_queued_requests=fleet.queue,
        # The default is 503, which says that the service is broken rather than busy.
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=RETRY_AFTER),
        ray_actor_options={"num_cpus": fleet.cpus, "num_gpus": fleet.gpus},
    )
    return deployment.bind(fleet, keys)
