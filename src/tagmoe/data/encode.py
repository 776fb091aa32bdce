"""Encode a store: latents of the pictures and embeddings of the texts become columns of the store.

Encoding a picture costs as much as training on it, so it is done once. All columns of a fragment are filled in one
commit; a later run encodes the fragments whose bucket is empty. A picture is scaled until it covers the size of its
bucket, and cropped in the middle; a mask is treated exactly as the target.

Shapes: z latent channels, h and w sides of a latent, S text tokens, D text channels; all values are float16.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from tagmoe.data.encoder import Encoder, fit, mask_cells, nearest_size
from tagmoe.data.order.rows import Size, bucket_name
from tagmoe.data.store.engine import Engine, run
from tagmoe.data.store.record import NO_INPUTS
from tagmoe.data.store.store import Filling, Store
from tagmoe.errors import DataError, ImageError, UsageError
from tagmoe.pictures import load_mask

ARRAY = pa.struct([("data", pa.large_binary()), ("shape", pa.list_(pa.int32()))])
FIELDS = (
    pa.field("encoded_bucket", pa.string()),
    pa.field("encoded_target", ARRAY),
    pa.field("encoded_references", pa.list_(ARRAY)),
    pa.field("encoded_instruction", ARRAY),
    pa.field("encoded_instructions", pa.list_(ARRAY)),
    pa.field("encoded_rewritten", ARRAY),
    pa.field("encoded_blank", ARRAY),
    pa.field("encoded_mask", ARRAY),
    pa.field("encoded_error", pa.string()),
)
"""encoded_bucket: "64x64 64x64", width x height of the target and then of each reference, as `bucket_name`; empty for
a row that cannot be trained on. encoded_target, encoded_references: normalised latents (z, h, w). encoded_instruction,
encoded_instructions, encoded_rewritten: embeddings (S, D) of the instruction, of its further wordings and of the
rewritten one, as far as they can be encoded; a row that can be trained on has one of the first two. Where the text
encoder sees the references, they are in all of these. encoded_blank: then BLANK beside them, else null. encoded_mask:
(rows, columns) of the token grid as bytes, 1 where the edit may change the picture; null where the row has no mask.
encoded_error: why something is missing, null where nothing is.
"""
COLUMNS = tuple(item.name for item in FIELDS)
INDICATOR = "encoded_bucket"
NOTE = "encode"
BLANK_NOTE = "encode.blank"
BLANK = " "
"""The text that stands for a dropped instruction; its embedding is in a note of the store."""
CODE_VERSION = 2
"""Raise this when a change of the code makes the same encoder give other columns."""
READ_ROWS = 16
BATCH_PIXELS = 4 * 1024 * 1024
MOST_PICTURES = 128
"""Largest batch of pictures, however small they are."""
WAITING_PIXELS = 8 * BATCH_PIXELS
"""Pixels of decoded pictures that may wait until the batch of their size is full."""
BATCH_TEXTS = 32
BATCH_SEEN = 8
"""As BATCH_TEXTS, of texts beside pictures that the text encoder sees."""
FAILURES_AT_ONCE = 3
"""If this many fragments fail before any succeeds, the run stops."""


@dataclass
class _Row:
    """A row at work.

    latents: by number, 0 for the target. texts, embeddings: of "instruction", "rewritten" and its further wordings,
    "wording 0", "wording 1" and so on; where pictures are seen also of "blank". seen: the references, until the texts
    beside them are encoded. cut: texts of which only the beginning is encoded.
    """

    sizes: list[Size] = field(default_factory=list)
    latents: dict[int, np.ndarray] = field(default_factory=dict)
    texts: Mapping[str, str | None] = field(default_factory=dict)
    embeddings: dict[str, np.ndarray] = field(default_factory=dict)
    mask: np.ndarray | None = None
    seen: tuple[Image.Image, ...] = ()
    cut: int = 0
    errors: list[str] = field(default_factory=list)
    usable: bool = True

    def fail(self, part: str, reason: object, *, usable: bool = False) -> None:
        self.errors.append(f"{part}: {str(reason)[:300]}")
        self.usable = self.usable and usable


class _Pictures:
    """Collects decoded pictures by size and encodes them in batches."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._waiting: dict[Size, list[tuple[_Row, int, Image.Image]]] = {}
        self._pixels = 0

    def add(self, row: _Row, index: int, picture: Image.Image) -> None:
        size = picture.size
        batch = self._waiting.setdefault(size, [])
        batch.append((row, index, picture))
        self._pixels += size[0] * size[1]
        if len(batch) >= min(MOST_PICTURES, max(1, BATCH_PIXELS // (size[0] * size[1]))):
            self._encode(size)
        elif self._pixels > WAITING_PIXELS:
            self._encode(max(self._waiting, key=lambda one: (one[0] * one[1] * len(self._waiting[one]), one)))

    def finish(self) -> None:
        for size in sorted(self._waiting):
            self._encode(size)

    def _encode(self, size: Size) -> None:
        batch = self._waiting.pop(size)
        self._pixels -= size[0] * size[1] * len(batch)
        latents = self._encoder.encode_pictures([picture for _, _, picture in batch])
        for (row, index, _), latent in zip(batch, latents, strict=True):
            row.latents[index] = halved(latent)
            if not np.isfinite(row.latents[index]).all():
                row.fail("target" if index == 0 else "reference", "its latent does not fit float16")


@dataclass
class EncodeWork:
    """Encodes a fragment of the store at `uri`, as it was at `version`: the `work` of an engine.

    load: makes the encoder, in the worker process.
    """

    uri: str
    version: int
    load: Callable[[], Encoder]
    _open: tuple[Store, Encoder, np.ndarray] | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_open": None}

    def __call__(self, fragment: int) -> EncodedFragment:
        if self._open is None:
            encoder = self.load()
            blank = halved(encoder.encode_texts([BLANK])[0])
            self._open = Store.open(self.uri, version=self.version), encoder, blank
        store, encoder, blank = self._open
        rows = encode_fragment(store, fragment, encoder)
        errors = Counter(error.split(":")[0] for row in rows for error in row.errors)
        unusable = sum(not row.usable for row in rows)
        cut = sum(row.cut for row in rows)
        return EncodedFragment(store.prepare(fragment, _table(rows)), len(rows), unusable, dict(errors), cut, blank)


@dataclass(frozen=True)
class EncodedFragment:
    """An encoded fragment.

    filling: its new columns, not yet committed. rows: their number. unusable: rows that cannot be trained on. errors:
    how often a part could not be encoded, by part. cut: texts of which only the beginning is encoded. blank: the
    embedding of BLANK.
    """

    filling: Filling
    rows: int
    unusable: int
    errors: Mapping[str, int]
    cut: int
    blank: np.ndarray


def encode_fragment(store: Store, fragment: int, encoder: Encoder) -> list[_Row]:
    """Encode the rows of a fragment. WAITING_PIXELS bounds the decoded pixels in memory; all latents are kept."""
    rows: list[_Row] = []
    pictures = _Pictures(encoder)
    columns = ["instruction", "instructions", "instruction_rewritten", "images", "target"]
    for batch in store.fragment(fragment, columns, rows=READ_ROWS):
        start = len(rows)
        for values in batch.to_pylist():
            further = {f"wording {i}": text for i, text in enumerate(values["instructions"] or ())}
            row = _Row(
                texts={"instruction": values["instruction"], "rewritten": values["instruction_rewritten"], **further}
            )
            rows.append(row)
            found = _decoded(values, row, encoder)
            if encoder.sees_pictures and found[1:]:
                row.texts = {**row.texts, "blank": BLANK}
                row.seen = tuple(found[1:])
            for index, picture in enumerate(found):
                row.sizes.append(picture.size)
                pictures.add(row, index, picture)
        if encoder.sees_pictures:
            # Now, because the pictures of a whole fragment do not fit into memory.
            _encode_texts(rows[start:], encoder)
    pictures.finish()
    if not encoder.sees_pictures:
        _encode_texts(rows, encoder)
    return rows


def halved(values: np.ndarray) -> np.ndarray:
    """The values as float16; values that are too large become infinite."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values, dtype=np.float16)


def _decoded(values: Mapping[str, Any], row: _Row, encoder: Encoder) -> list[Image.Image]:
    """Target and references of a row, each at the size of its bucket; empty if one cannot be decoded."""
    found = []
    given = values["images"] or []
    for part, item in [
        ("target", values["target"]),
        *(("reference", item) for item in given if item["role"] not in NO_INPUTS),
    ]:
        try:
            picture = encoder.decode(item["data"])
        except ImageError as error:
            row.fail(part, error)
            return []
        found.append(fit(picture, nearest_size(*picture.size, encoder.sizes)))
    masks = [item for item in given if item["role"] == "mask"]
    if masks:
        try:
            cells = [mask_cells(load_mask(item["data"]), found[0].size, encoder.multiple) for item in masks]
            row.mask = np.asarray(np.stack(cells).any(axis=0), dtype=np.uint8)
        except ImageError as error:
            row.fail("mask", error, usable=True)
    return found


@dataclass(frozen=True)
class _Text:
    """A text to encode, with the number of the row whose pictures are seen beside it; None without pictures."""

    text: str
    row: int | None


def _encode_texts(rows: Sequence[_Row], encoder: Encoder) -> None:
    """Encode the texts of all usable rows; equal texts are encoded once where no pictures are seen beside them."""
    wanted: dict[_Text, list[tuple[_Row, str]]] = {}
    for number, row in enumerate(rows):
        for part, text in row.texts.items():
            if row.usable and text is not None:
                wanted.setdefault(_Text(text, number if row.seen else None), []).append((row, part))
    # Sort by length: padding costs compute too.
    keys = sorted(wanted, key=lambda key: (key.row is None, len(key.text), key.text, key.row or 0))
    alone = [key for key in keys if key.row is None]
    beside = [key for key in keys if key.row is not None]
    for group, size in ((alone, BATCH_TEXTS), (beside, BATCH_SEEN)):
        for start in range(0, len(group), size):
            batch = group[start : start + size]
            seen = [() if key.row is None else rows[key.row].seen for key in batch]
            found = _embeddings([key.text for key in batch], seen, encoder)
            for key, embedding in zip(batch, found, strict=True):
                for row, part in wanted[key]:
                    _keep(row, part, embedding, encoder.is_cut(key.text) if not isinstance(embedding, str) else False)
    for row in rows:
        row.usable = row.usable and any(part not in ("rewritten", "blank") for part in row.embeddings)
        row.seen = ()


def _keep(row: _Row, part: str, embedding: np.ndarray | str, is_cut: bool) -> None:
    if isinstance(embedding, str):
        row.fail(part.split()[0], embedding, usable=True)
    else:
        row.embeddings[part] = embedding
        row.cut += is_cut


def _embeddings(texts: list[str], seen: Sequence[Sequence[Image.Image]], encoder: Encoder) -> list[np.ndarray | str]:
    """The embedding of each text beside its pictures, or the reason why it has none."""
    try:
        found = [halved(values) for values in encoder.encode_texts(texts, seen)]
    except UsageError as error:
        if len(texts) == 1:
            return [str(error)]
        return [one for text, own in zip(texts, seen, strict=True) for one in _embeddings([text], [own], encoder)]
    return [values if np.isfinite(values).all() else "its embedding does not fit float16" for values in found]


def _packed(values: np.ndarray | None) -> dict[str, Any] | None:
    return None if values is None else {"data": values.tobytes(), "shape": list(values.shape)}


def _table(rows: Sequence[_Row]) -> pa.Table:
    return pa.Table.from_pylist([_values(row) for row in rows], schema=pa.schema(FIELDS))


def _values(row: _Row) -> dict[str, Any]:
    """The columns of a row; those that are not named are null, as all but its errors are if it is not usable."""
    error = "; ".join(row.errors) or None
    if not row.usable:
        return {"encoded_bucket": "", "encoded_references": [], "encoded_instructions": [], "encoded_error": error}
    further = row.embeddings.keys() - {"instruction", "rewritten", "blank"}
    return {
        "encoded_bucket": bucket_name(row.sizes[0], row.sizes[1:]),
        "encoded_target": _packed(row.latents.get(0)),
        "encoded_references": [_packed(row.latents[i]) for i in range(1, len(row.sizes))],
        "encoded_instruction": _packed(row.embeddings.get("instruction")),
        "encoded_instructions": [_packed(row.embeddings[part]) for part in row.texts if part in further],
        "encoded_rewritten": _packed(row.embeddings.get("rewritten")),
        "encoded_blank": _packed(row.embeddings.get("blank")),
        "encoded_mask": _packed(row.mask),
        "encoded_error": error,
    }


# The driver -----------------------------------------------------------------------------------------------------


@dataclass
class Encoded:
    """What a run did.

    fragments, rows: encoded by this run. unusable: those rows that cannot be trained on. errors: how often a part could
    not be encoded, by part. cut: texts of which only the beginning is encoded. before: fragments that were encoded
    already. left: fragments that are not encoded yet.
    """

    fragments: int = 0
    rows: int = 0
    unusable: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    cut: int = 0
    before: int = 0
    left: int = 0


def encode_store(
    store: Store,
    load: Callable[[], Encoder],
    fingerprint: Mapping[str, Any],
    *,
    engine: Engine = "local",
    workers: int = 1,
    address: str | None = None,
    limit: int | None = None,
    again: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Encoded:
    """Fill the columns of FIELDS in all fragments that lack them. After a kill, the same call resumes.

    load: makes the encoder in each worker, and must pickle. fingerprint: JSON values that identify the encoder. limit:
    rows after which to stop, at the end of a fragment. again: drop the columns and start over. progress: called with
    rows done and all.

    Raises DataError for columns of another encoder, and when fragments failed; encoded fragments are kept.
    """
    with store.writing():
        check_fingerprint(store, fingerprint, again=again)
        if again:
            store.drop(COLUMNS)
        if store.note(NOTE) != fingerprint or INDICATOR not in store.columns:
            store.set_note(BLANK_NOTE, None)
            store.set_note(NOTE, fingerprint)
        store.declare(FIELDS)
        fragments = store.unfilled(INDICATOR)
        result = Encoded(before=len(store.fragments()) - len(fragments), left=len(fragments))
        sizes = {number: store.fragment_rows(number) for number in fragments}
        if limit is not None:
            reached = np.cumsum([0, *sizes.values()])
            fragments = [number for number, so_far in zip(fragments, reached, strict=False) if so_far < limit]
        total = sum(sizes[number] for number in fragments)
        failures: list[str] = []
        work = EncodeWork(store.uri, store.version, load)
        if progress is not None:
            progress(0, total)
        with closing(run(fragments, work, engine=engine, workers=workers, address=address)) as results:
            for done in results:
                if done.error is not None:
                    failures.append(done.error)
                    if len(failures) >= FAILURES_AT_ONCE and not result.fragments:
                        break
                    continue
                _commit(store, done.value, result)
                if progress is not None:
                    progress(result.rows, total)
    if failures:
        raise DataError(
            f"{result.left} of the fragments are still to be encoded, as {len(failures)} failed; run the same command "
            f"again. The first said: {failures[0]}"
        )
    return result


def check_fingerprint(store: Store, fingerprint: Mapping[str, Any], *, again: bool = False) -> None:
    """Raise DataError when the columns of the store were made by another encoder, naming what differs."""
    if again or INDICATOR not in store.columns:
        return
    noted = store.note(NOTE) or {}
    different = sorted(name for name in {*noted, *fingerprint} if noted.get(name) != fingerprint.get(name))
    if different:
        raise DataError(
            f"The store {store.uri!r} was encoded with another encoder (different: {', '.join(different)}); use that "
            "one, or encode with --again, which drops its columns and makes them anew."
        )


def _commit(store: Store, done: EncodedFragment, result: Encoded) -> None:
    # Set the note before the first fragment is committed, so that a store with encoded rows always has it.
    if store.note(BLANK_NOTE) is None:
        text = base64.b64encode(done.blank.tobytes()).decode()
        store.set_note(BLANK_NOTE, {"data": text, "shape": list(done.blank.shape)})
    store.commit(done.filling)
    result.fragments += 1
    result.left -= 1
    result.rows += done.rows
    result.unusable += done.unusable
    result.errors.update(done.errors)
    result.cut += done.cut
