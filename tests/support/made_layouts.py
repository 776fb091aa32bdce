"""Small files of the published layouts of JSON, Parquet with paths, and tars, with the rows that are known to go wrong.

As in `made_published`: every maker writes below a folder and says what an import of it must give.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from support.archives import tarred
from support.made_published import Expected, encode, pixels


def save(folder: Path, name: str, number: int) -> str:
    """Write the picture of a number below the folder; its relative path."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(encode(pixels(number), "JPEG" if name.endswith(".jpg") else "PNG"))
    return name


def write_lines(file: Path, rows: Sequence[object]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def pico_banana(folder: Path) -> Expected:
    def row(number: int, **changes) -> dict:
        return {
            "open_image_input_url": f"https://farm6.staticflickr.com/{number}_o.jpg",
            "text": f"Change the red car {number} to blue.",
            "output_image": save(folder, f"images/positive-edit/{number}.png", 2 * number + 1),
            "edit_type": "Change an object's attribute",
            "summarized_text": f"Make car {number} blue",
            "local_input_image": save(folder, f"openimage_source_images/train_0/{number}.jpg", 2 * number),
        } | changes

    rows = [row(number) for number in range(5)]
    rows[2]["local_input_image"] = None
    rows[3]["output_image"] = "images/positive-edit/none.png"
    write_lines(folder / "sft.jsonl", rows)
    rejected = [save(folder, f"images/negative-edit/{number}.png", 50 + number) for number in range(2)]
    write_lines(folder / "preference.jsonl", [row(10, rejected_images=rejected)])
    turns = [save(folder, f"images/multi-turn/7_turn{turn}.png", 60 + turn) for turn in range(1, 4)]
    files = [{"id": f"edit_turn{turn}", "url": turns[turn - 1]} for turn in (1, 2)]
    files += [{"id": "final_image", "url": turns[2]}, {"id": "original_input_image", "url": "https://x.org/7_o.jpg"}]
    talk = {
        "files": files,
        "metadata_edit_turn_prompts": ["warmer", "closer", "as a comic"],
        "local_input_image": save(folder, "openimage_source_images/train_0/7.jpg", 60),
    }
    write_lines(folder / "multi-turn.jsonl", [talk])
    skipped = {"source picture that was not downloaded": 1, "missing picture file": 1}
    return Expected(7, 7, Counter(skipped))


def sharegpt_4o_image(folder: Path) -> Expected:
    def row(number: int) -> dict:
        return {
            "input_prompt": f"make it {number}",
            "input_image": [save(folder, f"image/{number}_input.png", 2 * number)],
            "output_image": save(folder, f"image/{number}_output.png", 2 * number + 1),
        }

    rows = [row(number) for number in range(4)]
    rows[1]["input_image"].append(save(folder, "image/1_more.png", 20))
    rows[2]["input_prompt"] = " "
    (folder / "text_and_image_to_image.json").write_text(json.dumps(rows, indent=2))
    made = [{"input_prompt": "a cat", "output_image": save(folder, "image/t2i.png", 30)}]
    (folder / "text_to_image.json").write_text(json.dumps(made))
    return Expected(5, 4, Counter({"no instruction": 1}))


def opengpt_4o_image(folder: Path) -> Expected:
    edits = [
        {
            "input_prompt": f"Remove the word {number}.",
            "input_image": [save(folder, f"editing/input_{number}.png", 2 * number)],
            "output_image": save(folder, f"editing/output_{number}.png", 2 * number + 1),
        }
        for number in range(3)
    ]
    (folder / "editing" / "output_1.png").unlink()
    write_lines(folder / "editing.json", edits)
    made = [
        {"input_prompt": f"a cat {number}", "output_image": save(folder, f"gen/{number}.png", 9 + number)}
        for number in (0, 1)
    ]
    write_lines(folder / "gen.json", made)
    return Expected(5, 4, Counter({"missing picture file": 1}))


def seed_data_edit(folder: Path) -> Expected:
    single = folder / "auto_editing"
    rows = [
        {
            "source_image": save(single, f"source_images/{number}.jpg", 2 * number),
            "target_image": save(single, f"target_images/{number}.jpg", 2 * number + 1),
            "instruction": f"Erase the car {number}.",
        }
        for number in range(3)
    ]
    rows[1]["target_image"] = "target_images/none.jpg"
    write_lines(single / "part_0.jsonl", rows)
    multi = folder / "multi_turn_editing"
    pictures = [save(multi / "images", f"1323turns/Data/1/{turn}.png", 40 + turn) for turn in range(3)]
    turns = {
        "source_image": pictures[0],
        "instruction_1": "add a hat",
        "edit_image_1": pictures[1],
        "instruction_2": "now remove it",
        "edit_image_2": pictures[2],
    }
    write_lines(multi / "annotations" / "split_0.jsonl", [turns])
    return Expected(4, 4, Counter({"missing picture file": 1}))


def gpt_image_edit(folder: Path) -> Expected:
    task = folder / "omniedit" / "addition"
    rows = [
        {
            "id": f"omniedit_addition_{number}",
            "dataset_source": "omniedit",
            "task": "addition",
            "input": save(task, f"input/{number}.png", 2 * number),
            "output": save(task, f"output/{number}.png", 2 * number + 1),
            "instruction": f"add a hat {number}",
            "instruction_type": "original",
            "input_description": f"a head {number}",
        }
        for number in range(4)
    ]
    rows[1] |= {"instruction_type": "rewrite", "instruction_original": "hat"}
    rows[2]["input"] = None
    (task / "metadata").mkdir()
    (task / "metadata" / "omniedit_addition.json").write_text(json.dumps(rows))
    return Expected(4, 3, Counter({"no source picture": 1}))


def nhr_edit(folder: Path) -> Expected:
    train = folder / "train"
    rows = [
        {
            "sample_id": f"s{number}",
            "source_file_name": save(train, f"images/00/image_{number}_original.jpg", 2 * number),
            "edited_file_name": save(train, f"images/00/image_{number}_edited_0.jpg", 2 * number + 1),
            "edit_instruction": f"Put a cup {number} on the table",
            "augmented_instructions": [f"add a cup {number}", f"a cup {number} on the table"],
            "category": "Add",
            "style": "photo",
            "kind": "original",
            "img_width": 32,
            "img_height": 24,
        }
        for number in range(3)
    ]
    # Some readers take paths from the folder of the set.
    rows[2]["source_file_name"] = f"train/{rows[2]['source_file_name']}"
    rows[1]["augmented_instructions"] = None
    write_lines(train / "metadata.jsonl", rows)
    return Expected(3, 3)


def imgedit(folder: Path) -> Expected:
    def pair(name: str, number: int) -> dict:
        return {
            "input_images": [save(folder, f"results_{name}/{number}/original.png", 2 * number)],
            "output_images": [save(folder, f"results_{name}/{number}/result.png", 2 * number + 1)],
            "prompt": f"Remove the group {number}.",
        }

    (folder / "Parquet").mkdir(parents=True)
    rows = [pair("remove_laion_part5", number) for number in range(3)]
    (folder / "results_remove_laion_part5" / "1" / "result.png").unlink()
    pq.write_table(pa.Table.from_pylist(rows), folder / "Parquet" / "remove_part5.parquet")
    talks = [{"data": [pair("version_backtracking_part0", 10 + turn) for turn in range(3)]}]
    pq.write_table(pa.Table.from_pylist(talks), folder / "Parquet" / "version_backtracking_part0.parquet")
    return Expected(4, 5, Counter({"missing picture file": 1}))


SCALEEDIT = pa.schema(
    [
        ("id", pa.int64()),
        ("edit_task", pa.string()),
        ("edit_instruction", pa.string()),
        ("source_image", pa.binary()),
        ("edited_image", pa.binary()),
        *((f"{side}_image_{length}", pa.int64()) for side in ("source", "edited") for length in ("width", "height")),
        *(
            (f"{name}_score", pa.int64())
            for name in ("instruction_following", "editing_consistency", "generation_quality")
        ),
    ]
)


def scaleedit(folder: Path) -> Expected:
    for task in ("1.1_style_transfer", "2.1_object_addition"):
        rows = [
            {
                "id": number,
                "edit_task": task[4:],
                "edit_instruction": f"{task} {number}",
                "source_image": encode(pixels(2 * number)),
                "edited_image": encode(pixels(2 * number + 1)),
                "source_image_width": 32,
                "instruction_following_score": 3,
                "editing_consistency_score": 2,
                "generation_quality_score": 3,
            }
            for number in range(3)
        ]
        rows[2]["edited_image"] = None
        (folder / task).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=SCALEEDIT), folder / task / f"{task[4:]}_0000.parquet")
    return Expected(6, 4, Counter({"no target picture": 2}))


