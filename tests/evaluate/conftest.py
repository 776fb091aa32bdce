"""A random pipeline that can read any TagWorld instruction."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(scope="session")
def pipeline(tiny_pipeline: Any) -> Any:
    """The shared tiny parts; its tokenizer knows few words, so an instruction takes more tokens than usual."""
    from tagmoe.pipeline.pipeline import TagMoEPipeline

    return TagMoEPipeline(
        **tiny_pipeline.components,
        prompt_template="<|im_start|>{}<|im_end|>",
        max_prompt_tokens=512,
        default_steps=2,
        default_cfg=2.0,
        default_size=64,
    )
