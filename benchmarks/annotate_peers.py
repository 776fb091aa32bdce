"""How engines for batch inference handle one bad row, compared with `tagmoe data annotate` on the same rows and server.

    python benchmarks/annotate_peers.py [--json] [--rows 300] [--daft /path/to/python]

A row has two pictures of about 55 kB. The server runs in a process of its own and answers after 50 ms. It always
answers one of the rows with status 400. Every engine is used as its documentation shows, in a process of its own. It
runs over all rows, then a second time, as a user would who finds the run incomplete. The engines limit requests in
flight differently, so the seconds show start-up and overhead, not throughput. Daft needs other package versions than
this project. It is measured only where `--daft` names an interpreter that has `daft[openai]`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ENGINES = ("tagmoe", "datasets", "ray", "daft")
LATENCY = 0.05
IN_FLIGHT = 64
SCHEMA = {
    "type": "object",
    "properties": {"scope": {"type": "string", "enum": ["local editing", "global editing"]}},
    "required": ["scope"],
    "additionalProperties": False,
}


def measure(rows: int = 300, daft: str = "") -> Sequence[object]:
    """By engine: the good rows without an answer after a run, and the requests of the second run."""
    from annotate import questions
    from data_path import size
    from figures import Figure

    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    from support.fault_server import fault_server

    asked = questions("55 KB", 16)
    pictures = [part.data for part in asked[3].parts[:2]]
    found: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="tagmoe-peers-") as name:
        folder = Path(name)
        bad = _write(folder, rows, pictures)
        for engine in ENGINES:
            python = daft if engine == "daft" else sys.executable
            if not python:
                continue
            with fault_server(latency=LATENCY, rules=[{"contains": bad, "fault": "400"}]) as server:
                first = _run(python, engine, server.url, folder)
                before = server.counts()["requests"]
                second = _run(python, engine, server.url, folder)
                again = server.counts()["requests"] - before
            lost = rows - 1 - first["answered"]
            note = f"{first['version']}; {first['outcome']}; then {second['answered']} of {rows - 1}"
            ours = engine == "tagmoe"
            found += [
                Figure(f"{engine}: good rows without answer", lost, "rows", 0 if ours else None, note=note),
                Figure(f"{engine}: requests of the second run", again, "requests", 0 if ours else None),
                Figure(f"{engine}: seconds of the first run", first["seconds"], "s", note="with its start"),
            ]
        assert size(folder) > 0
    return found


def _write(folder: Path, rows: int, pictures: Sequence[bytes]) -> str:
    """Write the same rows as a store and as Parquet. Returns the instruction of the bad row."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tagmoe.data.store.record import Picture, Record, record_id
    from tagmoe.data.store.store import Store

    words = [f"make the thing number {number} blue" for number in range(rows)]
    records = [
        Record(
            id=record_id("peers", text),
            dataset="peers",
            target=Picture(pictures[1], 512, 512),
            images=(Picture(pictures[0], 512, 512),),
            instruction=text,
            licence="CC0-1.0",
        )
        for text in words
    ]
    store = Store.create(folder / "store")
    with store.writing():
        for start in range(0, rows, 100):
            store.append(records[start : start + 100])
    columns = {"words": words, "source": [pictures[0]] * rows, "target": [pictures[1]] * rows}
    pq.write_table(pa.table(columns), folder / "rows.parquet", row_group_size=100)
    return f"number {rows // 2} blue"


def _run(python: str, engine: str, url: str, folder: Path) -> dict[str, object]:
    started = time.perf_counter()
    environment = os.environ | {"OPENAI_API_KEY": "none", "DAFT_PROGRESS_BAR": "0", "RAY_DEDUP_LOGS": "0"}
    command = [python, __file__, "--engine", engine, url, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=300)
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"answered"')]
    if not lines:
        raise RuntimeError(f"{engine} gave nothing: {done.stderr[-800:]}")
    return json.loads(lines[-1]) | {"seconds": time.perf_counter() - started}


# In a process of each engine ------------------------------------------------------------------------------------


