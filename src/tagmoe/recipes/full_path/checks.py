"""What each stage of the whole path must have left; a stage that did nothing ends the script.

    python checks.py STAGE FOLDER STARTED        check, and add the stage to FOLDER/stages.jsonl
    python checks.py step FOLDER NUMBER PID      wait until the training has made this step

STARTED: the second at which the stage began, since 1970.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors import safe_open

from tagmoe.data.store.store import Store
from tagmoe.errors import TagMoEError
from tagmoe.pictures import load_image

Facts = dict[str, Any]
STEPS = 60
"""Of unified.yaml."""
MOST_WAIT = 300.0
"""Seconds for a training to make the step that is waited for."""


class Failed(Exception):
    """A stage left something else than it must; the text is one sentence."""


def must(condition: object, sentence: str) -> None:
    """Raise Failed with the sentence where the condition does not hold."""
    if not condition:
        raise Failed(sentence)


def base(folder: Path) -> Facts:
    """A dense transformer that has trained."""
    flow = [line["flow"] for line in lines(folder / "base" / "metrics.jsonl") if "flow" in line]
    must(len(flow) == 100, f"The base made {len(flow)} steps, not 100.")
    first, last = sum(flow[:10]) / 10, sum(flow[-10:]) / 10
    must(last < 0.8 * first, f"L_flow of the base went from {first:.3f} to {last:.3f}: it learned nothing.")
    names = weights(folder / "base" / "model" / "transformer")
    must(not any(".experts." in name for name in names), "The base has experts.")
    return {"L_flow, first ten steps": first, "last ten": last}


def upcycle(folder: Path) -> Facts:
    """Mixtures where the last two FFNs were."""
    names = weights(folder / "upcycled" / "transformer")
    gates = sum(name.endswith(".gate.proj_out.weight") for name in names)
    must(gates == 2, f"The upcycled model has {gates} gates, not 2.")
    return {"mixtures": gates}


def pile(folder: Path) -> Facts:
    """The files of two sets."""
    files = Counter(path.suffix for path in (folder / "pile").rglob("*") if path.is_file())
    must(files[".parquet"] == 1 and files[".jpg"] == 96, f"The pile has {dict(files)}.")
    return {"files": sum(files.values())}


def import_(folder: Path) -> Facts:
    """All rows of three sets, those that are wrong among them: import reads, validation judges."""
    found = Counter(column(folder, "dataset"))
    must(found == {"omniedit": 48, "nhr-edit": 48, "tagworld": 96}, f"The store has {dict(found)}.")
    return {"rows": sum(found.values())}


def validate(folder: Path) -> Facts:
    """The two rows that the pile has wrong, and no other, are in quarantine."""
    found = Counter(check for checks in column(folder, "quarantine") for check in checks)
    must(found == {"same bytes": 1, "undecodable": 1}, f"Validation found {dict(found)}.")
    must((folder / "checks.html").stat().st_size > 1000, "There is no page of the checks.")
    return {"in quarantine": sum(found.values())}


def annotate(folder: Path) -> Facts:
    """An answer of the rules for each row, and of the model for those that were asked."""
    rules = Counter((row or {}).get("status") for row in column(folder, "annotation_rules"))
    must(rules["ok"] > 150 and None not in rules, f"The rules gave {dict(rules)}.")
    model = [row for row in column(folder, "annotation_vlm") if row]
    asked = Counter(row["status"] for row in model)
    must(sum(asked.values()) == 24 and asked["ok"] >= 20, f"The model gave {dict(asked)}.")
    must(all(row["raw"] for row in model), "An answer of the model is not kept.")
    return {"by rules": rules["ok"], "by a model": asked["ok"]}


def agree(folder: Path) -> Facts:
    """A page and figures over the rows that both annotated."""
    found = json.loads((folder / "agreement" / "agree.json").read_text())
    must(found["compared"] >= 20, f"The annotators are compared on {found['compared']} rows.")
    must((folder / "agreement" / "agree.html").is_file(), "There is no page of the agreement.")
    return {"rows of both": found["compared"]}


def invert(folder: Path) -> Facts:
    """Inverse records, each of a record that is there."""
    rows = list(zip(column(folder, "operation"), column(folder, "parent"), strict=True))
    parents = {parent for operation, parent in rows if operation == "inverse"}
    must(len(parents) >= 10, f"There are {len(parents)} inverse records.")
    must(parents <= set(column(folder, "id")), "An inverse record names a record that is not there.")
    return {"inverse records": len(parents)}


def encode(folder: Path) -> Facts:
    """Latents for each row that is trained on."""
    store = Store.open(folder / "store")
    must("encoded_target" in store.columns, f"The store has no latents; its columns are {', '.join(store.columns)}.")
    sound = [not checks for checks in column(folder, "quarantine")]
    there = [value is not None for value in column(folder, "encoded_target")]
    must(sum(there) >= sum(sound), f"{sum(there)} of {sum(sound)} rows have latents.")
    return {"encoded rows": sum(there)}


def train(folder: Path) -> Facts:
    """A run that was killed: checkpoints of two ranks, every term of Eq. 5, and no model."""
    steps = list(lines(folder / "run" / "metrics.jsonl"))
    must(steps and steps[-1]["step"] < STEPS, "The training came to its end before it was killed.")
    for term in ("flow", "balance", "alignment"):
        must(all(line.get(term, 0) > 0 for line in steps if "flow" in line), f"The term {term} is not trained.")
    must(not (folder / "run" / "model").exists(), "A killed run has left a model.")
    shards = {path.name.split("-")[1] for path in (folder / "run" / "checkpoints").rglob("shard-*.safetensors")}
    must(len(shards) == 2, f"The checkpoint has parts of {len(shards)} ranks, not of 2.")
    return {"killed after step": steps[-1]["step"]}


def resume(folder: Path) -> Facts:
    """The rest of the steps, from the checkpoint on, once each."""
    steps = [line["step"] for line in lines(folder / "run" / "metrics.jsonl") if "flow" in line]
    must(steps == list(range(1, STEPS + 1)), f"The run has {len(steps)} steps, from {steps[0]} to {steps[-1]}.")
    must((folder / "run" / "model" / "alignment.safetensors").is_file(), "The model has no W_tag and no H_pred.")
    return {"steps": len(steps)}


def export(folder: Path) -> Facts:
    """The editor as a folder and in one file, with the same weights, each with a model card."""
    whole, single = weights(folder / "editor" / "transformer"), weights(folder / "single")
    must(whole.items() <= single.items(), "The two exports have other weights.")
    must(len(single) == len(whole) + len(weights(folder / "editor")), "The exports have another W_tag and H_pred.")
    must(all((folder / name / "README.md").is_file() for name in ("editor", "single")), "An export has no model card.")
    return {"tensors": len(whole)}


def edit(folder: Path) -> Facts:
    """Two pictures of more than one colour, and the page that explains the edit."""
    for name in ("edited.png", "made.png"):
        picture: Image.Image = load_image(folder / name)
        must(picture.size == (64, 64), f"{name} has {picture.size} pixels.")
        must(len(picture.getcolors(64 * 64) or ()) > 16, f"{name} is nearly of one colour.")
    must("expert" in (folder / "explained.html").read_text(), "The explanation names no expert.")
    return {"pictures": 2}


def evaluate(folder: Path) -> Facts:
    """A score of every case, the true answers all right and the copies all wrong."""
    cases = sum(1 for _ in lines(folder / "bench" / "cases.jsonl"))
    success = {}
    for name in ("outputs", "target", "copy"):
        scores = lines(folder / name / "scores" / "oracle.jsonl")
        values = [line["values"]["success"] for line in scores if "success" in line["values"]]
        must(len(values) >= 0.9 * cases, f"{name} has {len(values)} scores of {cases} cases.")
        success[name] = sum(values) / len(values)
    must(success["target"] == 1 and success["copy"] == 0, f"The anchors have {success}.")
    must((folder / "scores" / "report.html").is_file(), "There is no report.")
    return {"cases": cases, "strict success": success["outputs"]}


def routing(folder: Path) -> Facts:
    """A report over both mixtures."""
    report = (folder / "routing" / "report.html").read_text()
    must("<svg" in report, "The report shows no figure.")
    return {"files": sum(1 for path in (folder / "routing").rglob("*") if path.is_file())}


def page(folder: Path) -> Facts:
    """A page whose links all lead somewhere."""
    links = re.findall(r'(?:href|src)="([^"#][^"]*)"', (folder / "index.html").read_text())
    broken = [link for link in links if not (folder / link).exists()]
    must(len(links) > 10 and not broken, f"Of {len(links)} links {', '.join(broken) or 'none'} lead nowhere.")
    return {"links": len(links)}


STAGES: dict[str, Callable[[Path], Facts]] = {
    "base": base, "upcycle": upcycle, "pile": pile, "import": import_, "validate": validate, "annotate": annotate,
    "agree": agree, "invert": invert, "encode": encode, "train": train, "resume": resume, "export": export,
    "edit": edit, "evaluate": evaluate, "routing": routing, "page": page,
}  # fmt: skip


def lines(file: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file of JSON lines. Raises Failed where there is none."""
    must(file.is_file(), f"There is no {file.name} in {str(file.parent)!r}.")
    return (json.loads(line) for line in file.read_text().splitlines() if line)


