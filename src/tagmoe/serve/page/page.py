"""The web page: its controls, what they do, and its application beside the API.

Every picture is drawn by `tagmoe.serve.page.drawing`, so the page has no limits and no queue of its own.
"""

from __future__ import annotations

import html
import logging
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from PIL.Image import Image, Resampling
from starlette.requests import Request
from starlette.responses import Response

from tagmoe.extras import require
from tagmoe.pictures import load_image
from tagmoe.sentences import counted, reason_of
from tagmoe.serve.api import Server
from tagmoe.serve.guard import Page
from tagmoe.serve.page import files
from tagmoe.serve.page.drawing import Finished, Progress, draw
from tagmoe.serve.page.history import MOST, Entry, entry_of, from_browser, to_browser
from tagmoe.serve.refusal import Refusal

require("page", purpose="The page")
# Gradio reads these when it is imported: it would look for its newest version, and keep files that others can read.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["GRADIO_TEMP_DIR"] = str(files.folder())

import gradio as gr  # noqa: E402
from gradio import processing_utils  # noqa: E402

from tagmoe.serve.page.look import css, theme  # noqa: E402

logger = logging.getLogger(__name__)
STOP_KEY = """() => { document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") document.querySelector("#stop")?.click();
}); }"""
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
SMALL = 128
"""Pixels of a side up to which a picture is shown with its pixels as squares."""


async def _fetches_nothing(url: str, *given: Any, **more: Any) -> Any:
    raise gr.Error("This server fetches no URL.")


# A client may write a URL where the page expects an uploaded file, and Gradio would fetch it.
processing_utils.async_ssrf_protected_download = _fetches_nothing
processing_utils.async_ssrf_protected_get = _fetches_nothing


