"""Options of `tagmoe eval generate` that choose the editor, and how it is opened."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
import yaml

from tagmoe import __version__
from tagmoe.cli.models import check_model, load_model, model_name, plan_memory, quiet_libraries
from tagmoe.cli.options import Cfg, FixedSeed, MemoryChoice, Steps, Threads
from tagmoe.errors import UsageError
from tagmoe.weights.presets import RELEASE

if TYPE_CHECKING:
    from tagmoe.evaluate.answers.answer import Answers
    from tagmoe.evaluate.benchmarks.cases import Prepared

Kind = Literal["model", "anchor", "ready", "diffusers", "server", "function"]
ANCHOR_NAMES = ("copy", "target", "black", "shuffled")
"""Equal to `tagmoe.evaluate.answers.anchors.ANCHORS`; a test compares them. That module takes longer to import."""
DIFFUSERS = "diffusers:"
TAKEN_BY: dict[str, tuple[Kind, ...]] = {
    "model": ("model", "server"),
    "name": ("model", "ready", "diffusers", "server", "function"),
    "steps": ("model", "diffusers"),
    "cfg": ("model", "diffusers"),
    "settings": ("diffusers", "server"),
    "marks": ("model", "diffusers", "server", "function"),
    "mask": ("model", "diffusers", "server", "function"),
    "concurrency": ("server",),
    "timeout": ("server",),
    "memory": ("model",),
    "threads": ("model", "diffusers", "function"),
}
"""Which editors an option applies to; one that is given to another is refused, so that none is passed over."""


@dataclass(frozen=True)
class EditorOptions:
    """The editor of a command as plain data: each worker of an engine opens it for itself."""

    editor: Annotated[
        str,
        typer.Option(
            help="model; an anchor (copy, target, black, shuffled); diffusers:FOLDER or diffusers:HUB/NAME; or a "
            "Python function, package.module:function."
        ),
    ] = "model"
    outputs: Annotated[
        Path | None, typer.Option(help="Instead of an editor: a folder of ready outputs, by the ids of the cases.")
    ] = None
    endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Instead of an editor: an images server of OpenAI's protocol, as http://127.0.0.1:8000/v1. Its key is "
            "read from TAGMOE_VLM_KEY, else OPENAI_API_KEY.",
        ),
    ] = None
    name: Annotated[str | None, typer.Option(help="Name in tables; by default the model's or the folder's.")] = None
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            "-m",
            help="Folder of a pipeline or of a training run, or hub name; by default the packaged model. With "
            "--endpoint its name on the server.",
        ),
    ] = None
    steps: Steps = None
    cfg: Cfg = None
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="A further argument of a diffusers pipeline, or field of a server's requests (null leaves it out); "
            "may be repeated.",
        ),
    ] = None
    seed: FixedSeed = 0
    batch: Annotated[
        int | None,
        typer.Option(min=1, max=4096, help="Cases that are edited at once; by default 32, and 1 where a call is one."),
    ] = None
    concurrency: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Requests to a server at the same time; by default 8.")
    ] = None
    timeout: Annotated[
        float | None, typer.Option(min=0.1, max=86_400, help="Seconds to wait for a server's answer; by default 600.")
    ] = None
    marks: Annotated[
        Literal["words", "keep"], typer.Option(help="Marks such as <REF_1> in instructions: as words, or kept.")
    ] = "words"
    mask: Annotated[
        Literal["leave-out", "reference"], typer.Option(help="Masks: not given, or given as a further reference.")
    ] = "leave-out"
    memory: MemoryChoice = "auto"
    threads: Threads = None

    @property
    def kind(self) -> Kind:
        """What gives the outputs. Raises UsageError for options that contradict each other."""
        places = [name for name in ("outputs", "endpoint") if getattr(self, name) is not None]
        if len(places) > 1 or (places and self.editor != "model"):
            other = "--outputs and --endpoint are both given" if len(places) > 1 else None
            raise UsageError(f"{other or f'--editor is {self.editor} and --{places[0]} is given'}; give one of them.")
        if places:
            return "ready" if places == ["outputs"] else "server"
        if self.editor == "model":
            return "model"
        if self.editor in ANCHOR_NAMES:
            return "anchor"
        if self.editor.startswith(DIFFUSERS):
            return "diffusers"
        if re.fullmatch(r"[^\W\d]\w*(\.\w+)*:[^\W\d]\w*(\.\w+)*", self.editor):
            return "function"
        raise UsageError(
            f"There is no editor {self.editor!r}; give model, {', '.join(ANCHOR_NAMES)}, diffusers:FOLDER or a Python "
            "function as package.module:function."
        )

    def check(self) -> None:
        """Raises UsageError for options that cannot go together."""
        kind = self.kind
        defaults = {field.name: field.default for field in fields(self)}
        for option, kinds in TAKEN_BY.items():
            if getattr(self, option) != defaults[option] and kind not in kinds:
                named = "set" if option == "settings" else option
                what = f"the anchor {self.editor!r}" if kind == "anchor" else _CALLED[kind]
                raise UsageError(f"--{named} does not apply to {what}; leave it out.")
        if kind == "server" and self.model is None:
            raise UsageError("The model on the server is not named; give its name with --model.")
        self.further()

    def further(self) -> dict[str, Any]:
        """The arguments of --set. Raises UsageError for one that is no NAME=VALUE."""
        found: dict[str, Any] = {}
        for text in self.settings or ():
            name, equals, value = text.partition("=")
            try:
                parsed = yaml.safe_load(value)
            except yaml.YAMLError:
                equals = ""
            if not equals or not name.strip().isidentifier() or name.strip() in found:
                raise UsageError(f"--set is {text!r}; give each argument once, as NAME=VALUE.")
            found[name.strip()] = parsed
        return found

    @property
    def calls(self) -> tuple[int, int]:
        """(cases of one call, calls at the same time)."""
        one_each = self.kind in ("diffusers", "server")
        return self.batch or (1 if one_each else 32), (self.concurrency or 8) if self.kind == "server" else 1

    def versions(self) -> dict[str, str]:
        """What outputs depend on; torch and the like only where they were used: they take seconds to import."""
        if self.kind in ("model", "diffusers"):
            from tagmoe.train.recipe import versions

            # What is installed may be another version than the code that runs.
            return {**versions(), "tagmoe": __version__}
        extra = {"openai": version("openai")} if self.kind == "server" else {}
        return {"tagmoe": __version__, "pillow": version("pillow"), "numpy": version("numpy"), **extra}

    def open(self, prepared: Prepared) -> Answers:
        """What gives the outputs. Raises the errors of each kind for what is not there."""
        from tagmoe.evaluate.answers.anchors import AnchorAnswers
        from tagmoe.evaluate.answers.answer import AskedEditor, Asking
        from tagmoe.evaluate.answers.ready import ReadyFolder

        kind = self.kind
        if kind == "anchor":
            return AnchorAnswers(self.editor, prepared, self.seed)
        if kind == "ready":
            assert self.outputs is not None
            return ReadyFolder(self.outputs, self.name)
        editor, facts = self.open_editor()
        return AskedEditor(editor, prepared, facts, Asking(marks=self.marks, mask=self.mask))

    def open_editor(self) -> tuple[Any, dict[str, Any]]:
        """An editor that is asked, and what is known of it: name, digest of the weights, settings.

        Raises UsageError for an anchor or a folder of ready outputs, which know the cases of a benchmark alone.
        """
        openers = {
            "model": self._model, "diffusers": self._diffusers, "server": self._server, "function": self._function,
        }  # fmt: skip
        if self.kind not in openers:
            raise UsageError(f"{self.editor!r} answers the cases of a benchmark alone; name an editor.")
        return openers[self.kind]()

    def _model(self) -> Any:
        """A pipeline of tagmoe."""
        pipeline = load_model(self.model, threads=self.threads, plan=plan_memory(self.model, self.memory))
        from tagmoe.pipeline.editor import pipeline_editor

        return pipeline_editor(pipeline, steps=self.steps, cfg=self.cfg), self._model_facts()

    def _model_facts(self) -> dict[str, Any]:
        """What the pictures of a pipeline depend on. No model is loaded."""
        from tagmoe.evaluate.answers.weights import digest_of_weights

        folder = check_model(self.model)
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        return {
            "name": model_name(self.model) if self.name is None else self.name,
            "weights": digest_of_weights(folder),
            "settings": {
                "steps": index.get("default_steps", RELEASE.steps) if self.steps is None else self.steps,
                "cfg": index.get("default_cfg", RELEASE.cfg) if self.cfg is None else self.cfg,
            },
        }

    def editor_facts(self) -> dict[str, Any]:
        """What is known of an editor that another process is to open. A pipeline is not loaded for it."""
        if self.kind == "model":
            return self._model_facts()
        if self.kind == "diffusers":
            place = self.editor.removeprefix(DIFFUSERS)
            settings = {"steps": self.steps, "cfg": self.cfg, **self.further()}
            return {"name": self.name or place.rstrip("/").split("/")[-1], "weights": None, "settings": settings}
        return self.open_editor()[1]

    def _diffusers(self) -> Any:
        from tagmoe.evaluate.answers.diffusers_editor import load_diffusers_editor

        quiet_libraries()
        self._limit_threads()
        editor = load_diffusers_editor(
            self.editor.removeprefix(DIFFUSERS),
            name=self.name,
            steps=self.steps,
            cfg=self.cfg,
            options=self.further(),
        )
        return editor, editor.facts()

    def _server(self) -> Any:
        from tagmoe.evaluate.answers.server import ImagesServer
        from tagmoe.vlm.servers import server_key

        assert self.endpoint is not None
        server = ImagesServer(
            self.endpoint, str(self.model), key=server_key(), fields=self.further(), timeout=self.timeout or 600.0
        )
        server.check()
        return server, {**server.facts(), **({} if self.name is None else {"name": self.name})}

    def _function(self) -> Any:
        from tagmoe.evaluate.answers.function import load_function

        self._limit_threads()
        editor, facts = load_function(self.editor)
        return editor, {**facts, **({} if self.name is None else {"name": self.name})}

    def _limit_threads(self) -> None:
        if self.threads is not None:
            import torch

            torch.set_num_threads(self.threads)


_CALLED: dict[Kind, str] = {
    "model": "a model",
    "anchor": "an anchor",
    "ready": "a folder of ready outputs",
    "diffusers": "a pipeline of diffusers",
    "server": "a server",
    "function": "a Python function",
}
