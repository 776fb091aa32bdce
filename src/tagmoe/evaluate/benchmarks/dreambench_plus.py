"""DreamBench++ (arXiv 2406.16855; data `yuangpeng/dreambench_plus`, Apache-2.0): 150 subjects, 9 prompts each; Table 3.

Files by its loader (yuangpeng/dreambench_plus 66ca27e and df0b960, read 2026-11-28 and 2026-11-30), in data.zip or
unpacked: images/**/NN.jpg and captions/**/NN.txt under the same path. The folder is the category. Line 1 of a text is
the subject, the others are its prompts: 0 to 3 photorealistic, 4 to 6 of a style, 7 and 8 imaginative. Its loader pairs
pictures and texts by their order; here they are paired by their path, so that a missing one shifts nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from tagmoe.errors import DataError
from tagmoe.evaluate.benchmarks.benchmark import Pictures, Row, UnusableCase
from tagmoe.evaluate.benchmarks.cases import Case
from tagmoe.evaluate.benchmarks.published_files import Files, FolderFiles, open_files

ZIP = "data.zip"
IMAGES, CAPTIONS = "images", "captions"
CATEGORIES = ("animal", "human", "object", "style")
REFERENCES = {"animal": "subject", "human": "face", "object": "subject", "style": "style"}
PROMPTS = ("photorealistic",) * 4 + ("style",) * 3 + ("imaginative",) * 2


class DreamBenchPlus:
    """DreamBench++; it has no options."""

    name = "dreambench-plus"
    about = "DreamBench++: 150 subjects and styles, 9 prompts each; the paper's Table 3"
    licence = "Apache-2.0"

    def __init__(self, path: Path) -> None:
        """Raises UsageError where there is nothing, DataError where no captions are found."""
        self._name = path.resolve().name
        self._files, self._texts = _find(path)

    def rows(self) -> Iterator[Row]:
        """A row for each prompt, in the order of the texts; one for a text that is not of the published form."""
        for text in self._texts:
            words = (self._files.read(text) or b"").decode("utf-8-sig", "replace")
            lines = [line.strip() for line in words.splitlines()]
            while lines and not lines[-1]:
                lines.pop()
            category, stem = PurePosixPath(text).parent.name, PurePosixPath(text).stem
            prompts = lines[1:]
            if category not in CATEGORIES or len(prompts) != len(PROMPTS):
                wrong = (
                    f"its category {category!r} is unknown"
                    if category not in CATEGORIES
                    else f"its text has {len(prompts)} prompts, not {len(PROMPTS)}"
                )
                yield Row(f"{category}_{stem}", {"error": wrong})
                continue
            collection = _collection(category, stem, lines[0])
            for number, prompt in enumerate(prompts):
                fields = {"text": text, "category": category, "subject": lines[0], "number": number, "prompt": prompt}
                yield Row(f"{collection}/{number}_0", fields)

    def case(self, row: Row, pictures: Pictures) -> Case:
        """The case of a row: its picture is a reference, because the whole picture is made anew."""
        fields = row.fields
        if "error" in fields:
            raise UnusableCase(fields["error"])
        if not fields["prompt"] or not fields["subject"]:
            raise UnusableCase(f"its {'prompt' if fields['subject'] else 'subject'} is empty")
        return Case(
            bench=self.name,
            id=row.id,
            task=fields["category"],
            instruction=fields["prompt"],
            # It has no captions: its prompt is what a caption would be compared with.
            target_caption=fields["prompt"],
            caption_origin="prompt",
            refs=(self._picture(fields["text"], pictures),),
            meta={
                "subject": fields["subject"],
                "prompt": PROMPTS[fields["number"]],
                # The paper does not say which of the 1,350 cases its columns are of. [ours]
                "reference": REFERENCES[fields["category"]],
            },
        )

    def settings(self) -> Mapping[str, Any]:
        """None."""
        return {}

    def made_from(self) -> str:
        """The name of the folder or zip."""
        return self._name

    def _picture(self, text: str, pictures: Pictures) -> str:
        """The picture under the path of a text."""
        parts = list(PurePosixPath(text).with_suffix("").parts)
        at = len(parts) - 1 - parts[::-1].index(CAPTIONS)
        stem = "/".join([*parts[:at], IMAGES, *parts[at + 1 :]])
        for ending in (".jpg", ".jpeg", ".png"):
            try:
                data = self._files.read(stem + ending)
            except DataError as error:
                raise UnusableCase(f"picture: {error}") from None
            if data is not None:
                return pictures.add(data, "picture")
        raise UnusableCase(f"there is no picture {stem + '.jpg'!r}")


def _collection(category: str, index: str, subject: str) -> str:
    """The name of a subject's outputs, as its scripts make it."""
    kind = f"live_subject_{category}" if category in ("animal", "human") else category
    return f"{kind}_{index}_{subject.lower().replace(' ', '_')}"


def _find(path: Path) -> tuple[Files, list[str]]:
    """The files and the texts among them; in a folder without any, those of the zip in it."""
    files = open_files(path)
    texts = [name for name in files.names() if CAPTIONS in PurePosixPath(name).parts[:-1] and name.endswith(".txt")]
    texts = [name for name in texts if not name.startswith("__MACOSX/")]
    if not texts and isinstance(files, FolderFiles) and (path / ZIP).is_file():
        return _find(path / ZIP)
    if not texts:
        raise DataError(f"{str(path)!r} holds no {CAPTIONS}/**/*.txt of DreamBench++; give the folder or {ZIP}.")
    return files, texts
