"""The filters on rendered videos with known truth: a small part of what `benchmarks/video_filters.py` measures."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.labelled_videos import FAULTS, Row, begins_of, rows_of, videos
from support.made_videos import write_video

from tagmoe.factory.video.checks import CUTS, FILTERS, NAMES, Limits, kind_of

LIMITS = Limits.of()


def broken(row: Row) -> list[str]:
    return [name for name in LIMITS.broken(row.figures, row.kind) if name != "repeat"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kept_pairs_are_good_and_good_pairs_are_kept(tmp_path: Path) -> None:
    rows: list[Row] = []
    for seed in (901, 902):
        for made in videos(seed, [None]):
            path = write_video(tmp_path / "a.mp4", made.frames)
            rows += rows_of(made, path)
            if made.name == "cuts":
                assert begins_of(path) == made.begins
    known = [row for row in rows if row.labels["good"] is not None]
    kept = [row for row in known if not broken(row)]
    good = [row for row in known if row.labels["good"]]
    assert len(good) > 40
    assert sum(bool(row.labels["good"]) for row in kept) >= 0.9 * len(kept)
    assert sum(not broken(row) for row in good) >= 0.9 * len(good)
    for name, least in {"blur": 1.0, "blank": 1.0, "still": 0.8, "moving": 0.8}.items():
        faulty = [row for row in rows if row.labels.get(name)]
        assert sum(name in broken(row) for row in faulty) >= least * len(faulty) > 0
    views = [row for row in good if row.labels["view"] is not None]
    assert all((row.kind == "view") == row.labels["view"] for row in views)


def test_every_filter_has_a_limit_a_label_and_a_place_in_the_order() -> None:
    assert (CUTS, *FILTERS) == NAMES
    assert set(FAULTS) == set(FILTERS) - {"repeat"}
    figures = {one.figure: 1e-9 if one.side == "below" else 1e9 for one in FILTERS.values()}
    figures |= {"camera": 1e9, "changed": 1e9, "moved": 1e9, "travel": 0.0}
    assert kind_of(figures) == "view"
    assert LIMITS.broken(figures, "view")[:3] == ["blank", "blur", "scene"]
    assert "same" not in LIMITS.broken(figures, "view")
    assert "same" in LIMITS.broken(figures, "pose")
    assert Limits.of(dict.fromkeys(FILTERS, "off")).broken(figures, "view") == []