def x2edit(folder: Path) -> Expected:
    folder.mkdir(parents=True, exist_ok=True)
    about = [
        {"label": "step1x", "task": "text_change", "instruction": "Change the text"},
        {"label": "gpt4o", "task": "style", "instruction": "as a comic", "instruction_zh": "\u6f2b\u753b"},
        {"label": "AnyEdit", "label_fine": "remove", "caption_en": "remove the dog"},
        {"label": "Delete", "score": "[9]"},
    ]
    members: dict[str, bytes] = {}
    for number, item in enumerate(about):
        names = (".1.0.jpg", ".2.jpg") if number < 3 else (".1.jpg", ".2.jpg")
        members[f"{number:08d}.json"] = json.dumps(item).encode()
        for side, name in enumerate(names):
            members[f"{number:08d}{name}"] = encode(pixels(2 * number + side), "JPEG")
    tarred(folder / "00000.tar", members)
    return Expected(4, 3, Counter({"no instruction": 1}))


LAYOUTS: dict[str, tuple[str, Callable[[Path], Expected]]] = {
    "pico-banana": ("pico-banana", pico_banana),
    "sharegpt-4o-image": ("sharegpt-4o-image", sharegpt_4o_image),
    "opengpt-4o-image": ("opengpt-4o-image", opengpt_4o_image),
    "seed-data-edit": ("seed-data-edit", seed_data_edit),
    "gpt-image-edit": ("gpt-image-edit", gpt_image_edit),
    "nhr-edit": ("nhr-edit", nhr_edit),
    "imgedit": ("imgedit", imgedit),
    "scaleedit": ("scaleedit", scaleedit),
    "x2edit": ("x2edit", x2edit),
}
"""Kind of source and maker, by name of a case."""
