"""The server and its store: consent, one answer a page, withdrawal, who may ask, a full disk, a clock that jumps."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from support.failing_disk import small_files
from support.studies import Serving, Study, made_study, serving_study

from tagmoe.errors import DataError, ResultError, UsageError
from tagmoe.study.answers import collect_answers
from tagmoe.study.store import Conflict, PageAnswer, Store, Withdrawn, read_answers


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return made_study(tmp_path_factory.mktemp("study"))


@pytest.fixture
def study(built: Study, tmp_path: Path) -> Study:
    shutil.copytree(built.folder, tmp_path / "study")
    return Study(tmp_path / "study", built.manifest, built.key)


@pytest.fixture
def server(study: Study) -> Iterator[Serving]:
    with serving_study(study) as running:
        yield running


def given(number: int, attempt: str = "attempt0", position: int = 0) -> PageAnswer:
    choices = dict.fromkeys(("reference", "prompt", "overall"), position)
    return PageAnswer(number, attempt, choices, 1000, 0, 0, "en")


def test_a_person_goes_through_all_pages_and_resumes_by_the_link(server: Serving) -> None:
    visitor = server.visitor()
    assert visitor.state()["page"] is None, "nothing is shown before consent"
    state = visitor.consent()
    pages = state["pages"]
    assert pages == len(server.study.manifest.sheets[0])
    for number in range(pages):
        assert (visitor.state()["page"]["number"], visitor.state()["answered"]) == (number, number)
        assert len(visitor.state()["page"]["pictures"]) == 3
        state = visitor.answer(number).json()
    assert (state["finished"], state["page"]) == (True, None)
    assert visitor.answer(0).status_code == 200, "the first answer again, as a browser may send it"
    assert visitor.consent()["finished"], "a second consent changes nothing"
    assert len(read_answers(server.store.path).pages) == pages


def test_a_page_has_one_answer_and_pages_come_in_their_order(server: Serving) -> None:
    visitor = server.visitor()
    assert visitor.answer(0).status_code == 409, "no answer before consent"
    visitor.consent()
    assert visitor.answer(1).status_code == 409, "no page is left out"
    with ThreadPoolExecutor(8) as pool:
        codes = [one.status_code for one in pool.map(lambda _: visitor.answer(0, 1), range(8))]
    assert codes == [200] * 8, "a doubled click is the same attempt"
    other = visitor.answer(0, 2, attempt="anotherone")
    assert (other.status_code, other.json()["error"]["code"]) == (409, "other_tab")
    (page,) = read_answers(server.store.path).pages
    assert page[1].choices == {"reference": 1, "prompt": 1, "overall": 1}


def test_what_is_withdrawn_is_gone_from_the_disk(server: Serving) -> None:
    visitor, other = server.visitor(0), server.visitor(1)
    for one, word in ((visitor, "secretattempt"), (other, "otherattempt")):
        one.consent()
        assert one.answer(0, attempt=word).status_code == 200
    files = [Path(f"{server.store.path}{end}") for end in ("", "-wal")]
    assert any(b"secretattempt" in file.read_bytes() for file in files)
    assert visitor.ask("/api/withdraw", {}).json()["withdrawn"]
    assert not any(b"secretattempt" in file.read_bytes() for file in files)
    assert any(b"otherattempt" in file.read_bytes() for file in files)
    refused = visitor.answer(1)
    assert (refused.status_code, refused.json()["error"]["code"]) == (410, "withdrawn")
    assert visitor.consent()["error"]["code"] == "withdrawn"
    collected = collect_answers(server.study.manifest, server.store.path)
    assert (collected.withdrawn, collected.consented, len(collected.pages)) == (1, 1, 1)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"number": 99}, "number must be a whole number from 0 to"),
        ({"number": True}, "number must be"),
        ({"choices": {"overall": 0}}, "choices must name reference, prompt, overall"),
        ({"choices": {"reference": 3, "prompt": 0, "overall": 0}}, "reference must be a whole number from 0 to 2"),
        ({"attempt": "x"}, "attempt must be"),
        ({"attempt": "'; drop table page"}, "attempt must be"),
        ({"language": "fr"}, "language must be one of 'en', 'de'"),
    ],
)
def test_what_no_page_sends_is_refused_in_one_sentence(server: Serving, change: Any, sentence: str) -> None:
    visitor = server.visitor()
    visitor.consent()
    answer = visitor.answer(0, **change)
    assert answer.status_code == 400
    assert sentence in answer.json()["error"]["message"]
    assert read_answers(server.store.path).pages == []
    assert visitor.ask("/api/answer", {"x": "y" * 20_000}).status_code == 413


def test_a_clock_that_jumps_loses_no_answer(study: Study) -> None:
    times = iter([datetime(2030, 1, 1, tzinfo=UTC), datetime(1999, 1, 1, tzinfo=UTC), datetime(2040, 5, 5, tzinfo=UTC)])
    with serving_study(study, clock=lambda: next(times)) as server:
        visitor = server.visitor()
        visitor.consent()
        for number, shown in enumerate((-5_000_000, 1e300)):
            assert visitor.answer(number, shown_ms=shown).status_code == 200
        assert visitor.ask("/api/answer", {"number": 2}).status_code == 400
        kept = read_answers(server.store.path)
    assert [page.number for _, page, _ in kept.pages] == [0, 1], "the order is that of the answers, not of the clock"
    assert [page.shown_ms for _, page, _ in kept.pages] == [0, 7 * 24 * 3600 * 1000]


def test_a_token_that_was_never_issued_gets_one_sentence(server: Serving) -> None:
    visitor = server.visitor()
    for token in ("x", visitor.token[:-1], visitor.token + "a"):
        visitor.token = token
        answer = visitor.ask("/api/state")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_token")
    for path in ("/pictures/0.png", "/pictures/..%2f..%2fkey.json.png", "/key.json", "/manifest.json", "/docs"):
        assert visitor.client.get(server.url + path).status_code == 404


def test_pages_of_other_sites_and_other_machines_are_refused(study: Study, server: Serving) -> None:
    visitor = server.visitor()
    assert visitor.ask("/api/state", Host="evil.example").status_code == 403
    assert visitor.ask("/api/withdraw", {}, Origin="http://evil.example").status_code == 403
    answer = visitor.ask("/")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["referrer-policy"] == "no-referrer"
    shutil.copytree(study.folder, study.folder.parent / "public")
    with serving_study(Study(study.folder.parent / "public", study.manifest, study.key), is_public=True) as public:
        visitor = public.visitor()
        assert visitor.ask("/api/state", Host="study.example", Origin="https://study.example").status_code == 200
        assert visitor.ask("/api/state", Host="study.example", Origin="https://evil.example").status_code == 403


def test_a_full_disk_loses_nothing_and_says_so(server: Serving) -> None:
    visitor = server.visitor()
    visitor.consent()
    assert visitor.answer(0).status_code == 200
    with small_files(os.path.getsize(f"{server.store.path}-wal")):
        answer = visitor.answer(1)
    assert (answer.status_code, answer.json()["error"]["code"]) == (507, "disk_full")
    assert visitor.state()["answered"] == 1
    assert visitor.answer(1).status_code == 200, "the same answer is taken when there is room again"
    assert [page.number for _, page, _ in read_answers(server.store.path).pages] == [0, 1]


def test_simulated_answers_cannot_be_mixed_with_real_ones(study: Study) -> None:
    real = study.store()
    real.consent(0, "en", "", "large").result()
    real.answer(0, given(0)).result()
    real.close()
    path = real.path
    with pytest.raises(UsageError, match="holds real answers, and simulated ones cannot be mixed"):
        Store(path, study.manifest.digest, True)
    with pytest.raises(UsageError, match="belong to another plan"):
        Store(path, "0" * 64)
    base = sqlite3.connect(path)
    with pytest.raises(sqlite3.IntegrityError, match="cannot be mixed"):
        base.execute("INSERT INTO person (number, simulated) VALUES (1, 1)")
    base.execute("DROP TRIGGER same_kind")
    base.execute("INSERT INTO person (number, simulated) VALUES (1, 1)")
    base.commit()
    base.close()
    with pytest.raises(ResultError, match="mixes real and simulated people"):
        collect_answers(study.manifest, path)


def test_damaged_and_missing_answers_are_one_sentence(study: Study, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There are no answers"):
        read_answers(tmp_path / "none.db")
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes(b"no database at all, but long enough to look at" * 100)
    with pytest.raises(DataError, match="cannot be read"):
        read_answers(damaged)
    with pytest.raises(DataError, match="cannot be opened"):
        Store(damaged, study.manifest.digest)


def test_many_writes_at_once_are_each_kept_or_each_refused(study: Study) -> None:
    store = study.store()
    for person in range(4):
        store.consent(person, "en", "", "small").result()
    futures = [store.answer(person, given(0, f"attempt{turn}")) for turn in range(5) for person in range(4)]
    outcomes = [future.exception() for future in futures]
    assert [type(error) for error in outcomes] == [type(None)] * 4 + [Conflict] * 16
    store.withdraw(2).result()
    assert isinstance(store.answer(2, given(1)).exception(), Withdrawn)
    store.close()
    assert [person for person, _, _ in read_answers(store.path).pages] == [0, 1, 3]
