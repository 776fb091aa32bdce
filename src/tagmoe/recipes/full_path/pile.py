"""A pile of pictures as two published sets would bring it: OmniEdit in Parquet, NHR-Edit in JSON lines and JPEG files.

    python pile.py FOLDER

The pictures are TagWorld's, so that a toy can learn from them. Each set has one row that is wrong: of OmniEdit one
whose target is its source, of NHR-Edit one whose target is cut off.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tagmoe.world import Sample, sample

ROWS = 48
SEED = 12
OMNIEDIT_TASKS = {"remove": "removal", "add": "addition", "recolour": "attribute_modification", "replace": "swap"}
NHR_TASKS = {"add": "Add", "remove": "Remove", "background": "Background", "recolour": "Color"}


def encoded(pixels: np.ndarray, kind: str) -> bytes:
    """(64, 64, 3) uint8 as the bytes of a file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **({"quality": 95, "subsampling": 0} if kind == "JPEG" else {}))
    return buffer.getvalue()


def omniedit(folder: Path) -> None:
    """Columns of TIGER-Lab/OmniEdit-Filtered-1.2M; row 0 shows its source as its target."""
    folder.mkdir(parents=True)
    rows = []
    for number in range(ROWS):
        drawn = _drawn(number, tuple(OMNIEDIT_TASKS))
        before = encoded(drawn.sources[0], "PNG")
        after = encoded(drawn.target, "PNG") if number else before
        rows.append(
            {
                "omni_edit_id": f"task_{number}",
                "task": OMNIEDIT_TASKS[drawn.task],
                "src_img": {"bytes": before, "path": f"{number}.png"},
                "edited_img": {"bytes": after, "path": f"{number}_edited.png"},
                "edited_prompt_list": [drawn.instruction],
                "o_score": 8.0,
            }
        )
    pq.write_table(pa.Table.from_pylist(rows), folder / "train-00000-of-00001.parquet")


def nhr_edit(folder: Path) -> None:
    """Files of iitolstykh/NHR-Edit; the target of row 0 is cut off."""
    pictures = folder / "train" / "images"
    pictures.mkdir(parents=True)
    lines = []
    for number in range(ROWS):
        drawn = _drawn(1000 + number, tuple(NHR_TASKS))
        after = encoded(drawn.target, "JPEG")
        (pictures / f"{number}_original.jpg").write_bytes(encoded(drawn.sources[0], "JPEG"))
        (pictures / f"{number}_edited.jpg").write_bytes(after if number else after[: len(after) // 2])
        line = {
            "sample_id": f"s{number}",
            "source_file_name": f"images/{number}_original.jpg",
            "edited_file_name": f"images/{number}_edited.jpg",
            "edit_instruction": drawn.instruction,
            "augmented_instructions": None,
            "category": NHR_TASKS[drawn.task],
            "style": "drawing",
            "kind": "original",
        }
        lines.append(json.dumps(line))
    (folder / "train" / "metadata.jsonl").write_text("\n".join(lines) + "\n")


def _drawn(number: int, tasks: tuple[str, ...]) -> Sample:
    return sample(SEED, number, split="train", task=tasks, divide="content")


if __name__ == "__main__":
    omniedit(Path(sys.argv[1]) / "omniedit")
    nhr_edit(Path(sys.argv[1]) / "nhr-edit")
    print(f"2 sets of {ROWS} rows in {sys.argv[1]}")
