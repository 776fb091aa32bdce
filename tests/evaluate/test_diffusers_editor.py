"""Edit pipelines of diffusers as editors: each class is really run, tiny and random, as its entry says."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
from diffusers.pipelines.longcat_image import pipeline_longcat_image_edit
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus
from PIL import Image
from support.hub_server import client_of, served
from support.tiny_editors import editors, instruct_pix2pix

from tagmoe.errors import CheckpointError, MissingError, UsageError
from tagmoe.evaluate.answers.diffusers_editor import CALLS, DiffusersEditor, load_diffusers_editor

SIDE = 64


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of Qwen and LongCat resize every picture to a megapixel, which takes tiny weights minutes."""
    monkeypatch.setattr(pipeline_qwenimage_edit, "calculate_dimensions", lambda area, ratio: (SIDE, SIDE, None))
    monkeypatch.setattr(pipeline_longcat_image_edit, "calculate_dimensions", lambda area, ratio: (SIDE, SIDE))
    monkeypatch.setattr(pipeline_qwenimage_edit_plus, "VAE_IMAGE_SIZE", SIDE * SIDE)
    monkeypatch.setattr(pipeline_qwenimage_edit_plus, "CONDITION_IMAGE_SIZE", SIDE * SIDE)


def picture(colour: str) -> Image.Image:
    return Image.new("RGB", (SIDE, SIDE), colour)


def options_of(name: str) -> dict[str, Any]:
    """What a tiny model of this class also needs: the output's size where that is not the picture's."""
    sized = {"height": SIDE, "width": SIDE}
    if name == "FluxKontextPipeline":
        return {**sized, "max_area": SIDE * SIDE, "_auto_resize": False, "max_sequence_length": 16}
    if name.startswith("Flux2Klein"):
        return {**sized, "text_encoder_out_layers": (1,), "max_sequence_length": 16}
    return sized if name.startswith(("Qwen", "Kandinsky")) else {}


@pytest.mark.slow_but_first
@pytest.mark.parametrize("name", editors())
def test_a_pipeline_edits_by_its_seed_and_tells_its_settings(name: str) -> None:
    call = CALLS[name]
    cfg = 2.0 if call.cfg else None
    editor = DiffusersEditor(editors()[name](), "0" * 64, "tiny", steps=2, cfg=cfg, options=options_of(name))
    words = ["add a red circle", "remove the green triangle"]
    shown = [[picture("red")], [picture("blue")]]
    first = editor(words, shown, [3, 4])
    assert [np.asarray(one).shape for one in first] == [(SIDE, SIDE, 3)] * 2
    (alone,) = editor(words[1:], shown[1:], [4])
    assert np.array_equal(first[1], alone), "a seed gives the same, whatever came before"
    (other,) = editor(words[1:], shown[1:], [5])
    assert not np.array_equal(alone, other)
    facts = editor.facts()
    assert (facts["class"], facts["weights"], facts["settings"]["num_inference_steps"]) == (name, "0" * 64, 2)
    if call.cfg:
        assert facts["settings"][call.cfg] == 2.0
    else:
        with pytest.raises(UsageError, match="has no guidance scale"):
            DiffusersEditor(editors()[name](), "0" * 64, "tiny", cfg=2.0)
    given = [picture("red"), picture("blue")]
    if call.most == 1:
        with pytest.raises(UsageError, match=f"{name} takes 1 picture, and the case has 2"):
            editor(words[:1], [given], [3])
    else:
        assert not np.array_equal(editor(words[:1], [given], [3])[0], first[0])
    if call.least:
        with pytest.raises(UsageError, match="the case has none"):
            editor(words[:1], [[]], [3])
    else:
        assert np.asarray(editor(words[:1], [[]], [3])[0]).shape == (SIDE, SIDE, 3)


@pytest.mark.parametrize("name", CALLS)
def test_each_entry_names_arguments_of_its_class(name: str) -> None:
    """Also of the classes that are too large for a test, or need torchvision (OmniGen)."""
    taken = inspect.signature(getattr(diffusers, name).__call__).parameters
    call = CALLS[name]
    assert {call.pictures, "prompt", "generator", "num_inference_steps", *call.fixed} <= taken.keys()
    assert call.cfg is None or call.cfg in taken


def test_guidance_reaches_the_pipeline() -> None:
    """Qwen's classes leave it out without a negative prompt."""
    pipeline = editors()["QwenImageEditPlusPipeline"]()
    sized = options_of("QwenImageEditPlusPipeline")
    drawn = [
        DiffusersEditor(pipeline, "", "tiny", steps=2, cfg=cfg, options=sized)(
            ["add a red circle"], [[picture("red")]], [0]
        )
        for cfg in (1.0, 20.0)
    ]
    assert not np.array_equal(drawn[0][0], drawn[1][0])


def test_pictures_have_placeholders_in_the_words_of_omnigen() -> None:
    class OmniGenPipeline:
        dtype = "float32"

        def set_progress_bar_config(self, **_: Any) -> None: ...

        def __call__(self, **given: Any) -> Any:
            self.given = given
            return ([picture("red")],)

    pipeline = OmniGenPipeline()
    DiffusersEditor(pipeline, "", "tiny")(["join them"], [[picture("red"), picture("blue")]], [0])
    assert pipeline.given["prompt"] == "<img><|image_1|></img> <img><|image_2|></img> join them"
    assert len(pipeline.given["input_images"]) == 2


def test_a_folder_is_loaded_and_a_wrong_one_refused(tmp_path: Path) -> None:
    instruct_pix2pix().save_pretrained(tmp_path / "tiny")
    editor = load_diffusers_editor(str(tmp_path / "tiny"), steps=1)
    assert np.asarray(editor(["add a circle"], [[picture("red")]], [0])[0]).shape == (SIDE, SIDE, 3)
    facts = editor.facts()
    assert (facts["name"], len(facts["weights"])) == ("tiny", 64)
    index = tmp_path / "tiny" / "model_index.json"
    index.write_text(index.read_text().replace("StableDiffusionInstructPix2PixPipeline", "StableDiffusionPipeline"))
    with pytest.raises(UsageError, match="is a StableDiffusionPipeline, and how that is called is not known"):
        load_diffusers_editor(str(tmp_path / "tiny"))
    index.write_text('{"_class_name": "FluxKontextPipeline"}')
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_diffusers_editor(str(tmp_path / "tiny"))
    with pytest.raises(MissingError, match="no model folder"):
        load_diffusers_editor(str(tmp_path / "none"))


def test_a_hub_name_is_downloaded_and_has_the_digest_of_its_folder(tmp_path: Path) -> None:
    with served(tmp_path / "repository") as hub:
        instruct_pix2pix().save_pretrained(hub.files)
        (hub.files / "code.py").write_text("raise SystemExit")
        with client_of(hub, tmp_path / "cache"):
            editor = load_diffusers_editor("owner/model", steps=1)
        facts = editor.facts()
        assert facts["name"] == "owner/model"
        assert facts["weights"] == load_diffusers_editor(str(hub.files)).facts()["weights"]
        assert "unet/diffusion_pytorch_model.safetensors" in hub.asked
        assert "code.py" not in hub.asked
