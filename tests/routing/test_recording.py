"""A recording is what the traces were, whatever their shape, and a folder that is not whole is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support.made_recordings import EDIT, TIMES, Make, about, facts, shown, traces

from tagmoe.errors import ResultError
from tagmoe.losses.signature import routing_signature_from_scores
from tagmoe.routing.reading import read_recording
from tagmoe.routing.recording import RecordingWriter, Shown, kept_steps, token_mask
from tagmoe.routing.summary import summarise

SHAPES = {
    "text only": ((1, 4, 6),),
    "one reference": EDIT,
    "three references of other shapes": ((1, 4, 4), (1, 2, 6), (1, 5, 1), (1, 1, 1)),
}


def write(folder: Path, **options: object) -> RecordingWriter:
    folder.mkdir()
    return RecordingWriter(folder, about(), **options)  # type: ignore[arg-type]


def test_cases_of_different_shapes_come_back_as_their_traces(tmp_path: Path) -> None:
    writer = write(tmp_path / "r")
    made = {}
    for number, grids in enumerate(SHAPES.values()):
        batch = traces(number, grids, batch=2, top_k=2)
        made[writer.add(facts(number, "t"), batch, TIMES, shown(number, mask=False), sample=1)] = batch
    writer.close()
    recording = read_recording(tmp_path / "r")
    assert [case.grids for case in recording.cases] == list(SHAPES.values())
    for case in recording.cases:
        tokens, batch = recording.tokens(case), made[case.id]
        assert case.kept == (0, 1, 2)
        assert case.timesteps == TIMES
        for step, (read, given) in enumerate(zip(tokens.traces(), batch, strict=True)):
            assert torch.equal(read.expert_ids_LBTA[:, 0], given.expert_ids_LBTA[:, 1])
            assert torch.allclose(read.scores_LBTN[:, 0], given.scores_LBTN[:, 1], atol=5e-4)
            for image in range(len(case.grids)):
                assert np.allclose(tokens.shares_SLIN[step, :, image], given.utilisation(image)[:, 1].numpy())
                assert np.allclose(tokens.image(image)[step], read.image(image)[:, 0].numpy())


@pytest.mark.parametrize("grids", SHAPES.values(), ids=SHAPES)
def test_the_signature_is_that_of_equation_3(tmp_path: Path, grids) -> None:
    writer = write(tmp_path / "r")
    given = traces(5, grids)
    writer.add(facts(0, "t"), given, TIMES, shown(0, mask=False))
    writer.close()
    (summary,) = summarise(read_recording(tmp_path / "r"))
    expected = torch.stack([routing_signature_from_scores(one.scores_LBTN)[0] for one in given]).mean(dim=0)
    assert np.allclose(summary.signature_LN.mean(axis=0), expected.numpy(), atol=1e-6)


def test_a_full_size_case_is_thinned_to_its_limit_and_its_shares_are_still_of_all_steps(tmp_path: Path) -> None:
    grids = ((1, 64, 64), (1, 64, 64), (1, 32, 48))
    given = [one for seed in range(2) for one in traces(seed, grids, layers=10)]
    limit = 3_000_000
    writer = write(tmp_path / "r", case_bytes=limit, shard_bytes=2_000_000)
    for number in range(2):
        writer.add(facts(number, "t"), given, [1.0, 0.8, 0.6, 0.4, 0.2, 0.1], shown(number))
    writer.close()
    recording = read_recording(tmp_path / "r")
    tokens = recording.tokens(recording.cases[1])
    assert recording.cases[1].kept == (0, 2, 5)
    assert tokens.scores_KLTN.shape == (3, 10, 4096 * 2 + 1536, 4)
    assert tokens.shares_SLIN.shape == (6, 10, 3, 4)
    sizes = [size for name, size in recording.header.files.items() if name.startswith("tokens-")]
    assert len(sizes) == 2
    assert all(size < 1.05 * limit for size in sizes)


def test_which_steps_are_kept() -> None:
    assert kept_steps(12, 10, 1000) == tuple(range(12))
    assert kept_steps(12, 10, 40) == (0, 4, 7, 11)
    assert kept_steps(12, 10, 1) == (0,)


def test_masks_are_shares_of_tokens_of_any_grid() -> None:
    mask = np.zeros((64, 64), dtype=bool)
    mask[:32, :16] = True
    assert token_mask(mask, (1, 4, 4)).tolist() == [[1, 0, 0, 0], [1, 0, 0, 0], [0] * 4, [0] * 4]
    assert token_mask(mask, (1, 3, 5)).mean() == pytest.approx(mask.mean(), abs=0.02)
    assert token_mask(mask, (2, 2, 2)).shape == (4, 2)


def test_pictures_are_kept_small_enough_for_a_page(tmp_path: Path) -> None:
    writer = write(tmp_path / "r")
    writer.add(facts(0, None), traces(0), TIMES, Shown(np.zeros((1024, 700, 3), dtype=np.uint8)))
    writer.close()
    recording = read_recording(tmp_path / "r")
    assert max(recording.picture(recording.cases[0].pictures["output"]).shape) == 512


def test_a_recording_without_cases_or_of_two_models_is_not_written(tmp_path: Path) -> None:
    writer = write(tmp_path / "r")
    with pytest.raises(ValueError, match="without cases"):
        writer.close()
    writer.add(facts(0, "t"), traces(0), TIMES, shown(0))
    with pytest.raises(ValueError, match="experts=5"):
        writer.add(facts(1, "t"), traces(1, experts=5), TIMES, shown(1))


def _other_format(folder: Path) -> None:
    data = json.loads((folder / "recording.json").read_text()) | {"format": 2}
    (folder / "recording.json").write_text(json.dumps(data))


def _foreign_name(folder: Path) -> None:
    text = (folder / "cases.jsonl").read_text()
    name = '"output":"pictures/000000-output.png"'
    other = '"output":"../../../a/outside-123.png"'
    assert name in text
    assert len(name) == len(other)
    (folder / "cases.jsonl").write_text(text.replace(name, other))


DAMAGES = {
    "no recording": (lambda folder: (folder / "recording.json").unlink(), "has no recording.json"),
    "another format": (_other_format, "of format 2 and this version reads 1"),
    "not json": (lambda folder: (folder / "recording.json").write_text("{"), "is damaged"),
    "a list": (lambda folder: (folder / "recording.json").write_text("[]"), "of format None"),
    "no tokens": (lambda folder: (folder / "tokens-0000.safetensors").unlink(), "tokens-0000.safetensors is missing"),
    "half a file": (
        lambda folder: (folder / "tokens-0000.safetensors").write_bytes(b"x" * 100),
        "tokens-0000.safetensors has 100 of",
    ),
    "fewer cases": (
        lambda folder: (folder / "cases.jsonl").write_text((folder / "cases.jsonl").read_text()[:-30]),
        "cases.jsonl has",
    ),
    "names of others": (_foreign_name, "no file of its own"),
}


@pytest.mark.parametrize(("damage", "says"), DAMAGES.values(), ids=DAMAGES)
def test_a_folder_that_is_not_whole_is_refused_in_one_sentence(make: Make, damage, says) -> None:
    folder = make(per_task=1).folder
    damage(folder)
    with pytest.raises(ResultError, match=says) as caught:
        read_recording(folder)
    assert "\n" not in str(caught.value)
    assert repr(str(folder))[1:-1] in str(caught.value)


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="is no recording"):
        read_recording(tmp_path / "nowhere")


def test_damaged_tensors_and_pictures_are_named(make: Make) -> None:
    recording = make(per_task=1)
    shard = recording.folder / "tokens-0000.safetensors"
    good = shard.read_bytes()
    shard.write_bytes(good[:8] + b"?" * (len(good) - 8))
    with pytest.raises(ResultError, match="tokens-0000"):
        recording.tokens(recording.cases[0])
    shard.write_bytes(good)
    with pytest.raises(ResultError, match="ids is"):
        recording.tokens(recording.cases[0].model_copy(update={"grids": ((1, 4, 4), (1, 4, 5))}))
    name = recording.cases[0].pictures["output"]
    (recording.folder / name).write_bytes(b"no picture")
    with pytest.raises(ResultError, match="000000-output"):
        recording.picture(name)
