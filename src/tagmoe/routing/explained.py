"""Explain one picture by its routing: the page of `tagmoe.routing.explain`, and the tags on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL.Image import Image

from tagmoe.model.routing import RoutingTrace
from tagmoe.routing.explain import Explanation, TagReading, render
from tagmoe.routing.predicted_tags import Alignment, signature
from tagmoe.routing.tags_right import TagsRight
from tagmoe.world import rule_sets, rule_tags

RULES_KNOW = "The rules know TagWorld only: there is nothing to compare a prediction of this model with."


@dataclass(frozen=True)
class Explained:
    """page: HTML. predicted_tags, rule_tags: None where there are none."""

    page: str
    predicted_tags: list[str] | None
    rule_tags: list[str] | None


def explain_picture(
    traces: Sequence[RoutingTrace],
    *,
    prompt: str,
    sources: Sequence[Image],
    image: Image,
    facts: Mapping[str, str],
    alignment: Alignment | None,
    why_not_predicted: str,
    is_tagworld: bool,
    right: TagsRight | None = None,
) -> Explained:
    """Explain the first sample of these traces, one a denoising step. alignment: None predicts no tags, and a sentence
    says why. is_tagworld: the rules of that world know the tags too. right: how often predictions are right."""
    signature_BN = signature(traces)
    rules, rules_reason, candidates = None, RULES_KNOW, None
    if is_tagworld:
        found = rule_tags(prompt, sources)
        # Choose among the same sets as the figures of the test set; see `tagmoe.laboratory.routing.tag_scores`.
        rules, candidates = found.descriptor, rule_sets()
        rules_reason = f"{found.reason[0].upper()}{found.reason[1:]}."
    predicted = rule_cosine = None
    if alignment is not None:
        (predicted,) = alignment.predict(signature_BN[:1], candidates=candidates)
        if rules is not None:
            (rule_cosine,) = alignment.cosine(signature_BN[:1], [rules])
    rank = None if alignment is None else alignment.effective_rank
    page = render(
        Explanation(
            instruction=prompt,
            sources=sources,
            result=image,
            traces=traces,
            signature_N=signature_BN[0].tolist(),
            tags=TagReading(predicted, why_not_predicted, rules, rules_reason, rule_cosine, rank, right),
            facts=facts,
        )
    )
    return Explained(
        page,
        None if predicted is None else list(predicted.descriptor.tags),
        None if rules is None else list(rules.tags),
    )
