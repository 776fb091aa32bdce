"""Published sets whose rows are objects in JSON files, with pictures in files of their own.

Each class says where its columns were read, and when. None of the sets was at hand; the tests make files of these
columns. Licences are those of the cards; "none" where no licence could be read, so that a user must accept it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from tagmoe.data.sources.field_map import FIRST
from tagmoe.data.sources.json_rows import is_json
from tagmoe.data.sources.jsonl import JsonlSource
from tagmoe.data.sources.places import Folder, Place
from tagmoe.data.sources.source import Licence
from tagmoe.data.store.fields import UnusableRow
from tagmoe.data.store.location import is_store
from tagmoe.errors import DataError

SOURCE_MISSING = "source picture that was not downloaded"


class PublishedJson(JsonlSource):
    """A published set in JSON files. map, constants: as of `FieldMap`. terms: its licence. names: its JSON files."""

    map: ClassVar[Mapping[str, str]]
    constants: ClassVar[Mapping[str, str]] = {}
    terms: ClassVar[Licence]
    names: ClassVar[Sequence[str]] = ("*.jsonl", "*.json")

    def __init__(self, path: Path, *, root: str | Path | None = None) -> None:
        """root: folder or tar of the pictures, if they do not lie beside the JSON files."""
        super().__init__(path, self.kind, self.terms.name, self.map, self.constants, root)
        self.licence = self.terms

    def json_files(self, path: Path) -> list[Path]:
        """The JSON files of the set: the one that was given, or those of its names below the folder."""
        if path.is_file():
            return [path]
        names = [*self.names, *(f"{name}.gz" for name in self.names)]
        given = {file for name in names for file in path.rglob(name) if file.is_file() and is_json(file)}
        # A store may lie in the folder, too; what it keeps of its imports are no rows.
        found = sorted(file for file in given if not is_store(str(file.parent.parent)))
        if not found:
            raise DataError(f"{str(path)!r} has none of {', '.join(self.names)}; give the folder that was downloaded.")
        return found


class PicoBanana(PublishedJson):
    """Pico-Banana-400K (arXiv 2510.19808): single edits, preference pairs and conversations of several turns.

    sft.jsonl, preference.jsonl and multi-turn.jsonl, with the edits below images/. Photographs are named by their
    address at Flickr; `map_openimage_url_to_local.py` of the authors adds local_input_image, which is read. A rejected
    picture of a preference pair has the role `rejected`. Columns: README and that script at apple/pico-banana-400k
    (89dc8af, read 2026-11-30), and public readers of the three files.
    """

    kind = "pico-banana"
    terms = Licence("CC-BY-NC-ND-4.0", commercial=False, derivatives=False)
    map: ClassVar[Mapping[str, str]] = {
        "instruction": "text",
        "instructions": "more",
        "source": "local_input_image",
        "target": "output_image",
        "rejected": "rejected_images",
        "native_task": "edit_type",
        "turn": "turn",
    }

    def unfolded(self, values: Mapping[str, Any], file: Path) -> list[Mapping[str, Any]]:
        source = values.get("local_input_image")
        if not source:
            raise UnusableRow(SOURCE_MISSING)
        if "files" not in values:
            summary = values.get("summarized_text")
            return [{**values, "more": [summary] if summary else None}]
        prompts = values.get("metadata_edit_turn_prompts")
        files = values["files"]
        if not isinstance(prompts, list) or not prompts or not isinstance(files, list):
            raise UnusableRow("conversation without its turns")
        given = {str(item.get("id")): item.get("url") for item in files if isinstance(item, Mapping)}
        # The picture of the last turn is called final_image.
        results = [given.get(f"edit_turn{turn}") for turn in range(1, len(prompts))] + [given.get("final_image")]
        turns = turns_of(prompts, [source, *results])
        return [turn | {"edit_type": values.get("edit_type")} for turn in turns]


class ShareGpt4oImage(PublishedJson):
    """ShareGPT-4o-Image (arXiv 2506.18095): 46 thousand edits and 45 thousand pictures from text, by GPT-4o.

    text_and_image_to_image.json and text_to_image.json, arrays of input_prompt, input_image (a list) and output_image.
    Columns: nnnth/UniLIP, data/convert_janus4o_ti2i.py (read 2026-11-30). No licence of the set could be read.
    """

    kind = "sharegpt-4o-image"
    terms = Licence("none")
    names = ("text_and_image_to_image.json", "text_to_image.json")
    map: ClassVar[Mapping[str, str]] = {
        "instruction": "input_prompt",
        "input_images": "input_image",
        "target": "output_image",
    }


class OpenGpt4oImage(PublishedJson):
    """OpenGPT-4o-Image (arXiv 2509.24900): 40 thousand edits and 40 thousand pictures from text, by GPT-4o.

    editing.json and gen.json, an object a line: input_prompt, input_image (a list), output_image. Columns: README at
    NROwind/OpenGPT-4o-Image (142828d, read 2026-11-30). Licence: card of WINDop/OpenGPT-4o-Image.
    """

    kind = "opengpt-4o-image"
    terms = Licence("Apache-2.0")
    names = ("editing.json", "gen.json")
    map = ShareGpt4oImage.map


class SeedDataEdit(PublishedJson):
    """SEED-Data-Edit (arXiv 2405.04007): edits by a pipeline, from the web, and conversations by people.

    JSONL of source_image, target_image and instruction; conversations have source_image, instruction_1, edit_image_1,
    instruction_2 and so on. The pictures lie in `root`, or in the folder `images` beside `annotations`. Columns: README
    of AILab-CVC/SEED-X (0483703), and a public reader of the conversations (read 2026-11-30).
    """

    kind = "seed-data-edit"
    terms = Licence("CC-BY-NC-4.0", commercial=False)
    names = ("*.jsonl",)
    map: ClassVar[Mapping[str, str]] = {
        "instruction": "instruction",
        "source": "source_image",
        "target": "target_image",
        "turn": "turn",
    }

    def unfolded(self, values: Mapping[str, Any], file: Path) -> list[Mapping[str, Any]]:
        count = sum(1 for name in values if name.startswith("edit_image_"))
        if not count:
            return [values]
        texts = [values.get(f"instruction_{turn}") for turn in range(1, count + 1)]
        pictures = [values.get("source_image"), *(values.get(f"edit_image_{turn}") for turn in range(1, count + 1))]
        return [
            {**turn, "source_image": turn["local_input_image"], "target_image": turn["output_image"]}
            | {"instruction": turn["text"]}
            for turn in turns_of(texts, pictures)
        ]

    def place(self, file: Path) -> Place:
        beside = file.parent.parent / "images"
        return self._place or Folder(beside if file.parent.name == "annotations" and beside.is_dir() else file.parent)


class GptImageEdit(PublishedJson):
    """GPT-Image-Edit-1.5M (arXiv 2507.21033): HQ-Edit, UltraEdit and OmniEdit with results by GPT-Image-1.

    TASK/metadata/*.json, arrays of id, dataset_source, task, input, output, instruction, instruction_type and
    input_description; rewritten instructions have instruction_original beside them. Paths begin at the folder of the
    task. Columns: card of UCSC-VLAA/GPT-Image-Edit-1.5M (read 2026-11-30). The card says CC-BY-4.0, although HQ-Edit
    itself is CC-BY-NC-4.0.
    """

    kind = "gpt-image-edit"
    terms = Licence("CC-BY-4.0")
    names = ("*.json",)
    map: ClassVar[Mapping[str, str]] = {
        "id": "id",
        "instruction": "instruction",
        "instructions": "more",
        "source": "input",
        "target": "output",
        "caption_source": "input_description",
        "native_task": "task",
    }

    def unfolded(self, values: Mapping[str, Any], file: Path) -> list[Mapping[str, Any]]:
        original = values.get("instruction_original")
        more = [original] if original and original != values.get("instruction") else None
        return [{**values, "more": more}]

    def place(self, file: Path) -> Place:
        return self._place or Folder(file.parent.parent if file.parent.name == "metadata" else file.parent)


class NhrEdit(PublishedJson):
    """NHR-Edit (arXiv 2507.14119): triplets that a validator kept, without any human work.

    train/metadata.jsonl of sample_id, source_file_name, edited_file_name, edit_instruction, augmented_instructions (a
    list), category, style and kind; pictures below train/images. Columns: card of iitolstykh/NHR-Edit and a public
    reader of the file (read 2026-11-30). Whether paths begin at train or above it differs: both are tried.
    """

    kind = "nhr-edit"
    terms = Licence("Apache-2.0")
    names = ("metadata.jsonl",)
    map: ClassVar[Mapping[str, str]] = {
        "id": "sample_id",
        "instruction": "edit_instruction",
        "instructions": "augmented_instructions",
        "source": "source_file_name",
        "target": "edited_file_name",
        "native_task": "category",
    }

    def place(self, file: Path) -> Place:
        return self._place or _Either([Folder(file.parent), Folder(file.parent.parent)])


class _Either:
    """The first of several places that has a file."""

    def __init__(self, places: Sequence[Folder]) -> None:
        self._places = places

    def read(self, name: str) -> bytes:
        return self._of(name).read(name)

    def file(self, name: str) -> str | None:
        return self._of(name).file(name)

    def _of(self, name: str) -> Folder:
        found = (place for place in self._places if (file := place.file(name)) is not None and os.path.exists(file))
        return next(found, self._places[0])


def turns_of(texts: Sequence[Any], pictures: Sequence[Any]) -> list[dict[str, Any]]:
    """The turns of a conversation as single edits: `text` turns a picture into the next one.

    A turn that lacks its picture or its text stays, and is skipped with its reason.
    """
    return [
        {
            "text": text,
            "local_input_image": pictures[turn],
            "output_image": pictures[turn + 1],
            "turn": turn + 1,
            FIRST: pictures[0],
        }
        for turn, text in enumerate(texts)
    ]
