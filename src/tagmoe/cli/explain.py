"""`--explain` of `edit` and `generate`: check the page's options before the model is loaded, and write the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tagmoe.cli.models import check_model, model_name
from tagmoe.cli.output import check_output_file, log, write_text
from tagmoe.errors import CheckpointError, MissingError, UsageError
from tagmoe.files.json_files import read_object
from tagmoe.sentences import counted

if TYPE_CHECKING:
    from PIL.Image import Image

    from tagmoe.pipeline.pipeline import TagMoEPipeline, TagMoEPipelineOutput
    from tagmoe.routing.predicted_tags import Alignment
    from tagmoe.routing.tags_right import TagsRight

EXTENSIONS = (".html", ".htm")


@dataclass(frozen=True)
class Page:
    """The page to write, and the alignment weights in the model's folder or the reason why there are none."""

    path: Path
    alignment: Alignment | None
    why_not_predicted: str
    right: TagsRight | None

    def write(
        self, pipeline: TagMoEPipeline, output: TagMoEPipelineOutput, sources: Sequence[Image], facts: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Write the page of the first picture. Returns the facts for --json."""
        from tagmoe.routing.explained import explain_picture

        assert output.routing is not None
        explained = explain_picture(
            output.routing,
            prompt=output.prompts[0],
            sources=sources,
            image=output.images[0],
            facts={name: str(value) for name, value in facts.items() if name != "prompt"},
            alignment=self.alignment,
            why_not_predicted=self.why_not_predicted,
            is_tagworld=pipeline.config.known_words is not None,
            right=self.right,
        )
        write_text(explained.page, self.path)
        log(f"explained in {self.path} ({len(explained.page.encode()) / 1e6:.2f} MB)")
        return {
            "explain": str(self.path),
            "predicted_tags": explained.predicted_tags,
            "rule_tags": explained.rule_tags,
        }


def prepare_page(path: Path, model: Path | None, *, force: bool) -> Page:
    """Check the page's path and the model's folder. Without alignment weights, the page has no predicted tags.

    Raises UsageError for a bad path or a model without experts, CheckpointError for damaged alignment weights.
    """
    check_output_file(path, force=force, extensions=EXTENSIONS, kind="page")
    folder = check_model(model)
    config_file = folder / "transformer" / "config.json"
    # An incomplete folder is refused later, when it is loaded.
    config = read_object(config_file) if config_file.is_file() else None
    if config is not None and not config.get("num_moe_blocks"):
        raise UsageError(
            f"--explain shows what experts did, but the model {model_name(model)!r} is dense; leave --explain out, or "
            "give a model with experts."
        )
    from tagmoe.routing.predicted_tags import Alignment
    from tagmoe.routing.tags_right import TagsRight

    try:
        alignment = Alignment.load(folder)
    except MissingError as error:
        return Page(path, None, str(error), None)
    if config is not None and config.get("num_experts") not in (None, alignment.num_experts):
        raise CheckpointError(
            f"The alignment weights in {str(folder)!r} are for {counted(alignment.num_experts, 'expert')} and the "
            "transformer has "
            f"{config['num_experts']}; copy or train the model again."
        )
    return Page(path, alignment, "", TagsRight.load(folder))
