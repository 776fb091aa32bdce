"""One page that links what the whole path made, with the commands, times and sizes as they were.

python page.py FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tagmoe.files.atomic import write_whole
from tagmoe.recipes.full_path.checks import described
from tagmoe.report.numbers import seconds
from tagmoe.report.pages import Tile, page_environment

LINKS = (
    ("pile", "two published sets, as files", "pile"),
    ("import", "the store", "store"),
    ("validate", "rows that checks found", "checks.html"),
    ("agree", "agreement of rules and model", "agreement/agree.html"),
    ("train", "the run: losses, load, routing by tag", "run/index.html"),
    ("export", "the editor's model card", "editor/README.md"),
    ("export", "the same weights in one file", "single"),
    ("edit", "what the experts did in one edit", "explained.html"),
    ("evaluate", "scores beside the anchors", "scores/report.html"),
    ("routing", "what the experts do by task", "routing/report.html"),
    ("page", "all that was printed", "path.log"),
)
PICTURES = (("edited.png", "make the star blue"), ("made.png", "a red heart at the top left"))


def render(folder: Path) -> str:
    """The HTML page of a folder in which the path has run."""
    stages = [json.loads(line) for line in (folder / "stages.jsonl").read_text().splitlines()]
    typed: dict[str, list[str]] = {}
    for line in (folder / "commands.tsv").read_text().splitlines():
        stage, command = line.split("\t", 1)
        typed.setdefault(stage, []).append(command)
    by_name = {stage["stage"]: stage for stage in stages}
    tiles = [
        Tile(seconds(sum(stage["seconds"] for stage in stages)), "from a pile of pictures to an editor"),
        Tile(str(len(stages)), "stages, each checked"),
        Tile(f"{by_name['encode']['encoded rows']}", "samples, of three sets"),
        Tile(f"{by_name['evaluate']['strict success']:.0%}", "of the test cases right", "a toy: it has hardly learned"),
    ]
    return (
        page_environment("tagmoe.report")
        .from_string((Path(__file__).parent / "page.html.j2").read_text())
        .render(tiles=tiles, stages=stages, typed=typed, links=LINKS, pictures=PICTURES, shown=_facts)
    )


def _facts(stage: dict[str, object]) -> str:
    return described({name: value for name, value in stage.items() if name not in {"stage", "seconds", "bytes"}})


if __name__ == "__main__":
    root = Path(sys.argv[1])
    write_whole(root / "index.html", render(root))
