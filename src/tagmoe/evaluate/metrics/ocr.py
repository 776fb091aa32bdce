"""Whether the text that an instruction asks for, in quotes, is read in the output, by RapidOCR.

ICE-Bench has tasks that draw text, and the paper no metric for them. [ours]
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from tagmoe.errors import CheckpointError
from tagmoe.evaluate.metrics.learned import Choices, Input, Learned
from tagmoe.evaluate.metrics.metric import Measure, NoValue, Pair, Value
from tagmoe.extras import import_package
from tagmoe.sentences import reason_of

QUOTED = re.compile(
    r""""([^"]+)"|\u201c([^\u201d]+)\u201d|\u2018([^\u2019]+)\u2019|\u300c([^\u300d]+)\u300d|(?<!\w)'([^']+)'(?!\w)"""
)
REMOVES = re.compile(r"\b(remove|delete|erase|wipe|get rid of)\b", re.IGNORECASE)


class OcrChoices(Choices):
    """quotes: which of several quoted texts is asked for: the last, as in 'change "A" to "B"', or all of them."""

    quotes: Literal["last", "all"] = "last"


class Ocr(Learned):
    """How much of the text is there."""

    name = "ocr:rapid"
    measures = (Measure("ocr_rapid", "higher", "share of the quoted text that RapidOCR reads", kind="share"),)
    choices = OcrChoices
    chosen: OcrChoices
    published = "the package rapidocr-onnxruntime"
    licence = "Apache-2.0"
    files = (
        "ch_PP-OCRv4_det_infer.onnx",
        "ch_PP-OCRv4_rec_infer.onnx",
        "ch_ppocr_mobile_v2.0_cls_infer.onnx",
    )
    is_batched = False
    packages = ("rapidocr-onnxruntime", "onnxruntime")

    def inputs(self, pair: Pair) -> Mapping[str, Input]:
        """The output, where text is asked for."""
        return {"output": Input("picture", pair.output)} if asked_text(pair.case.instruction) else {}

    def encode(self, kind: str, contents: Sequence[Any]) -> Sequence[Any]:
        """The text of each picture, its lines one after the other."""
        found = []
        for picture in contents:
            # RapidOCR takes arrays as BGR.
            lines, _ = self.load()(np.ascontiguousarray(np.asarray(picture)[:, :, ::-1]))
            found.append(" ".join(line[1] for line in lines or ()))
        return found

    def values(self, pair: Pair, features: Mapping[str, Any]) -> Mapping[str, Value]:
        """The share; of several texts their mean."""
        asked = asked_text(pair.case.instruction)
        if not asked:
            return {"ocr_rapid": NoValue("not_applicable", "the instruction asks for no text in quotes")}
        chosen = asked if self.chosen.quotes == "all" else asked[-1:]
        return {"ocr_rapid": float(np.mean([share_read(text, features["output"]) for text in chosen]))}

    def read(self) -> Any:
        """RapidOCR on the three files."""
        module = import_package("rapidocr_onnxruntime", f"The metric {self.name!r}", "rapidocr-onnxruntime")
        import torch

        detector, recogniser, turner = (str(self.backbone.folder / file) for file in self.files)
        try:
            return module.RapidOCR(
                det_model_path=detector,
                rec_model_path=recogniser,
                cls_model_path=turner,
                intra_op_num_threads=torch.get_num_threads(),
                inter_op_num_threads=1,
            )
        except Exception as error:
            # Of onnxruntime, one for each kind of damage.
            raise CheckpointError(f"The weights {self.backbone.name!r} cannot be read ({reason_of(error)}).") from None


def asked_text(instruction: str) -> list[str]:
    """The texts in quotes that should be in the output; none where the instruction removes text."""
    if REMOVES.search(instruction):
        return []
    found = [next(filter(None, groups)) for groups in QUOTED.findall(instruction)]
    return [text for text in found if plain(text)]


def plain(text: str) -> str:
    """Letters and digits alone, in lower case: spaces and strokes are where OCR errs without a fault of the picture."""
    return "".join(letter for letter in text.casefold() if letter.isalnum())


def share_read(asked: str, read: str) -> float:
    """One less the edits that make the asked text a part of the text that was read, by its letters; at least 0."""
    wanted, given = plain(asked), plain(read)
    # Edit distance with a free beginning and a free end in `given`.
    before = np.zeros(len(given) + 1, dtype=np.int64)
    for row, letter in enumerate(wanted, 1):
        now = np.empty_like(before)
        now[0] = row
        for column, other in enumerate(given, 1):
            now[column] = min(before[column] + 1, now[column - 1] + 1, before[column - 1] + (letter != other))
        before = now
    return max(0.0, 1.0 - int(before.min()) / len(wanted))
