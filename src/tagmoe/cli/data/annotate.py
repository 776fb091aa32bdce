"""`tagmoe data annotate`: tags for a store's records, from a vision-language model, from rules, or from TagWorld."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tagmoe.cli.data.asking import AskOptions, asked_data, asked_lines
from tagmoe.cli.options import AsJson, FixedSeed, takes
from tagmoe.cli.output import print_result
from tagmoe.errors import UsageError
from tagmoe.sentences import counted

if TYPE_CHECKING:
    from tagmoe.annotation.ask.annotators import Annotator
    from tagmoe.annotation.rules.rule_set import RuleSet


class AnnotatorName(StrEnum):
    """Values of --annotator, equal to `tagmoe.annotation.ask.annotators.ANNOTATORS`."""

    vlm = "vlm"
    rules = "rules"
    oracle = "oracle"


@takes(AskOptions)
def annotate(
    store: Annotated[str, typer.Argument(metavar="STORE", help="Store to annotate.")],
    annotator: Annotated[
        AnnotatorName | None,
        typer.Option(help="A model (default with --endpoint), rules without a model, or TagWorld's own tags."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the answers in the store; by default that of the annotator.")
    ] = None,
    rules: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Rule set (YAML) for the model; by default the packaged one.")
    ] = None,
    votes: Annotated[
        int, typer.Option(min=1, max=100, help="Times to ask a model for each row; shares are probabilities.")
    ] = 1,
    per_tag: Annotated[
        bool, typer.Option("--per-tag", help="Ask a model for each tag, yes or no, with its probability.")
    ] = False,
    replace_tags: Annotated[
        bool, typer.Option("--replace-tags", help="Replace tags for training that came from elsewhere.")
    ] = False,
    seed: FixedSeed = 0,
    as_json: AsJson = False,
    *,
    options: AskOptions,
) -> None:
    """Give scope, type and preservation tags to records; killed, the same command goes on and asks nothing twice.

    Answers are stored in their own column. Rows without tags for training get them from there.
    Example: tagmoe data annotate my/store --endpoint http://127.0.0.1:8000/v1 --model Qwen/Qwen3-VL-8B-Instruct
    """
    kind = annotator or (AnnotatorName.vlm if options.endpoint or options.model else AnnotatorName.rules)
    if kind is not AnnotatorName.vlm:
        given = [*options.given("endpoint", "model"), *(["--rules"] if rules else [])]
        given += [option for option, value in (("--votes", votes > 1), ("--per-tag", per_tag)) if value]
        given += [*options.given("concurrency", "timeout", "pixels"), *(["--seed"] if seed else [])]
        if given:
            raise UsageError(
                f"The option {given[0]} is for a model, and the annotator is {kind.value}; drop one of the two."
            )
    from tagmoe.annotation.ask.plan import Plan
    from tagmoe.data.store.store import Store

    options.check()
    plan = Plan(name or kind.value, replace_tags=replace_tags, **options.plan)
    make: Callable[[], Annotator]
    if kind is AnnotatorName.vlm:
        ask = options.vlm()
        from tagmoe.annotation.rules.rule_set import load_rules, packaged_rules

        rule_set = packaged_rules() if rules is None else load_rules(rules)
        make = partial(_of_model, ask, rule_set, options.pixels, votes, per_tag, seed)
    else:
        from tagmoe.annotation.ask.annotators import OracleAnnotator, RuleAnnotator

        make = RuleAnnotator if kind is AnnotatorName.rules else OracleAnnotator
    result = options.ask(Store.open(store), make, plan, "annotate")
    data = {"store": store, "annotator": plan.name, **asked_data(result), "tags_set": result.tagged}
    done, taken = f"annotated as {plan.name!r}", f"tags for training set in {counted(result.tagged, 'row')}"
    print_result(data, "\n".join(asked_lines(store, result, done, taken)), as_json=as_json)
    if result.asked["failed"]:
        raise typer.Exit(1)


def _of_model(ask: Callable[[], Any], rules: RuleSet, pixels: int, votes: int, per_tag: bool, seed: int) -> Annotator:
    from tagmoe.annotation.ask.annotators import VLMAnnotator

    return VLMAnnotator(ask(), rules, pixels=pixels, votes=votes, per_tag=per_tag, seed=seed)
