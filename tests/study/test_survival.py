"""65 people at once while the server is killed three times: no answer lost, none doubled, pages come quickly."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import httpx2
import numpy as np
import pytest
from support.studies import Study, made_study

from tagmoe.study.store import read_answers

PEOPLE = 65
QUICK_MS = 50
"""What a page may take at the 95th percentile."""
THINKING = 4.0
"""Mean seconds of a person on a page: quicker than people are."""


class Server:
    """`tagmoe study serve` as a process that can be killed and started again at its port."""

    def __init__(self, study: Path, port: int = 0) -> None:
        self._study, self.port, self.running = study, port, None
        self.start()

    def start(self) -> None:
        words = ["study", "serve", str(self._study), "--simulated", "--port", str(self.port)]
        command = [sys.executable, "-c", "from tagmoe.cli import main; main()", *words]
        self.running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        said = ""
        for line in self.running.stderr:
            said += line
            if found := re.search(r"at http://127\.0\.0\.1:(\d+)/", line):
                self.port = int(found[1])
                return
        pytest.fail(f"it ended: {said}")

    def kill(self) -> None:
        self.running.send_signal(signal.SIGKILL)
        self.running.wait()
        self.running.stderr.close()


class Person(threading.Thread):
    """Somebody who answers all pages, asks again after an error, and remembers what was acknowledged."""

    def __init__(self, server: Server, token: str, number: int, thinking: float) -> None:
        super().__init__(daemon=True)
        self._server, self._token, self._random = server, token, random.Random(number)
        self._thinking = thinking
        self.acknowledged: dict[int, dict[str, int]] = {}
        self.times: list[float] = []
        self.repeated = 0
        self.error: str | None = None

    def _ask(self, client: httpx2.Client, path: str, body: object) -> dict:
        headers = {"Authorization": f"Bearer {self._token}"}
        for _ in range(600):
            url = f"http://127.0.0.1:{self._server.port}{path}"
            try:
                started = time.perf_counter()
                answer = (
                    client.get(url, headers=headers) if body is None else client.post(url, json=body, headers=headers)
                )
                self.times.append(time.perf_counter() - started)
                assert answer.status_code == 200, answer.text
                return answer.json()
            except httpx2.TransportError:
                self.repeated += 1
                time.sleep(self._random.uniform(1, 2))
        raise AssertionError("the server did not come back")

    def run(self) -> None:
        try:
            with httpx2.Client(timeout=30) as client:
                time.sleep(self._random.random() * self._thinking)
                body = {"language": "en", "expertise": "", "screen": "small"}
                state = self._ask(client, "/api/consent", body)
                while state["page"] is not None:
                    number = state["page"]["number"]
                    time.sleep(self._random.expovariate(1 / self._thinking) if self._thinking else 0)
                    choices = {name: self._random.randrange(3) for name in ("reference", "prompt", "overall")}
                    body = {"number": number, "attempt": f"a{self._random.getrandbits(60)}x", "choices": choices}
                    body |= {"shown_ms": 1, "zooms": 0, "changes": 0, "language": "en"}
                    state = self._ask(client, "/api/answer", body)
                    self.acknowledged[number] = choices
        except Exception as error:
            self.error = repr(error)


def study_of(folder: Path, ratings: int) -> Study:
    return made_study(folder, cases=50, people=PEOPLE, ratings=ratings, languages=("en",))


def everybody(server: Server, study: Study, thinking: float) -> list[Person]:
    people = [Person(server, token, number, thinking) for number, token in enumerate(study.key.tokens)]
    for person in people:
        person.start()
    return people


@pytest.mark.slow
def test_three_kills_lose_and_double_no_answer(tmp_path: Path) -> None:
    study = study_of(tmp_path, 7)
    server = Server(study.folder)
    people = everybody(server, study, 1.0)
    try:
        for _ in range(3):
            time.sleep(2.0)
            server.kill()
            server.start()
        for person in people:
            person.join(120)
    finally:
        server.kill()
    assert [person.error for person in people if person.error] == []
    kept = read_answers(study.folder / "simulated.db")
    counts = Counter((person, page.number) for person, page, _ in kept.pages)
    assert set(counts.values()) == {1}, "none is doubled"
    found = {(person, page.number): dict(page.choices) for person, page, _ in kept.pages}
    told = {(n, page): choices for n, person in enumerate(people) for page, choices in person.acknowledged.items()}
    assert found == told, "none is lost, and none is another than was sent"
    assert len(told) == sum(map(len, study.manifest.sheets))
    assert sum(person.repeated for person in people) > 10, "the kills came while people were answering"
    if place := os.environ.get("TAGMOE_FIGURES"):
        Path(place).write_text(json.dumps({"answers": len(told), "asked_again": sum(p.repeated for p in people)}))


@pytest.mark.slow
def test_a_page_answers_quickly_with_everybody_at_once(tmp_path: Path) -> None:
    study = study_of(tmp_path, 7)
    server = Server(study.folder)
    try:
        people = everybody(server, study, THINKING)
        for person in people:
            person.join(200)
    finally:
        server.kill()
    assert [person.error for person in people if person.error] == []
    times = np.array([seconds for person in people for seconds in person.times]) * 1000
    median, late = np.percentile(times, [50, 95])
    print(f"{len(times)} answers, median {median:.1f} ms, 95th percentile {late:.1f} ms, longest {times.max():.0f} ms")
    assert late < QUICK_MS
