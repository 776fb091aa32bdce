"""Any edit pipeline of diffusers as an editor: one table says how each class is called.

The pictures, the guidance and the words for them have another name in nearly every class. What is not in the table can
be had as a function of the user's own (`tagmoe.evaluate.answers.function`): so a class that answers with a film
(ChronoEdit), or one that wants the instruction as JSON which a model of its own writes (BriaFiboEdit).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from tagmoe.editor import Picture
from tagmoe.errors import CheckpointError, UsageError
from tagmoe.evaluate.answers.weights import digest_of_weights
from tagmoe.files.hub import local_folder
from tagmoe.files.json_files import read_object
from tagmoe.sentences import counted, reason_of

INDEX = "model_index.json"


@dataclass(frozen=True)
class Call:
    """How a class is called. pictures: the argument for them, and how many it takes; `most` None: any number.

    as_list: one picture goes as a list, too. cfg: the argument for the guidance scale; None where there is none.
    fixed: what it is always given. placeholder: what stands for picture number {} in the words, before them.
    """

    pictures: str = "image"
    least: int = 1
    most: int | None = 1
    as_list: bool = False
    cfg: str | None = "guidance_scale"
    fixed: Mapping[str, Any] = field(default_factory=dict)
    placeholder: str = ""


_NEGATIVE = {"negative_prompt": " "}
"""Without one these classes leave true classifier-free guidance out."""
_ANY_NUMBER = Call(least=0, most=None, as_list=True)
CALLS: dict[str, Call] = {
    "QwenImageEditPipeline": Call(cfg="true_cfg_scale", fixed=_NEGATIVE),
    "QwenImageEditPlusPipeline": Call(most=None, as_list=True, cfg="true_cfg_scale", fixed=_NEGATIVE),
    "QwenImage21Pipeline": Call(least=0, most=None, as_list=True, cfg="true_cfg_scale", fixed=_NEGATIVE),
    "FluxKontextPipeline": Call(least=0),
    "Flux2Pipeline": _ANY_NUMBER,
    "Flux2KleinPipeline": _ANY_NUMBER,
    "Flux2KleinKVPipeline": Call(least=0, most=None, as_list=True, cfg=None),
    "LongCatImageEditPipeline": Call(),
    "GlmImagePipeline": _ANY_NUMBER,
    "ZImageOmniPipeline": _ANY_NUMBER,
    "BriaFibo2Pipeline": _ANY_NUMBER,
    "JoyImageEditPipeline": Call(),
    "JoyImageEditPlusPipeline": Call("images", most=None, as_list=True),
    "Kandinsky5I2IPipeline": Call(),
    "DreamLitePipeline": Call(least=0),
    "DreamLiteMobilePipeline": Call(least=0, cfg=None),
    "StableDiffusionInstructPix2PixPipeline": Call(),
    "StableDiffusionXLInstructPix2PixPipeline": Call(),
    "OmniGenPipeline": Call(
        "input_images", least=0, most=None, as_list=True, placeholder="<img><|image_{}|></img> "
    ),
}  # fmt: skip


class DiffusersEditor:
    """A pipeline of diffusers, one request a call. steps, cfg: by default the class's own. options: further arguments.

    The noise comes from a generator of the CPU, so that a seed gives the same on every device.
    """

    def __init__(
        self,
        pipeline: Any,
        weights: str,
        name: str,
        *,
        steps: int | None = None,
        cfg: float | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Raises UsageError for a class that is not in the table, and for a guidance scale where there is none."""
        self._pipeline, self._class = pipeline, type(pipeline).__name__
        self._call = call_of(self._class)
        if cfg is not None and self._call.cfg is None:
            raise UsageError(f"{self._class} has no guidance scale; leave --cfg out.")
        given = {"num_inference_steps": steps, **({self._call.cfg: cfg} if self._call.cfg else {})}
        self._options = {**{name: value for name, value in given.items() if value is not None}, **(options or {})}
        self._about = {"name": name, "weights": weights}
        pipeline.set_progress_bar_config(disable=True)

    def facts(self) -> dict[str, Any]:
        """Name, class, weights and settings; what is not named is the default of this version of diffusers."""
        from diffusers import __version__

        settings = {**self._options, "dtype": str(self._pipeline.dtype).removeprefix("torch.")}
        return {**self._about, "class": self._class, "diffusers": __version__, "settings": settings}

    def __call__(
        self, instructions: Sequence[str], images: Sequence[Sequence[Image.Image]], seeds: Sequence[int]
    ) -> Sequence[Picture]:
        """One picture a request, of the size that the pipeline chooses. Raises UsageError for a number of pictures that
        it does not take."""
        return [self._edit(*request) for request in zip(instructions, images, seeds, strict=True)]

    def _edit(self, instruction: str, pictures: Sequence[Image.Image], seed: int) -> Picture:
        import torch

        call, given = self._call, len(pictures)
        if given < call.least or (call.most is not None and given > call.most):
            takes = "at least one picture" if call.most is None else counted(call.most, "picture")
            raise UsageError(f"{self._class} takes {takes}, and the case has {given or 'none'}.")
        words = "".join(call.placeholder.format(number) for number in range(1, given + 1)) + instruction
        shown: Any = None if not pictures else list(pictures) if call.as_list else pictures[0]
        generator = torch.Generator("cpu").manual_seed(seed)
        arguments = {**call.fixed, **self._options, call.pictures: shown, "prompt": words, "generator": generator}
        with torch.inference_mode():
            # The first field of the output, which most classes call images and Kandinsky image.
            output: Picture = self._pipeline(**arguments)[0][0]
        return output


def call_of(name: str) -> Call:
    """The entry of a class. Raises UsageError where there is none."""
    if name not in CALLS:
        raise UsageError(
            f"The pipeline is a {name}, and how that is called is not known; give one of {', '.join(CALLS)}, or a "
            "Python function (--editor package.module:function)."
        )
    return CALLS[name]


def load_diffusers_editor(
    source: str,
    *,
    name: str | None = None,
    steps: int | None = None,
    cfg: float | None = None,
    options: Mapping[str, Any] | None = None,
) -> DiffusersEditor:
    """The pipeline in a folder, or of a hub repository, which is downloaded; bf16 on a GPU, else fp32 on the CPU.

    Raises MissingError for no folder, UsageError for a class that is not in the table, CheckpointError for a folder
    that cannot be loaded.
    """
    folder = local_folder(source)
    # The class is looked at first: to find out after gigabytes were read would be late.
    call_of(str(read_object(folder / INDEX).get("_class_name")))
    import torch
    from diffusers import DiffusionPipeline

    has_gpu = torch.cuda.is_available()
    try:
        pipeline = DiffusionPipeline.from_pretrained(folder, dtype=torch.bfloat16 if has_gpu else torch.float32)
    except Exception as error:
        raise CheckpointError(f"The pipeline in {source!r} cannot be loaded ({reason_of(error)}).") from error
    if has_gpu:
        pipeline.to("cuda")
    named = (Path(source).resolve().name if Path(source).is_dir() else source) if name is None else name
    return DiffusersEditor(pipeline, digest_of_weights(folder), named, steps=steps, cfg=cfg, options=options)
