"""Draw results with a loaded model: call the pipeline, write the picture, and say in it how it was made."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tagmoe import __version__
from tagmoe.cli.batch import STREAM, Asked, Job
from tagmoe.cli.metadata import HOLDING, SOFTWARE, has_place, read_facts, recorded
from tagmoe.cli.models import model_name
from tagmoe.cli.output import FORMATS, log, write_image
from tagmoe.cli.rewriting import AUTO, drawn_facts, logged, unasked
from tagmoe.cli.sources import Source
from tagmoe.errors import ImageError
from tagmoe.sentences import counted

if TYPE_CHECKING:
    from tagmoe.cli.explain import Page
    from tagmoe.cli.rewriting import Rewriter
    from tagmoe.model.lora import LoraReport
    from tagmoe.pipeline.memory.plans import MemoryPlan
    from tagmoe.pipeline.pipeline import TagMoEPipeline, TagMoEPipelineOutput
    from tagmoe.rewrite.rewriter import Rewriting
    from tagmoe.weights.presets import Preset

LOSSY = ("JPEG", "WEBP")


@dataclass
class Studio:
    """A loaded model, and what all results of a command share.

    size: (width, height) that was asked for. on_step: called after each denoising step. single: the command makes one
    result only, so that messages need not name it.
    """

    asked: Asked
    prompt: str
    pipeline: TagMoEPipeline
    plan: MemoryPlan
    reports: Sequence[LoraReport]
    steps: int
    cfg: float
    size: tuple[int, int] | None
    preset: Preset | None
    mask: Source | None
    rewriter: Rewriter | None
    page: Page | None
    single: bool
    on_step: Callable[[], None] = lambda: None
    _said: set[str] = field(default_factory=set)
    _rewritten: dict[Job, tuple[str, Rewriting | None]] = field(default_factory=dict)

    def draw(self, job: Job, sources: Sequence[Source], seed: int, file: Path) -> dict[str, Any]:
        """Draw and write one result; its facts for --json. A job's prompt is rewritten once, for its first seed."""
        size = self._size(sources)
        self._say_what_is_far(sources, size)
        started = time.perf_counter()
        output = self._call(job, sources, size, seed)
        seconds = time.perf_counter() - started
        prompt, rewriting = self._rewritten.get(job, (self.prompt, None))
        facts = self._facts(prompt, seed)
        told = facts | ({} if rewriting is None else drawn_facts(rewriting))
        image = output.images[0]
        self._write(image, file, told | self._record(sources, size, file))
        name = "" if self.single else f"{file}: "
        log(f"{name}{image.width}x{image.height}, seed {seed}, {counted(self.steps, 'step')}, {seconds:.1f} s")
        images = [source.image for source in sources]
        explained = {} if self.page is None else self.page.write(self.pipeline, output, images, told)
        return {
            "output": str(file),
            **{name: value for name, value in facts.items() if not name.startswith("lora")},
            "width": image.width,
            "height": image.height,
            "seconds": round(seconds, 3),
            "memory_plan": self.plan.name,
            **({} if self.mask is None else {"mask": str(self.mask.path)}),
            **explained,
            **({} if rewriting is None else {"rewriting": rewriting.as_json()}),
            **({"lora": [report.as_json() for report in self.reports]} if self.reports else {}),
        }

    def is_made(self, file: Path, sources: Sequence[Source], seed: int) -> bool:
        """Whether a file is the result that would be drawn, by what it says of itself."""
        try:
            found = read_facts(file)
        except ImageError:
            return False
        size = self._size(sources)
        wanted = self._facts(self.prompt, seed) | self._record(sources, size, file)
        if ("raw_prompt" in found) != self._rewrites():
            return False
        # Other words of the same rewriter are no other request.
        found["prompt"] = found.get("raw_prompt", found.get("prompt", ""))
        known = {*wanted, "negative_prompt", "preset", "lora", "lora_scale", "mask"}
        return all(found.get(name) == (str(wanted[name]) if name in wanted else None) for name in known)

    def _rewrites(self) -> bool:
        """Whether the rewriter is asked: that of "auto" leaves a prompt of the grammar alone."""
        from tagmoe.world.rules import is_instruction

        auto = self.asked.options.rewrite == AUTO
        return self.rewriter is not None and not (auto and is_instruction(self.prompt))

    def _call(self, job: Job, sources: Sequence[Source], size: tuple[int, int], seed: int) -> TagMoEPipelineOutput:
        rewriter = None if job in self._rewritten or not self._rewrites() else self.rewriter
        rewrite = None
        if rewriter is not None:
            auto = self.asked.options.rewrite == AUTO
            rewrite = unasked(rewriter, self.pipeline.check_prompt) if auto else logged(rewriter)

        def count(*_: Any) -> dict[str, Any]:
            self.on_step()
            return {}

        answer = self.pipeline(
            self._rewritten[job][0] if job in self._rewritten else self.prompt,
            [source.image for source in sources] or None,
            self.asked.options.negative_prompt,
            mask_image=None if self.mask is None else self.mask.image,
            height=size[1],
            width=size[0],
            num_inference_steps=self.steps,
            true_cfg_scale=self.cfg,
            seed=seed,
            return_routing=None if self.page is None else "full",
            rewriter=rewrite,
            callback_on_step_end=count,
            callback_on_step_end_tensor_inputs=(),
        )
        output = cast("TagMoEPipelineOutput", answer)
        if rewriter is not None:
            self._rewritten[job] = output.prompts[0], rewriter.results[-1]
        return output

    def _size(self, sources: Sequence[Source]) -> tuple[int, int]:
        """(width, height) that the model draws."""
        from tagmoe.pipeline.arguments import check_output_size

        first, size = (sources[0].image if sources else None), self.size
        if size is None and self.preset is not None:
            size = self.preset.size(None if first is None else first.size, self.pipeline.largest_side)
        width, height = size or (None, None)
        default = self.pipeline.config.default_size
        return check_output_size(height, width, first, default, self.pipeline.size_multiple)[::-1]

    def _say_what_is_far(self, sources: Sequence[Source], size: tuple[int, int]) -> None:
        from tagmoe.pipeline.training_range import far_from_training

        sentences = []
        if self.size is None and self.preset is None and self.pipeline.config.known_words is not None:
            # A model of a small world draws one size only. Tell the user that a large picture is resized.
            side = self.pipeline.config.default_size
            sentences = [
                f"{str(path)!r} is {image.width}x{image.height}; this model works at the area of {side}x{side}, so the "
                "picture is resized."
                for path, image, _ in sources
                if image.size != (side, side)
            ]
        far = far_from_training(self.pipeline.config, [source.image for source in sources], size)
        for sentence in [*sentences, *([far] if far else [])]:
            if sentence not in self._said:
                self._said.add(sentence)
                log(sentence)

    def _facts(self, prompt: str, seed: int) -> dict[str, Any]:
        options = self.asked.options
        lora = ", ".join(Path(name).name for name in options.lora or ())
        scales = ", ".join(f"{scale:g}" for scale in options.lora_scale or ())
        return {
            "prompt": prompt,
            **({} if options.negative_prompt is None else {"negative_prompt": options.negative_prompt}),
            "seed": seed,
            "steps": self.steps,
            "cfg": self.cfg,
            "model": model_name(options.model),
            **({} if options.preset is None else {"preset": options.preset}),
            **({"lora": lora} if lora else {}),
            **({"lora_scale": scales} if scales else {}),
        }

    def _record(self, sources: Sequence[Source], size: tuple[int, int], file: Path) -> dict[str, str]:
        """What it takes to draw the result again, beside its facts."""
        folder = Path() if file == STREAM else file.parent
        places = [recorded(source.path, source.digest, folder) for source in sources]
        mask = {} if self.mask is None else {"mask": json.dumps(recorded(self.mask.path, self.mask.digest, folder))}
        return {"size": f"{size[0]}x{size[1]}", "sources": json.dumps(places), **mask, "version": __version__}

    def _write(self, image: Any, file: Path, told: Mapping[str, Any]) -> None:
        kind = "PNG" if file == STREAM else FORMATS[file.suffix.lower()]
        hides = self.asked.options.no_metadata
        if self.mask is not None and kind in LOSSY and kind not in self._said:
            self._said.add(kind)
            log(
                f"{kind} compresses with loss, so pixels outside the mask are nearly those of the source; PNG is exact."
            )
        facts = {} if hides else {"Software": SOFTWARE, **{name: str(value) for name, value in told.items()}}
        if facts and not has_place(kind, facts):
            what = "that much metadata" if kind in HOLDING else "metadata"
            sentence = f"{kind} has no place for {what}, so the picture does not say how it was made; PNG would."
            if sentence not in self._said:
                self._said.add(sentence)
                log(sentence)
        write_image(image, file, facts)