def column(folder: Path, name: str) -> list[Any]:
    """A column of the store."""
    return [value for batch in Store.open(folder / "store").scan([name]) for value in batch[name].to_pylist()]


def weights(folder: Path) -> dict[str, list[int]]:
    """Shapes of the tensors of a folder, by name."""
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            found.update({name: tensors.get_slice(name).get_shape() for name in tensors.keys()})  # noqa: SIM118
    must(found, f"There are no weights in {str(folder)!r}.")
    return found


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def described(facts: Facts) -> str:
    """Facts as one line."""
    shown = {name: f"{value:.3g}" if isinstance(value, float) else value for name, value in facts.items()}
    return "; ".join(f"{name} {value}" for name, value in shown.items())


def wait_for_step(folder: Path, number: int, process: int) -> None:
    """Return once the training has logged the step. Raises Failed if its process ends before, or time runs out."""
    file, end = folder / "run" / "metrics.jsonl", time.monotonic() + MOST_WAIT
    while time.monotonic() < end:
        if file.is_file() and sum(1 for line in file.read_text().splitlines() if '"flow"' in line) >= number:
            return
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            raise Failed(f"The training ended before step {number}.") from None
        time.sleep(0.1)
    raise Failed(f"The training did not make step {number} in {MOST_WAIT:.0f} seconds.")


def main(stage: str, folder: Path, *rest: str) -> None:
    """Check the stage, or wait for a step."""
    if stage == "step":
        wait_for_step(folder, int(rest[0]), int(rest[1]))
        return
    seconds = time.time() - float(rest[0])
    facts = STAGES[stage](folder)
    before = sum(line["bytes"] for line in lines(folder / "stages.jsonl")) if (folder / "stages.jsonl").exists() else 0
    found = {"stage": stage, "seconds": round(seconds, 1), "bytes": size_of(folder) - before, **facts}
    with (folder / "stages.jsonl").open("a") as file:
        file.write(json.dumps(found) + "\n")
    print(f"   {described(facts)}; {seconds:.0f} s")


if __name__ == "__main__":
    try:
        main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
    except (Failed, TagMoEError, OSError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(1)
