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
RULES_KNOW = "The rules know TagWorld only: there is nothing to compare a prediction of this model with."


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
        from tagmoe.routing.explain import Explanation, TagReading, render
        from tagmoe.routing.predicted_tags import signature
        from tagmoe.world import rule_sets, rule_tags

        assert output.routing is not None
        signature_BN = signature(output.routing)
        prompt = output.prompts[0]
        rules, rules_reason, candidates = None, RULES_KNOW, None
        if pipeline.config.known_words is not None:
            found = rule_tags(prompt, sources)
            # Choose among the same sets as the figures of the test set; see `tagmoe.laboratory.routing.tag_scores`.
            rules, candidates = found.descriptor, rule_sets()
            rules_reason = f"{found.reason[0].upper()}{found.reason[1:]}."
        predicted = rule_cosine = None
        if self.alignment is not None:
            (predicted,) = self.alignment.predict(signature_BN[:1], candidates=candidates)
            if rules is not None:
                (rule_cosine,) = self.alignment.cosine(signature_BN[:1], [rules])
        rank = None if self.alignment is None else self.alignment.effective_rank
        page = render(
            Explanation(
                instruction=prompt,
                sources=sources,
                result=output.images[0],
                traces=output.routing,
                signature_N=signature_BN[0].tolist(),
                tags=TagReading(predicted, self.why_not_predicted, rules, rules_reason, rule_cosine, rank, self.right),
                facts={name: str(value) for name, value in facts.items() if name != "prompt"},
            )
        )
        write_text(page, self.path)
        log(f"explained in {self.path} ({len(page.encode()) / 1e6:.2f} MB)")
        return {
            "explain": str(self.path),
            "predicted_tags": None if predicted is None else list(predicted.descriptor.tags),
            "rule_tags": None if rules is None else list(rules.tags),
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
