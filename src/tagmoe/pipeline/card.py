"""The README.md of a saved folder: what the model is, and how to open it, for whoever gets the folder alone."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from tagmoe.report.markdown import markdown_text

CARD = """---
library_name: tagmoe
pipeline_tag: image-to-image
---

# {title}

Open it with `TagMoEPipeline` of the package tagmoe, or in diffusers after `import tagmoe`: diffusers alone does not
know its class.

```python
from tagmoe import TagMoEPipeline

pipeline = TagMoEPipeline.from_pretrained("path/of/this/folder")
picture = pipeline("what to change", image="photo.png", seed=0).images[0]
```

Or `tagmoe edit photo.png -p "what to change" -m path/of/this/folder`.

Default size: {size}, steps: {steps}, guidance: {cfg:g}. Trained on: {trained_on}. Saved by tagmoe {version}.
"""


def card_of(config: Any, transformer: Any) -> str:
    """The card of a pipeline with this config and transformer (None where it has none)."""
    made = {} if transformer is None else transformer.config
    experts = made.get("num_experts", 0) if made.get("num_moe_blocks", 0) else 0
    title = f"TAG-MoE with {experts} experts in {made['num_moe_blocks']} blocks" if experts else "TAG-MoE, dense"
    learned = config.trained_on or {}
    return CARD.format(
        title=title,
        size=config.default_size,
        steps=config.default_steps,
        cfg=config.default_cfg,
        trained_on=markdown_text(learned.get("pictures", "not recorded")),
        version=version("tagmoe"),
    )
