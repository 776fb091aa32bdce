"""Small files of exactly the published schemas, with the rows that are known to go wrong.

Every maker writes below a folder and says what an import of it must give.
"""

from __future__ import annotations

import io
import json
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
TEXT = pa.string()
TEXTS = pa.list_(pa.string())


@dataclass(frozen=True)
class Expected:
    """What an import gives: native rows, records, and the reasons of those that are not there."""

    rows: int
    records: int
    skipped: Counter[str] = field(default_factory=Counter)


def pixels(number: int, size: tuple[int, int] = (32, 24)) -> Image.Image:
    """A picture of its own for each number."""
    width, height = size
    values = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def encode(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": 90} if kind == "JPEG" else {}))
    return buffer.getvalue()


def image_of(number: int, size: tuple[int, int] = (32, 24), kind: str = "PNG") -> dict[str, object]:
    """The value of an image column, as `datasets` writes it."""
    return {"bytes": encode(pixels(number, size), kind), "path": f"{number}.{kind.lower()}"}


def _without_width(png: bytes) -> bytes:
    header = png[12:16] + bytes(4) + png[20:29]
    return png[:12] + header + zlib.crc32(header).to_bytes(4, "big") + png[33:]


CUT = {"bytes": encode(pixels(1), "JPEG")[:20], "path": "cut.jpg"}
EMPTY = {"bytes": b"", "path": "empty.jpg"}
HEADER = {"bytes": encode(pixels(1))[:20], "path": "cut.png"}
NO_PIXELS = {"bytes": _without_width(encode(pixels(1))), "path": "zero.png"}
ELSEWHERE = {"bytes": None, "path": "/home/author/1.png"}


def features(schema: pa.Schema) -> dict[str, object]:
    """The features that `datasets` keeps in the metadata of a Parquet file."""

    def feature(kind: pa.DataType) -> object:
        if kind == IMAGE:
            return {"_type": "Image"}
        if pa.types.is_struct(kind):
            return {kind.field(index).name: feature(kind.field(index).type) for index in range(kind.num_fields)}
        if pa.types.is_list(kind):
            return {"feature": feature(kind.value_type), "_type": "Sequence"}
        return {"dtype": {"double": "float64"}.get(str(kind), str(kind)), "_type": "Value"}

    return {item.name: feature(item.type) for item in schema}


def write_shards(
    folder: Path, split: str, columns: dict[str, pa.DataType], rows: Sequence[dict], shards: int = 2, group: int = 3
) -> list[Path]:
    """Parquet files as the hub names and writes them: row groups of `group` rows, the features in the metadata."""
    schema = pa.schema(list(columns.items()))
    schema = schema.with_metadata({b"huggingface": json.dumps({"info": {"features": features(schema)}}).encode()})
    (folder / "data").mkdir(parents=True, exist_ok=True)
    paths = []
    for shard in range(shards):
        part = rows[len(rows) * shard // shards : len(rows) * (shard + 1) // shards]
        paths.append(folder / "data" / f"{split}-{shard:05d}-of-{shards:05d}.parquet")
        pq.write_table(pa.Table.from_pylist(list(part), schema=schema), paths[-1], row_group_size=group)
    return paths


IP2P = {
    "original_prompt": TEXT,
    "original_image": IMAGE,
    "edit_prompt": TEXT,
    "edited_prompt": TEXT,
    "edited_image": IMAGE,
}


def ip2p_row(number: int, **changes) -> dict:
    return {
        "original_prompt": f"a cat {number}",
        "original_image": image_of(2 * number, kind="JPEG"),
        "edit_prompt": f"make it a dog {number}",
        "edited_prompt": f"a dog {number}",
        "edited_image": image_of(2 * number + 1, kind="JPEG"),
    } | changes


def instruct_pix2pix(folder: Path) -> Expected:
    rows = [ip2p_row(number) for number in range(12)]
    rows[2]["edit_prompt"] = "  "
    rows[4]["original_image"] = CUT
    rows[5]["edited_image"] = EMPTY
    rows[7]["edit_prompt"] = None
    rows[8]["original_image"] = None
    rows[9]["edited_image"] = ELSEWHERE
    rows[10]["original_image"] = NO_PIXELS
    rows[11]["edited_image"] = HEADER
    write_shards(folder, "train", IP2P, rows, shards=3)
    write_shards(folder, "zero", IP2P, [], shards=1)
    # What a download leaves behind is no data.
    (folder / ".cache").mkdir()
    (folder / ".cache" / "train-00000-of-00003.parquet").write_bytes(b"part")
    skipped = {
        "no instruction": 2,
        "damaged picture header": 1,
        "empty picture": 1,
        "row without its picture": 2,
        "no picture": 2,
    }
    return Expected(12, 4, Counter(skipped))


def instruct_pix2pix_folder(folder: Path) -> Expected:
    listed = [["0000001", ["11", "12", "13"]], ["0000002", ["21"]], ["0000003", ["31", "32"]], ["0000004", ["41"]]]
    for name, seeds in listed[:3]:
        path = folder / name
        path.mkdir(parents=True)
        prompt = {"input": f"a cat {name}", "edit": f"make it a dog {name}", "output": f"a dog {name}"}
        (path / "prompt.json").write_text(json.dumps(prompt))
        lines = []
        for seed in seeds:
            for side in (0, 1):
                (path / f"{seed}_{side}.jpg").write_bytes(encode(pixels(int(seed) * 2 + side), "JPEG"))
            scores = {"clip_sim_0": 0.25, "clip_sim_1": 0.26, "clip_sim_dir": 0.21, "clip_sim_image": 0.8}
            lines.append(json.dumps({"seed": int(seed), "p2p_threshold": 0.5, "cfg_scale": 9.0, **scores}))
        (path / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "0000001" / "12_1.jpg").unlink()
    (folder / "0000003" / "31_0.jpg").write_bytes(b"")
    (folder / "0000003" / "metadata.jsonl").write_text("{cut\n")
    (folder / "seeds.json").write_text(json.dumps(listed))
    return Expected(7, 4, Counter({"missing picture file": 1, "empty picture": 1, "missing folder or prompt file": 1}))


ULTRAEDIT_500K = {
    "clip_sim_source": pa.float64(),
    "clip_sim_target": pa.float64(),
    "clip_sim_dir": pa.float64(),
    "clip_sim_image": pa.float64(),
    "dinov2_sim": pa.float64(),
    "ssim": pa.float64(),
    "source_caption": TEXT,
    "target_caption": TEXT,
    "idx": pa.int64(),
    "edit_prompt": TEXT,
    "source_image": IMAGE,
    "edited_image": IMAGE,
}
ULTRAEDIT = ULTRAEDIT_500K | {"edit_object": TEXT, "mask_image": IMAGE}


def ultraedit_row(number: int, **changes) -> dict:
    return {
        **dict.fromkeys(("clip_sim_source", "clip_sim_target", "clip_sim_dir"), 0.25),
        "clip_sim_image": None,
        "dinov2_sim": float("nan"),
        "ssim": 0.5,
        "source_caption": f"a field {number}",
        "target_caption": f"a field with a barn {number}",
        "idx": number % 4,
        "edit_prompt": f"add a barn {number}",
        "source_image": image_of(2 * number),
        "edited_image": image_of(2 * number + 1),
    } | changes


def ultraedit(folder: Path) -> Expected:
    """Free form with null masks (one file of them with the type null), and regions with masks."""
    free = [ultraedit_row(number, edit_object=None, mask_image=None) for number in range(7)]
    free[3]["source_caption"] = ""
    write_shards(folder, "FreeForm_0", ULTRAEDIT | {"edit_object": pa.null()}, free[:4])
    write_shards(folder, "FreeForm_10", ULTRAEDIT, free[4:])
    mask = {"bytes": encode(Image.new("L", (32, 24), 255)), "path": "mask.png"}
    region = [ultraedit_row(number, edit_object="barn", mask_image=mask) for number in range(7, 13)]
    region[1]["mask_image"] = CUT
    region[2]["mask_image"] = None
    region[4]["edited_image"] = CUT
    write_shards(folder, "RegionBase", ULTRAEDIT, region)
    return Expected(13, 11, Counter({"no picture": 2}))


def ultraedit_500k(folder: Path) -> Expected:
    write_shards(folder, "FreeForm", ULTRAEDIT_500K, [ultraedit_row(number) for number in range(5)])
    return Expected(5, 5)


OMNIEDIT = {
    "omni_edit_id": TEXT,
    "task": TEXT,
    "src_img": IMAGE,
    "edited_img": IMAGE,
    "edited_prompt_list": TEXTS,
    "width": pa.int64(),
    "height": pa.int64(),
    "sc_score_1": pa.int64(),
    "sc_score_2": pa.int64(),
    "sc_reasoning": TEXT,
    "pq_score": pa.int64(),
    "pq_reasoning": TEXT,
    "o_score": pa.float64(),
}


def omniedit_row(number: int, **changes) -> dict:
    return {
        "omni_edit_id": f"task_obj_add_{number}",
        "task": ("removal", "style", "attribute_modification", "env", "swap", "addition")[number % 6],
        "src_img": image_of(2 * number),
        "edited_img": image_of(2 * number + 1),
        "edited_prompt_list": [f"add a hat {number}", f"put a hat on the head {number}"],
        "width": 32,
        "height": 24,
        "sc_score_1": 9,
        "sc_score_2": 8,
        "sc_reasoning": "followed",
        "pq_score": 7,
        "pq_reasoning": "clean",
        "o_score": 7.5,
    } | changes


def omniedit(folder: Path) -> Expected:
    rows = [omniedit_row(number) for number in range(10)]
    rows[1]["edited_prompt_list"] = []
    rows[2]["edited_prompt_list"] = ["", None, " swap it ", "swap it", "change it"]
    rows[3]["edited_prompt_list"] = None
    rows[4]["task"] = "a task of next year"
    rows[5]["task"] = None
    rows[6]["omni_edit_id"] = None
    rows[7]["src_img"] = EMPTY
    rows[8]["edited_prompt_list"] = [" ", None]
    write_shards(folder, "train", OMNIEDIT, rows)
    write_shards(folder, "dev", OMNIEDIT, [omniedit_row(number) for number in range(10, 13)], shards=1)
    skipped = {"no instruction": 3, "no id": 1, "empty picture": 1, "held-out split": 3}
    return Expected(13, 5, Counter(skipped))


MAGICBRUSH = {
    "img_id": TEXT,
    "turn_index": pa.int32(),
    "source_img": IMAGE,
    "mask_img": IMAGE,
    "instruction": TEXT,
    "target_img": IMAGE,
}


def alpha_mask(size: tuple[int, int] = (32, 64)) -> dict[str, object]:
    """A DALL-E mask: transparent, in its left half, where the edit is."""
    image = pixels(99, size).convert("RGBA")
    alpha = Image.new("L", size, 255)
    alpha.paste(0, (0, 0, size[0] // 2, size[1]))
    image.putalpha(alpha)
    return {"bytes": encode(image), "path": "mask.png"}


def magicbrush_row(image: int, turn: int, **changes) -> dict:
    return {
        "img_id": str(image),
        "turn_index": turn,
        # The source of a turn is the target of the turn before it.
        "source_img": image_of(100 * image + turn, (32, 64)),
        "mask_img": alpha_mask(),
        "instruction": f"give it a hat, {image} {turn}",
        "target_img": image_of(100 * image + turn + 1, (32, 64)),
    } | changes


def magicbrush(folder: Path) -> Expected:
    rows = [magicbrush_row(image, turn) for image in range(4) for turn in (1, 2, 3)]
    rows[1]["mask_img"] = None
    rows[2]["mask_img"] = CUT
    rows[4]["turn_index"] = None
    rows[5]["instruction"] = ""
    write_shards(folder, "train", MAGICBRUSH, rows)
    write_shards(folder, "dev", MAGICBRUSH, [magicbrush_row(7, turn) for turn in (1, 2)], shards=1)
    write_shards(folder, "test", MAGICBRUSH, [magicbrush_row(8, turn) for turn in (1, 2, 3)], shards=1)
    skipped = {
        "no picture": 1,
        "no id": 1,
        "no instruction": 1,
        "held-out split": 2,
        "test set of a benchmark": 3,
    }
    return Expected(17, 9, Counter(skipped))


SUBJECTS200K = {
    "image": IMAGE,
    "collection": TEXT,
    "quality_assessment": pa.struct(
        [("compositeStructure", pa.int64()), ("objectConsistency", pa.int64()), ("imageQuality", pa.int64())]
    ),
    "description": pa.struct(
        [
            ("item", TEXT),
            ("description_0", TEXT),
            ("description_1", TEXT),
            ("category", TEXT),
            ("description_valid", pa.bool_()),
        ]
    ),
}
SIZE, PADDING = 512, 8


def both_views(number: int, size: int = SIZE, padding: int = PADDING, kind: str = "JPEG") -> dict[str, object]:
    """Red left view with the number in it, blue right view, white around."""
    image = Image.new("RGB", (2 * size + 3 * padding, size + 2 * padding), "white")
    image.paste((200, number, 0), (padding, padding, padding + size, padding + size))
    image.paste((0, number, 200), (size + 2 * padding, padding, 2 * size + 2 * padding, padding + size))
    return {"bytes": encode(image, kind), "path": f"{number}.jpg"}


def subjects_row(number: int, scores: tuple[int | None, ...] = (5, 5, 5), **changes) -> dict:
    quality = dict(zip(("compositeStructure", "objectConsistency", "imageQuality"), scores, strict=True))
    description = {
        "item": "chair",
        "description_0": f"a chair in a room {number}",
        "description_1": f"a chair in a cabin {number}",
        "category": "Furniture",
        "description_valid": True,
    }
    return {
        "image": both_views(number),
        "collection": "collection_2",
        "quality_assessment": quality,
        "description": description,
    } | changes


def subjects200k(folder: Path) -> Expected:
    rows = [subjects_row(number) for number in range(9)]
    rows[1] = subjects_row(1, (5, 4, 5))
    rows[2] = subjects_row(2, quality_assessment=None, collection="collection_1")
    rows[3] = subjects_row(3, (5, None, 5))
    rows[4]["description"] = rows[4]["description"] | {"description_valid": False}
    rows[5]["description"] = rows[5]["description"] | {"description_1": None}
    rows[6]["image"] = image_of(6)
    rows[7]["image"] = {"bytes": rows[7]["image"]["bytes"][:-2000], "path": "cut.jpg"}
    write_shards(folder, "train", SUBJECTS200K, rows)
    skipped = {
        "low quality score": 2,
        "no quality score": 4,
        "description marked invalid": 2,
        "no instruction": 1,
        "picture too small to crop": 2,
        "damaged picture": 2,
    }
    return Expected(9, 5, Counter(skipped))


def viton_hd(folder: Path, size: tuple[int, int] = (24, 32)) -> Expected:
    """Seven paired persons of which some lack a file, one damaged line, one unpaired line, and the test list."""
    names = [f"{number:05d}_00.jpg" for number in range(7)]
    for part in ("image", "cloth", "agnostic-mask"):
        (folder / "train" / part).mkdir(parents=True)
    for number, name in enumerate(names):
        mask = Image.new("L", size, 0)
        mask.paste(255, (0, 0, size[0], size[1] // 2))
        (folder / "train" / "image" / name).write_bytes(encode(pixels(2 * number, size), "JPEG"))
        (folder / "train" / "cloth" / name).write_bytes(encode(pixels(2 * number + 1, size), "JPEG"))
        (folder / "train" / "agnostic-mask" / f"{name[:-4]}_mask.png").write_bytes(encode(mask))
    (folder / "train" / "cloth" / names[1]).unlink()
    (folder / "train" / "agnostic-mask" / "00002_00_mask.png").unlink()
    (folder / "train" / "image" / names[3]).unlink()
    (folder / "train" / "agnostic-mask" / "00004_00_mask.png").write_bytes(encode(Image.new("L", (5, 5))))
    lines = [f"{name} {name}" for name in names]
    lines.insert(2, "00005_00.jpg 00006_00.jpg")
    lines.append("../../secret.jpg ../../secret.jpg")
    lines.append("alone.jpg")
    (folder / "train_pairs.txt").write_text("\n".join(lines) + "\n")
    (folder / "test_pairs.txt").write_text("00006_00.jpg 08015_00.jpg\n00273_00.jpg 04131_00.jpg\n")
    skipped = {
        "missing garment": 1,
        "missing mask": 1,
        "missing picture file": 1,
        "pictures of different sizes": 1,
        "unpaired garment, no target": 1,
        "damaged line": 2,
        "test list, unpaired and without target": 2,
    }
    return Expected(12, 3, Counter(skipped))


MAKERS: dict[str, tuple[str, Callable[[Path], Expected]]] = {
    "instruct-pix2pix": ("instruct-pix2pix", instruct_pix2pix),
    "instruct-pix2pix with seeds.json": ("instruct-pix2pix", instruct_pix2pix_folder),
    "ultraedit": ("ultraedit", ultraedit),
    "ultraedit_500k": ("ultraedit", ultraedit_500k),
    "omniedit": ("omniedit", omniedit),
    "magicbrush": ("magicbrush", magicbrush),
    "subjects200k": ("subjects200k", subjects200k),
    "viton-hd": ("viton-hd", viton_hd),
}
"""Kind of source and maker, by name of a case."""
