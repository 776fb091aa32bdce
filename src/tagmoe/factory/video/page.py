"""What became of the pairs of frames, as one offline page: counts by filter, pairs that were kept and dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from tagmoe.factory.video.checks import CUTS, FILTERS, Limits
from tagmoe.factory.video.ledger import Seen
from tagmoe.factory.video.run import KEPT_SHOWN, Outcome, seen_of
from tagmoe.report.pages import Tile, page_environment

FIGURES = ("camera", "zoom", "turn", "subject", "changed", "aligned", "same", "blur")
"""The figures under a pair."""


def render(outcome: Outcome, checks: Limits, words: Mapping[str, int]) -> str:
    """The HTML page. All text is escaped: names of files come from outside. words: pairs by what `take_words` says."""
    digests = {one.digest: one.name for one in outcome.files if one.digest}
    shown: dict[str | None, list[dict[str, Any]]] = {}
    alone: Counter[str] = Counter()
    for name, seen in seen_of(outcome.folder, digests):
        broken = checks.broken(seen.figures, seen.kind)
        if len(broken) == 1:
            alone[broken[0]] += 1
        if seen.thumbs:
            shown.setdefault(seen.reason, []).append(_shown(name, seen))
    kept, dropped = outcome.kept, outcome.dropped
    rate = f"{kept.total() / outcome.pairs:.0%} of them" if outcome.pairs else ""
    tiles = [
        Tile(f"{len(outcome.files) - len(outcome.failed):,}", "videos read", f"{len(outcome.failed)} not, or in part"),
        Tile(
            f"{sum(one.seconds for one in outcome.files) / 60:,.1f}", "minutes", f"{_total(outcome, 'shots'):,} shots"
        ),
        Tile(f"{outcome.pairs:,}", "pairs drawn"),
        Tile(f"{kept.total():,}", "pairs kept", rate),
        Tile(f"{words.get('worded', 0):,}", "with words", f"{words.get('waiting', 0):,} wait for a model"),
    ]
    return (
        page_environment("tagmoe.factory.video")
        .get_template("page.html.j2")
        .render(
            tiles=tiles,
            files=outcome.files,
            kinds=sorted(kept.items()),
            filters=[(name, one, checks.limits.get(name), dropped[name], alone[name]) for name, one in FILTERS.items()],
            cuts=CUTS in checks.limits,
            total=outcome.pairs,
            kept=shown.get(None, [])[:KEPT_SHOWN],
            dropped=[(name, FILTERS[name].about, dropped[name], shown[name]) for name in FILTERS if name in shown],
            words=sorted(words.items(), key=lambda item: -item[1]),
        )
    )


def _total(outcome: Outcome, name: str) -> int:
    return sum(getattr(one, name) for one in outcome.files)


def _shown(name: str, seen: Seen) -> dict[str, Any]:
    figures = [f"{key} {seen.figures[key]:g}" for key in FIGURES if key in seen.figures]
    reason = "" if seen.reason is None else FILTERS[seen.reason].figure
    return {
        "name": name,
        "kind": seen.kind,
        "times": [f"{seen.time:.2f} s", f"{seen.end:.2f} s"],
        "addresses": [f"data:image/jpeg;base64,{thumb}" for thumb in seen.thumbs],
        "why": f"{reason} {seen.figures[reason]:g}" if reason else "",
        "figures": ", ".join(figures),
    }
