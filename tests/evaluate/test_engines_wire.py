"""Our client against the answers of SGLang-diffusion and vLLM-Omni, as their published source shapes them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.images_server import images_server

from tagmoe.errors import TagMoEError, UsageError
from tagmoe.evaluate.answers.server import ImagesServer
from tagmoe.pictures import png_of

FACTS = json.loads((Path(__file__).parent / "engines.json").read_text())
ENGINES = ("sglang", "vllm_omni")
PICTURE = Image.effect_noise((16, 16), 60).convert("RGB")
ASKED = {"response_format": "b64_json", "num_inference_steps": 4, "true_cfg_scale": 4.0, "size": "16x16"}
"""What `tagmoe eval generate --set` adds for them; `steps` and `cfg`, tagmoe's own names, they would ignore."""


def answer_of(facts: Any) -> bytes:
    return json.dumps(facts).replace("PICTURE", base64.b64encode(png_of(PICTURE)).decode()).encode()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("edits", [True, False])
def test_an_answer_is_read_and_no_field_is_ignored(engine: str, edits: bool) -> None:
    facts = FACTS[engine]
    with images_server() as server:
        server.models = [facts["model"]]
        server.faults["red"] = [answer_of(facts["answer"])]
        client = ImagesServer(server.url, facts["model"], fields=ASKED, attempts=1)
        client.check()
        (found,) = client(["make it red"], [[PICTURE] if edits else []], [7])
        (request,) = server.requests
    assert (np.asarray(found) == np.asarray(PICTURE)).all()
    sent = set(request) - {"path", "pictures"}
    assert sent <= set(facts["edit_fields" if edits else "generation_fields"])
    assert {"prompt", "model", "seed", *ASKED} <= sent
    assert request["path"].endswith("/images/edits" if edits else "/images/generations")


@pytest.mark.parametrize(
    ("engine", "number"), [(engine, number) for engine in ENGINES for number in range(len(FACTS[engine]["refusals"]))]
)
def test_a_refusal_is_said_in_the_engines_words_and_not_asked_again(engine: str, number: int) -> None:
    refusal = FACTS[engine]["refusals"][number]
    with images_server() as server:
        server.faults["red"] = [{"status": refusal["status"], "body": refusal["body"]}]
        client = ImagesServer(server.url, "m", attempts=5)
        with pytest.raises(TagMoEError, match=r"refused it \(status 4") as caught:
            client(["make it red"], [[PICTURE]], [7])
        assert len(server.requests) == 1
    body = refusal["body"]
    words = body["error"]["message"] if "error" in body else body["detail"]
    assert (words if isinstance(words, str) else words[0]["msg"])[:60] in str(caught.value)


def test_a_model_by_another_name_is_refused_before_any_case() -> None:
    with images_server() as server:
        server.models = [FACTS["vllm_omni"]["model"]]
        with pytest.raises(UsageError, match="has no model 'm'; it has exported"):
            ImagesServer(server.url, "m").check()


def test_sglang_gives_an_address_for_text_alone_and_the_error_names_the_field_that_helps() -> None:
    with images_server() as server:
        server.faults["star"] = [answer_of(FACTS["sglang"]["answer_of_a_generation_without_response_format"])]
        with pytest.raises(TagMoEError, match="--set response_format=b64_json"):
            ImagesServer(server.url, "m")(["a star"], [[]], [7])