def make_page(server: Server) -> Page:
    """The page of a server, as an application of its own."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    blocks = Controls(server).blocks

    @app.post("/gradio_api/upload")
    async def upload(request: Request) -> Response:
        return await files.upload(server, request, blocks.upload_file_set)

    @app.get("/gradio_api/upload_progress")
    async def progress() -> Response:
        # The whole body is read before it is kept, so there is nothing between.
        return Response('data: {"msg": "done"}\n\n', media_type="text/event-stream")

    gr.mount_gradio_app(
        app, blocks, "/", footer_links=[], run_history=False, show_error=False, ssr_mode=False, mcp_server=False,
        pwa=False, enable_monitoring=False, max_file_size=server.limits.body, theme=theme(), css=css(), js=STOP_KEY,
    )  # fmt: skip
    # Without it Gradio checks no path that a client writes in the place of an uploaded file. `launch` would set it.
    blocks.has_launched = True
    return Page(app, files.belongs)


class Controls:
    """The controls and what they do. One object serves all visitors; what is a visitor's own lies in the page."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.examples: Sequence[Any] = ()
        if server.painter.facts.is_world:
            from tagmoe.serve.page.scenes import examples

            self.examples = examples()
        with gr.Blocks(title="TAG-MoE", analytics_enabled=False, delete_cache=(600, 3600)) as self.blocks:
            self._head()
            with gr.Tabs() as self.tabs:
                with gr.Tab("Draw", id="draw"), gr.Row(equal_height=False):
                    with gr.Column(scale=5, min_width=300):
                        self._wishes()
                    with gr.Column(scale=6, min_width=300):
                        self._results()
                if server.painter.facts.has_mixtures:
                    with gr.Tab("Routing", id="routing"):
                        self.routing = gr.HTML(_no_routing(), elem_id="routing", js_on_load=None)
                else:
                    self.routing = gr.HTML(visible=False, js_on_load=None)
                if self.examples:
                    with gr.Tab("Examples", id="examples"):
                        self._examples()
            self.kept = gr.BrowserState([], storage_key="tagmoe-history", secret="tagmoe")
            self.shown = gr.State([], time_to_live=3600)
            self._connect()
        self.blocks.queue(default_concurrency_limit=None)

    def _head(self) -> None:
        name = html.escape(self._server.painter.name)
        world = (
            " This model was trained on TagWorld, small scenes with a small vocabulary: begin with one of the examples."
            if self.examples
            else ""
        )
        gr.HTML(
            f'<p class="eyebrow">{name}</p><h1>Say what should change</h1>'
            f"<p>Drop pictures, or none to draw from words alone.{world}</p>",
            elem_id="head",
            js_on_load=None,
        )

    def _wishes(self) -> None:
        facts, limits = self._server.painter.facts, self._server.limits
        self.pictures = gr.Gallery(
            label="Pictures", format="png", type="filepath", file_types=["image"], interactive=True, columns=3,
            height=230, object_fit="contain", fit_columns=False, sources=["upload", "clipboard"], buttons=[],
            elem_id="pictures", elem_classes=_classes(facts.side),
        )  # fmt: skip
        self.instruction = gr.Textbox(
            label="Instruction", lines=1, max_lines=6, elem_id="instruction", max_length=limits.prompt,
            placeholder=self.examples[0].instruction if self.examples else "make the car red",
        )  # fmt: skip
        with gr.Row():
            self.run = gr.Button("Draw", variant="primary", size="lg", elem_id="run")
            self.stop = gr.Button("Stop (Esc)", variant="stop", size="lg", visible=False, elem_id="stop")
        with gr.Accordion("Advanced", open=False, elem_id="advanced"):
            with gr.Row():
                self.seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=2**53, elem_id="seed")
                self.fresh = gr.Checkbox(True, label="A new seed each time", elem_id="fresh")
            self.size = gr.Textbox(
                "auto", label="Size", max_length=11, elem_id="size",
                info=f"auto, or WIDTHxHEIGHT in multiples of {facts.multiple}",
            )  # fmt: skip
            most = min(limits.steps, max(50, facts.steps))
            self.steps = gr.Slider(1, most, facts.steps, step=1, label="Steps", elem_id="steps")
            self.cfg = gr.Slider(0, 12, facts.cfg, step=0.5, label="Guidance (cfg)", info="off at 1 or below")
            self.negative = gr.Textbox(label="Negative prompt", info="what should not be there; needs guidance")
            self.number = gr.Slider(1, min(limits.n, 4), 1, step=1, label="Results", visible=limits.n > 1)
            self.lora = gr.Dropdown(
                list(self._server.painter.loras), multiselect=True, label="LoRAs",
                visible=bool(self._server.painter.loras),
            )  # fmt: skip
            self.explain = gr.Checkbox(
                facts.has_mixtures, label="Explain the routing", visible=facts.has_mixtures, elem_id="explain"
            )

    def _results(self) -> None:
        classes = _classes(self._server.painter.facts.side)
        self.status = gr.HTML(elem_id="status", js_on_load=None)
        self.empty = gr.HTML(
            '<div class="blank"><p>The result appears here, beside the picture it was made from.</p></div>',
            elem_id="empty", js_on_load=None,
        )  # fmt: skip
        self.slider = gr.ImageSlider(
            label="Before and after", format="png", interactive=False, visible=False, elem_id="slider",
            buttons=["download", "fullscreen"], elem_classes=classes, max_height=520,
        )  # fmt: skip
        self.picture = gr.Image(
            label="Result", format="png", interactive=False, visible=False, elem_id="picture",
            buttons=["download", "fullscreen"], elem_classes=classes, height=420,
        )  # fmt: skip
        self.rewritten = gr.Textbox(
            label="Rewritten instruction", interactive=False, visible=False, elem_id="rewritten", max_lines=6
        )
        self.facts = gr.HTML(elem_id="facts", js_on_load=None)
        self.onward = gr.Button("Edit this result", visible=False, size="sm", elem_id="onward")
        self.history = gr.Gallery(
            label="History", format="png", interactive=False, columns=6, height="auto", allow_preview=False,
            object_fit="contain", fit_columns=False, buttons=[], visible=False, elem_id="history", elem_classes=classes,
        )  # fmt: skip
        self.forget = gr.Button("Clear the history", visible=False, size="sm", elem_id="forget")

    def _examples(self) -> None:
        gr.HTML("<p>One scene of TagWorld for each task. Choose one to begin with it.</p>", js_on_load=None)
        self.gallery = gr.Gallery(
            [(example.shown, example.caption) for example in self.examples], label="Examples", format="png",
            interactive=False, columns=5, height="auto", allow_preview=False, object_fit="contain", fit_columns=False,
            buttons=[], elem_id="gallery", elem_classes=["pixels"],
        )  # fmt: skip

    def _connect(self) -> None:
        wishes = [
            self.pictures, self.instruction, self.size, self.steps, self.cfg, self.negative, self.seed, self.fresh,
            self.number, self.lora, self.explain, self.shown,
        ]  # fmt: skip
        self.result_parts = [
            self.status, self.empty, self.slider, self.picture, self.rewritten, self.facts, self.onward, self.routing
        ]  # fmt: skip
        self.history_parts = [self.shown, self.kept, self.history, self.forget]
        outputs = [*self.result_parts, *self.history_parts, self.run, self.stop, self.seed]
        events = [
            begin(self.drawn, wishes, outputs, concurrency_limit=None, trigger_mode="once", **PRIVATE)
            for begin in (self.run.click, self.instruction.submit)
        ]
        self.stop.click(self.stopped, None, [self.status, self.run, self.stop], cancels=events, **PRIVATE)
        self.history.select(
            self.chosen, [self.shown], [*self.result_parts, self.instruction, self.seed, self.fresh], **PRIVATE
        )
        self.forget.click(self.forgotten, None, self.history_parts, **PRIVATE)
        self.onward.click(self.continued, [self.shown], [self.pictures], **PRIVATE)
        self.blocks.load(self.loaded, [self.kept], [self.shown, self.history, self.forget], **PRIVATE)
        if self.examples:
            self.gallery.select(self.taken, None, [self.pictures, self.instruction, self.tabs], **PRIVATE)

    async def drawn(
        self,
        pictures: list[tuple[str, str | None]] | None,
        instruction: str | None,
        size: str | None,
        steps: int,
        cfg: float,
        negative: str | None,
        seed: float | None,
        fresh: bool,
        number: int,
        lora: list[str] | None,
        explain: bool,
        shown: list[Entry],
    ) -> AsyncIterator[dict[Any, Any]]:
        """Draw, and show how far it is. A field that nobody has touched may be None."""
        fields: dict[str, Any] = {
            "prompt": instruction or "",
            "size": (size or "").strip() or "auto",
            "steps": int(steps),
            "cfg": cfg,
            "negative_prompt": (negative or "").strip() or None,
            "seed": None if fresh or seed is None else int(seed),
            "n": int(number),
            "lora": list(lora or []) or None,
            "routing": explain,
        }
        yield {self.status: _progress(0, 0), self.run: gr.update(interactive=False), self.stop: gr.update(visible=True)}
        done = {self.run: gr.update(interactive=True), self.stop: gr.update(visible=False)}
        try:
            given = [Path(path).read_bytes() for path, _ in pictures or []]
            before = load_image(given[0]) if given else None
            async for event in draw(self._server, fields, given):
                if isinstance(event, Progress):
                    change = {self.status: _progress(event.done, event.steps)}
                    if event.preview is not None:
                        change |= self._pair(before, event.preview)
                    yield change
                else:
                    yield done | self._finished(event, before, shown)
        except Refusal as refusal:
            yield done | {self.status: _refused(str(refusal))}
        except OSError as error:
            yield done | {self.status: _refused(f"A picture is gone ({reason_of(error)}); drop it again.")}
        except Exception:
            logger.exception("A wish of the page could not be drawn.")
            yield done | {self.status: _refused("The server failed; its log says why.")}

    def _pair(self, before: Image | None, after: Image) -> dict[Any, Any]:
        """Show a picture, beside the one that it was made from."""
        pair = None if before is None else (before.resize(after.size, Resampling.LANCZOS), after)
        return {
            self.empty: gr.update(visible=False),
            self.slider: gr.update(value=pair, visible=pair is not None),
            self.picture: gr.update(value=after if pair is None else None, visible=pair is None),
        }

    def _finished(self, end: Finished, before: Image | None, shown: list[Entry]) -> dict[Any, Any]:
        scene = end.scene
        facts: dict[str, Any] = {
            "instruction": end.instruction,
            "prompt": scene.prompt,
            "steps": scene.steps,
            "cfg": scene.cfg,
            "size": f"{scene.size[0]}x{scene.size[1]}",
        }
        if scene.negative is not None:
            facts["negative"] = scene.negative
        if scene.lora:
            facts["lora"] = ", ".join(f"{name} {strength:g}" for name, strength in scene.lora)
        new = [entry_of(facts | {"seed": result.seed}, before, result.image) for result in end.results]
        entries = [*new, *shown][:MOST]
        first = end.results[0]
        said = f"{counted(end.results, 'picture')} in {end.seconds:.1f} s"
        change = self._shown(new[0]) | self._history(entries)
        change |= {self.status: f'<p role="status">{said}</p>', self.seed: first.seed}
        if first.routing is not None:
            change[self.routing] = _routing(first.routing)
        return change

    def _shown(self, entry: Entry) -> dict[Any, Any]:
        """A result, from what the history knows of it."""
        before = None if entry.before is None else load_image(entry.before)
        prompt = entry.facts.get("prompt")
        is_rewritten = prompt not in (None, entry.facts.get("instruction"))
        return self._pair(before, load_image(entry.after)) | {
            self.rewritten: gr.update(value=prompt, visible=is_rewritten),
            self.facts: _facts(entry.facts),
            self.onward: gr.update(visible=True),
        }

    def _history(self, entries: list[Entry]) -> dict[Any, Any]:
        return {
            self.shown: entries,
            self.kept: to_browser(entries),
            self.history: gr.update(
                value=[(load_image(entry.after), entry.caption) for entry in entries], visible=bool(entries)
            ),
            self.forget: gr.update(visible=bool(entries)),
        }

    def stopped(self) -> dict[Any, Any]:
        """Say that the drawing was stopped; Gradio cancels it."""
        return {
            self.status: '<p role="status">Stopped.</p>',
            self.run: gr.update(interactive=True),
            self.stop: gr.update(visible=False),
        }

    def chosen(self, shown: list[Entry], event: gr.SelectData) -> dict[Any, Any]:
        """Show a result of the history again, with what it was made by."""
        if not isinstance(event.index, int) or not 0 <= event.index < len(shown):
            return {}
        entry = shown[event.index]
        return self._shown(entry) | {
            self.status: '<p role="status">From the history.</p>',
            self.routing: _no_routing(),
            self.instruction: entry.facts["instruction"],
            self.seed: entry.facts.get("seed", 0),
            self.fresh: False,
        }

    def forgotten(self) -> dict[Any, Any]:
        """Forget what was drawn, here and in the browser."""
        return self._history([])

    def continued(self, shown: list[Entry]) -> Any:
        """Take the newest result as the picture to edit."""
        return [(load_image(shown[0].after), None)] if shown else gr.update()

    def loaded(self, kept: Any) -> dict[Any, Any]:
        """Show the history that the browser kept."""
        entries = []
        for entry in from_browser(kept):
            try:
                for data in (entry.before, entry.after):
                    if data is not None:
                        self._server.picture(data, "image", load_image)
            except Refusal:
                continue
            entries.append(entry)
        change = self._history(entries)
        del change[self.kept]
        return change

    def taken(self, event: gr.SelectData) -> dict[Any, Any]:
        """Begin with an example."""
        example = self.examples[event.index if isinstance(event.index, int) else 0]
        return {
            self.pictures: [(picture, None) for picture in example.pictures],
            self.instruction: example.instruction,
            self.tabs: gr.Tabs(selected="draw"),
        }


