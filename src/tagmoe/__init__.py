"""tagmoe: the open system of TAG-MoE (arXiv 2601.08881). Public names load on first use: this import is light."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.2.0"

_HOMES = {
    "ModelMixin": "diffusers",  # diffusers looks for its base class in the module that model_index.json names
    "PatchAutoencoder": "tagmoe.pipeline.patch_autoencoder",  # named in the model_index.json of its models
    "TagMoEPipeline": "tagmoe.pipeline.pipeline",
    "TagMoEPipelineOutput": "tagmoe.pipeline.pipeline",
    "TagMoETransformer2DModel": "tagmoe.model.transformer",
    "RouterStats": "tagmoe.model.routing",
    "RoutingTrace": "tagmoe.model.routing",
    "upcycle": "tagmoe.model.upcycle",
    "Objective": "tagmoe.losses.objective",
    "TaskDescriptor": "tagmoe.tags",
    "TagMoEError": "tagmoe.errors",
    "load_packaged": "tagmoe.pipeline.packaged",
}

__all__ = [
    "Objective",
    "RouterStats",
    "RoutingTrace",
    "TagMoEError",
    "TagMoEPipeline",
    "TagMoEPipelineOutput",
    "TagMoETransformer2DModel",
    "TaskDescriptor",
    "load_packaged",
    "upcycle",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tagmoe' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
