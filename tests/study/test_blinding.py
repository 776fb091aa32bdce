"""Blinding: from all that a client gets, but for the pixels, nobody guesses the method better than by chance."""

from __future__ import annotations

import re
import struct
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.studies import METHODS, Study, made_study, picture, serving_study

from tagmoe.pictures import load_image, png_of
from tagmoe.study.build import PICTURES, TIME, frame_of, framed, padded
from tagmoe.study.manifest import PUBLIC, StudyCase

LENGTH = "content-length"
OF_FILES = ("length", "headers", "chunks", "size", "first", "rank")
"""What is the same whenever a picture is seen."""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return made_study(tmp_path_factory.mktemp("study"), cases=16, people=4, ratings=3, check_every=0)


def chunks(png: bytes) -> list[tuple[str, int]]:
    """(name, length) of each chunk."""
    found, place = [], 8
    while place < len(png):
        length, name = struct.unpack(">I4s", png[place : place + 8])
        found.append((name.decode(), length))
        place += 12 + length
    return found


def seen_by_clients(study: Study) -> list[tuple[int, dict[str, Any]]]:
    """(method, what is seen of the picture but its pixels) for every picture of every person, over HTTP."""
    found = []
    method_of = {name: m for case in study.key.names for m, name in enumerate(case[1:])}
    case_of = {name: number for number, case in enumerate(study.key.names) for name in case}
    with serving_study(study) as server:
        fetched = {name: server.client.get(f"{server.url}/pictures/{name}.png") for name in method_of}
        for number in range(study.manifest.people):
            visitor = server.visitor(number)
            state = visitor.consent()
            while state["page"] is not None:
                names = state["page"]["pictures"]
                longest = max(len(fetched[name].content) for name in names)
                for position, name in enumerate(names):
                    answer = fetched[name]
                    headers = {key: value for key, value in answer.headers.items() if key not in ("date", LENGTH)}
                    facts = {
                        "name": name,
                        "case": case_of[name],
                        "position": position,
                        "length": len(answer.content) - longest,
                        "headers": tuple(headers.items()),
                        "chunks": tuple(name for name, _ in chunks(answer.content)),
                        "size": load_image(answer.content).size,
                        "first": name[0],
                        "rank": sorted(names).index(name),
                        "keys": (*sorted(state), *sorted(state["page"])),
                    }
                    found.append((method_of[name], facts))
                state = visitor.answer(state["page"]["number"]).json()
    return found


def halves(seen: list[tuple[int, dict[str, Any]]], feature: str) -> tuple[list[Any], list[Any]]:
    """Of what each person sees anew, every second sighting. What a file keeps counts once, and a case is in one half:
    names are drawn once a case, so that more sightings of it say nothing more."""
    if feature not in OF_FILES:
        return seen[::2], seen[1::2]
    once = {facts["name"]: (method, facts) for method, facts in seen}
    cases = sorted({facts["case"] for _, facts in once.values()})
    learnt = set(cases[::2])
    found = [[one for one in once.values() if (one[1]["case"] in learnt) is half] for half in (True, False)]
    return found[0], found[1]


def guessed(seen: list[tuple[int, dict[str, Any]]], feature: str) -> float:
    """The share of pictures whose method the best rule of this feature names, found on one half, tried on the other."""
    known, rest = halves(seen, feature)
    learned: dict[Any, Counter[int]] = defaultdict(Counter)
    for method, facts in known:
        learned[facts[feature]][method] += 1
    hits = sum(bool(learned[facts[feature]]) and learned[facts[feature]].most_common(1)[0][0] == m for m, facts in rest)
    return hits / len(rest)


def test_the_method_cannot_be_guessed_from_anything_but_pixels(study: Study) -> None:
    seen = seen_by_clients(study)
    assert len(seen) > 140
    for feature in (*OF_FILES, "position", "keys"):
        # 4.5 standard errors above chance: for about 84 sightings, or 24 pictures of 8 cases
        tried = len(halves(seen, feature)[1])
        assert guessed(seen, feature) < 1 / 3 + 4.5 * (2 / 9 / tried) ** 0.5, feature
    same = ("length", "headers", "chunks", "size")
    assert [feature for feature in same if len({facts[feature] for _, facts in seen}) != 1] == []


def test_the_guesser_finds_what_leaks() -> None:
    leaky = [
        (n % 3, {"length": 100 + n % 3, "position": (n * 7) % 5, "name": str(n), "case": n // 3}) for n in range(300)
    ]
    assert guessed(leaky, "length") == 1.0
    assert guessed(leaky, "position") < 0.6


def test_files_tell_neither_names_nor_dates_nor_order(study: Study) -> None:
    public = study.folder / PUBLIC
    for path in public.rglob("*"):
        if path.is_file():
            assert path.stat().st_mtime == TIME
            data = path.read_bytes()
            assert [name for name in (*METHODS, "source-", study.manifest.digest) if name.encode() in data] == []
    names = [path.stem for path in (public / PICTURES).iterdir()]
    assert len(names) == 16 * 4
    assert all(re.fullmatch(r"[0-9a-f]{32}", name) for name in names)
    assert not any("paDd" not in dict(chunks(path.read_bytes())) for path in (public / PICTURES).iterdir())
    by_case = [{len((public / PICTURES / f"{name}.png").read_bytes()) for name in case} for case in study.key.names]
    assert all(len(lengths) == 1 for lengths in by_case)


def test_files_are_made_in_no_order_of_methods(study: Study) -> None:
    places = [
        [(study.folder / PUBLIC / PICTURES / f"{name}.png").stat().st_ino for name in case[1:]]
        for case in study.key.names
    ]
    orders = {tuple(sorted(range(len(case)), key=case.__getitem__)) for case in places}
    assert len(orders) > 1, "16 cases of three methods come in one order by chance in one of 10^11 builds"


def test_two_builds_have_no_name_in_common(tmp_path: Path) -> None:
    one, other = made_study(tmp_path / "a", cases=3), made_study(tmp_path / "b", cases=3)
    assert not {*sum(one.key.names, ())} & {*sum(other.key.names, ())}
    assert not set(one.key.tokens) & set(other.key.tokens)


def test_a_padded_picture_has_the_same_pixels() -> None:
    image = picture(5, (20, 10))
    data = png_of(image)
    for length in (len(data) + 12, len(data) + 500):
        longer = padded(data, length)
        assert len(longer) == length
        assert load_image(longer).tobytes() == image.tobytes()


def test_a_frame_has_the_shape_of_the_source_and_no_text_is_kept() -> None:
    outputs = ((64, 64), (128, 96), (200, 200))
    given = [{"path": "x", "pixels": "0" * 64, "width": w, "height": h} for w, h in outputs]
    case = {"id": "a", "stratum": "s", "instruction": "i", "outputs": given}
    assert frame_of(StudyCase.model_validate(case), 768) == (200, 200)
    assert frame_of(StudyCase.model_validate(case | {"source": given[1]}), 100) == (100, 75)
    tall = framed(Image.new("RGB", (10, 30), "red"), (60, 30))
    assert tall.size == (60, 30)
    assert tall.getpixel((5, 15)) == (128, 128, 128)
    assert tall.getpixel((30, 15)) == (255, 0, 0)
    assert framed(Image.new("RGB", (100, 101), "red"), (50, 50)).getcolors() == [(2500, (255, 0, 0))]