def _tagmoe(url: str, folder: Path) -> tuple[int, str]:
    from tagmoe.annotation.answer import read_annotations
    from tagmoe.cli import run
    from tagmoe.data.store.store import Store

    code = run(
        [
            *("data", "annotate", str(folder / "store"), "--endpoint", url, "--model", "tiny-vlm"),
            *("--concurrency", str(IN_FLIGHT), "--json"),
        ]
    )
    found = read_annotations(Store.open(folder / "store"), "vlm")
    return sum(one is not None and one.status == "ok" for one in found), f"exit code {code}, the bad row is refused"


def _chat(words: str, source: bytes, target: bytes) -> dict[str, object]:
    shown = [
        {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64," + base64.b64encode(data).decode()}}
        for data in (source, target)
    ]
    return {
        "model": "tiny-vlm",
        "messages": [{"role": "user", "content": [*shown, {"type": "text", "text": words}]}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}},
    }


def _datasets(url: str, folder: Path) -> tuple[int, str]:
    from datasets import load_dataset
    from openai import AsyncOpenAI

    client = AsyncOpenAI(base_url=url)

    async def ask(row: dict[str, object]) -> dict[str, object]:
        reply = await client.chat.completions.create(**_chat(row["words"], row["source"], row["target"]))
        return {"answer": reply.choices[0].message.content}

    rows = load_dataset("parquet", data_files=str(folder / "rows.parquet"), cache_dir=str(folder / "cache"))["train"]
    try:
        return sum(row["answer"] is not None for row in rows.map(ask)), "finished"
    except Exception as error:
        return 0, f"the job ends with {type(error).__name__}"


def _ray(url: str, folder: Path) -> tuple[int, str]:
    import ray
    from openai import AsyncOpenAI

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100_000_000)

    class Asks:
        def __init__(self) -> None:
            self.client = AsyncOpenAI(base_url=url)

        async def __call__(self, batch: dict[str, object]) -> object:
            async def one(place: int) -> str:
                row = [batch[name][place] for name in ("words", "source", "target")]
                reply = await self.client.chat.completions.create(**_chat(*row))
                return str(reply.choices[0].message.content)

            yield {"answer": await asyncio.gather(*(one(place) for place in range(len(batch["words"]))))}

    rows = ray.data.read_parquet(str(folder / "rows.parquet")).map_batches(Asks, batch_size=IN_FLIGHT, concurrency=1)
    try:
        return sum(row["answer"] is not None for row in rows.take_all()), "finished"
    except Exception as error:
        return 0, f"the job ends with {type(error).__name__}"


def _daft(url: str, folder: Path) -> tuple[int, str]:
    import daft
    from daft.ai.openai.provider import OpenAIProvider
    from daft.functions import prompt
    from pydantic import BaseModel

    class Scope(BaseModel):
        scope: str

    rows = daft.read_parquet(str(folder / "rows.parquet")).with_column(
        "answer",
        prompt(
            [daft.col("source"), daft.col("target"), daft.col("words")],
            Scope,
            provider=OpenAIProvider(base_url=url, api_key="none"),
            model="tiny-vlm",
            use_chat_completions=True,
            on_error="ignore",
        ),
    )
    try:
        found = rows.select("answer").to_pydict()["answer"]
    except Exception as error:
        return 0, f"the job ends with {type(error).__name__}"
    return sum(one is not None and one["scope"] is not None for one in found), 'finished with on_error="ignore"'


def _child(engine: str, url: str, folder: Path) -> None:
    from importlib.metadata import version

    asks = {"tagmoe": _tagmoe, "datasets": _datasets, "ray": _ray, "daft": _daft}[engine]
    answered, outcome = asks(url, folder)
    print(json.dumps({"answered": answered, "outcome": outcome, "version": f"{engine} {version(engine)}"}), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--engine"]:
        _child(sys.argv[2], sys.argv[3], Path(sys.argv[4]))
    else:
        from figures import report

        report(
            measure, {"rows": {"type": int, "default": 300}, "daft": {"default": "", "help": "interpreter with Daft"}}
        )
