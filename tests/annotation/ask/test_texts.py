"""What a model is shown when it is asked for a wording."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from support.made_pictures import picture, scene, sound
from support.scripted_vlm import ScriptedVLM, reply

from tagmoe.annotation.ask.texts import InverseAsker, RewriteAsker
from tagmoe.vlm.question import Attachment


@pytest.mark.parametrize(("asker", "shown"), [(RewriteAsker, 1), (InverseAsker, 2)])
def test_masks_and_rejected_pictures_are_not_shown(asker, shown):
    record = sound(1)
    others = [replace(picture(scene(seed=seed)), role=role) for seed, role in ((7, "rejected"), (8, "mask"))]
    vlm = ScriptedVLM(reply("Add a red balloon to the clear sky.", certain=False))
    asyncio.run(asker(vlm).annotate(replace(record, images=(*record.images, *others))))
    assert vlm.questions, "a pair of preferences is an edit like others"
    assert sum(isinstance(part, Attachment) for part in vlm.questions[0].parts) == shown
