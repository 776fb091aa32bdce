"""`tagmoe data annotate`: tags for a store's records, from a vision-language model, from rules, or from TagWorld."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tagmoe.cli.options import MOST_PROCESSES, MOST_ROWS, AsJson, Engine, EngineName, FixedSeed, RayAddress
from tagmoe.cli.output import print_result
from tagmoe.cli.progress import count_bar
from tagmoe.cli.vlm_options import Concurrency, Endpoints, Pixels, ServedModel, Timeout, need_vlm_extra, open_vlm
from tagmoe.errors import UsageError
from tagmoe.sentences import counted

if TYPE_CHECKING:
    from tagmoe.annotation.ask.annotators import Annotator
    from tagmoe.annotation.ask.store import Outcome
    from tagmoe.annotation.rules.rule_set import RuleSet

REASONS_SHOWN = 5


class AnnotatorName(StrEnum):
    """Values of --annotator, equal to `tagmoe.annotation.ask.annotators.ANNOTATORS`."""

    vlm = "vlm"
    rules = "rules"
    oracle = "oracle"


class RetryName(StrEnum):
    """Values of --retry. Rows with the status "failed" are always asked again, so it is not among them."""

    invalid = "invalid"
    refused = "refused"


def annotate(
    store: Annotated[str, typer.Argument(metavar="STORE", help="Store to annotate.")],
    annotator: Annotated[
        AnnotatorName | None,
        typer.Option(help="A model (default with --endpoint), rules without a model, or TagWorld's own tags."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the answers in the store; by default that of the annotator.")
    ] = None,
    endpoint: Endpoints = None,
    model: ServedModel = None,
    rules: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Rule set (YAML) for the model; by default the packaged one.")
    ] = None,
    votes: Annotated[
        int, typer.Option(min=1, max=100, help="Times to ask a model for each row; shares are probabilities.")
    ] = 1,
    per_tag: Annotated[
        bool, typer.Option("--per-tag", help="Ask a model for each tag, yes or no, with its probability.")
    ] = False,
    retry: Annotated[
        list[RetryName] | None, typer.Option(help="Also ask rows of this status again; may be repeated.")
    ] = None,
    replace_tags: Annotated[
        bool, typer.Option("--replace-tags", help="Replace tags for training that came from elsewhere.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, max=MOST_ROWS, help="Most rows to ask in this run.")] = None,
    engine: Engine = EngineName.local,
    workers: Annotated[int, typer.Option(min=1, max=MOST_PROCESSES, help="Processes; one is enough for a server.")] = 1,
    address: RayAddress = None,
    concurrency: Concurrency = 16,
    timeout: Timeout = 120,
    pixels: Pixels = 1024 * 1024,
    seed: FixedSeed = 0,
    as_json: AsJson = False,
) -> None:
    """Give scope, type and preservation tags to records; killed, the same command goes on and asks nothing twice.

    Answers are stored in their own column. Rows without tags for training get them from there.
    Example: tagmoe data annotate my/store --endpoint http://127.0.0.1:8000/v1 --model Qwen/Qwen3-VL-8B-Instruct
    """
    kind = annotator or (AnnotatorName.vlm if endpoint or model else AnnotatorName.rules)
    if kind is not AnnotatorName.vlm:
        given = [
            option
            for option, value in (
                ("--endpoint", endpoint),
                ("--model", model),
                ("--rules", rules),
                ("--votes", votes > 1),
                ("--per-tag", per_tag),
            )
            if value
        ]
        if given:
            raise UsageError(
                f"The option {given[0]} is for a model, and the annotator is {kind.value}; drop one of the two."
            )
    from tagmoe.annotation.ask.store import Plan, annotate_store
    from tagmoe.data.store.engine import check_engine
    from tagmoe.data.store.store import Store

    check_engine(engine.value, workers, address)
    plan = Plan(
        name or kind.value,
        retry=frozenset(item.value for item in retry or ()),
        # Twice as many as the server gets at once, so that the next question is ready when an answer comes.
        in_flight=2 * concurrency,
        replace_tags=replace_tags,
    )
    make: Callable[[], Annotator]
    if kind is AnnotatorName.vlm:
        need_vlm_extra()
        from tagmoe.annotation.rules.rule_set import load_rules, packaged_rules

        rule_set = packaged_rules() if rules is None else load_rules(rules)
        ask = partial(open_vlm, endpoint or [], model, concurrency=concurrency, timeout=timeout)
        make = partial(_of_model, ask, rule_set, pixels, votes, per_tag, seed)
    else:
        from tagmoe.annotation.ask.annotators import OracleAnnotator, RuleAnnotator

        make = RuleAnnotator if kind is AnnotatorName.rules else OracleAnnotator
    opened = Store.open(store)
    with count_bar("annotate") as progress:
        result = annotate_store(
            opened,
            make,
            plan,
            engine=engine.value,
            workers=workers,
            address=address,
            limit=limit,
            progress=progress,
        )
    print_result(_data(store, plan.name, result), _text(store, plan.name, result), as_json=as_json)
    if result.asked["failed"]:
        raise typer.Exit(1)


def _of_model(ask: Callable[[], Any], rules: RuleSet, pixels: int, votes: int, per_tag: bool, seed: int) -> Annotator:
    from tagmoe.annotation.ask.annotators import VLMAnnotator

    return VLMAnnotator(ask(), rules, pixels=pixels, votes=votes, per_tag=per_tag, seed=seed)


def _data(store: str, name: str, result: Outcome) -> dict[str, Any]:
    return {
        "store": store,
        "annotator": name,
        "rows": sum(result.asked.values()),
        "statuses": dict(sorted(result.asked.items())),
        "reasons": [
            {"status": status, "reason": reason, "rows": count}
            for (status, reason), count in result.reasons.most_common(20)
        ],
        "from_earlier_runs": result.known,
        "tags_set": result.tagged,
        "left": result.left,
    }


def _text(store: str, name: str, result: Outcome) -> str:
    rows = sum(result.asked.values())
    by_status = ", ".join(f"{count:,} {status}" for status, count in sorted(result.asked.items()))
    lines = [f"{store}: {counted(rows, 'row')} annotated as {name!r}" + (f" ({by_status})" if rows else "")]
    if result.known:
        lines.append(f"{counted(result.known, 'answer')} found from a run that was stopped")
    lines.append(f"tags for training set in {counted(result.tagged, 'row')}; left: {counted(result.left, 'row')}")
    for (status, reason), count in result.reasons.most_common(REASONS_SHOWN):
        lines.append(f"{count:>8,}  {status}: {reason[:160]}")
    return "\n".join(lines)