def _classes(side: int) -> list[str]:
    return ["pixels"] if side <= SMALL else []


def _progress(done: int, steps: int) -> str:
    said = f"Step {done} of {steps}" if steps else "Waiting for its turn"
    share = round(100 * done / steps) if steps else 0
    return (
        f'<p>{said}</p><div class="bar" role="progressbar" aria-label="Drawing" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{share}" aria-valuetext="{said}"><i style="width:{share}%"></i></div>'
    )


def _refused(sentence: str) -> str:
    return f'<div class="refused" role="alert">{html.escape(sentence)}</div>'


def _facts(facts: dict[str, Any]) -> str:
    names = ("seed", "steps", "cfg", "size", "negative", "lora")
    rows = (f"<div><dt>{name}</dt><dd>{html.escape(str(facts[name]))}</dd></div>" for name in names if name in facts)
    return f"<dl>{''.join(rows)}</dl>"


def _no_routing() -> str:
    return (
        "<p>Draw something with &ldquo;Explain the routing&rdquo; on. Then the experts' maps over the picture and the "
        "predicted tags appear here.</p>"
    )


def _routing(found: Any) -> str:
    """The page that explains a picture, in a frame that runs no script."""
    tags = found.get("predicted_tags")
    said = f"Predicted tags: {html.escape(', '.join(tags))}." if tags else "No tags are predicted."
    page = html.escape(found["explanation"])
    return f'<p>{said}</p><iframe sandbox="" title="Experts and tags of the last result" srcdoc="{page}"></iframe>'
