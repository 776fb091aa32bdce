"""The crossed control: apply each instruction to each TagWorld picture, with the same noise.

Gates may follow the picture, the place or the timestep, and not the task. DiT-MoE (arXiv 2407.11633) found selection
insensitive to class. Only a table that combines each picture with each instruction can tell these apart.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tagmoe.errors import UsageError
from tagmoe.laboratory.routing.recorder import RoutingCase, tagworld_case
from tagmoe.world import TASKS, Face, Sample, Scene, render, sample
from tagmoe.world.dice import Dice
from tagmoe.world.edits import Edit
from tagmoe.world.sample import edit_mask

# Tasks whose instructions can apply to any picture. The last three need a person in it.
FREE_TASKS = ("background", "pattern", "style", "light", "viewpoint", "add", "wear", "hair", "expression")
INSTRUCTIONS = 2
_TRIES = 200_000


def tagworld_controls(pictures: int, seed: int) -> list[RoutingCase]:
    """The crossed cases: two instructions of each of nine tasks on each of `pictures` pictures.

    The first instruction of each task is repeated with other noise, which makes 27 cases a picture. All pictures are
    different and hold a person. Every instruction changes every picture.
    """
    chosen = _instructions(seed)
    scenes = _scenes(pictures, chosen, seed)
    crossed = [_crossed(scene, one, number) for number, scene in enumerate(scenes) for one in chosen]
    cases = [tagworld_case(case, seed, control=True) for case in crossed]
    return cases + [tagworld_case(c, seed + 1, control=True) for c in crossed[::INSTRUCTIONS]]


def edited(scene: Scene, instruction: Sample) -> Scene:
    """This scene after an instruction that was made for another one. Unchanged when nothing is left to do."""
    slots, after = instruction.slots, instruction.target_scene
    if instruction.task == "viewpoint":
        a, b, c, d = scene.cells
        return replace(scene, cells=(b, a, d, c))
    if instruction.task == "add":
        place = _added(instruction)
        return scene if scene.cells[place] is not None else scene.put((place, after.cells[place]))
    if instruction.task in ("wear", "hair", "expression"):
        if scene.face is None or after.face is None:
            return scene
        face, wanted = scene.cells[scene.face], after.cells[after.face]
        assert isinstance(face, Face)
        names = [name for name in ("glasses", "hat", "hair", "expression") if f"new.{name}" in slots]
        return scene.put((scene.face, replace(face, **{name: getattr(wanted, name) for name in names})))
    ground = replace(
        scene.background,
        colour=slots.get("background.colour", scene.background.colour),
        pattern=slots.get("background.pattern", scene.background.pattern),
    )
    style, light = slots.get("style", scene.style), slots.get("light", scene.light)
    return replace(scene, background=ground, style=style, light=light)


def _added(instruction: Sample) -> int:
    source = instruction.source_scene
    assert source is not None
    return next(i for i in range(4) if source.cells[i] != instruction.target_scene.cells[i])


def _instructions(seed: int) -> list[Sample]:
    """Different instructions by task. Those of `add` use one place, so that every picture can leave it free."""
    chosen: list[Sample] = []
    for number, task in enumerate(FREE_TASKS):
        of_task: list[Sample] = []
        for index in range(_TRIES):
            one = sample(seed, number + index * len(FREE_TASKS), split="test", task=task)
            new = all(one.instruction != other.instruction for other in of_task)
            if task == "add":
                new = new and one.slots.get("new.kind") != "person" and _added(one) == 0
            if task == "background":
                new = new and "background.pattern" not in one.slots
            if new:
                of_task.append(one)
            if len(of_task) == INSTRUCTIONS:
                break
        chosen += of_task
    return chosen


def _scenes(pictures: int, chosen: list[Sample], seed: int) -> list[Scene]:
    """Different flat daylight scenes that every instruction changes."""
    dice = Dice(np.random.Generator(np.random.PCG64([seed, 2, pictures])))
    scenes: list[Scene] = []
    for _ in range(_TRIES):
        if len(scenes) == pictures:
            return scenes
        scene = dice.scene("flat", things=(dice.face(),), extra=(1, 2))
        if scene.style != "flat" or scene.light != "day" or scene in scenes:
            continue
        if all(edited(scene, one) != scene for one in chosen):
            scenes.append(scene)
    raise UsageError(f"No {pictures} control pictures were found for seed {seed}; take fewer, or another seed.")


def _crossed(scene: Scene, instruction: Sample, number: int) -> Sample:
    target = edited(scene, instruction)
    return replace(
        instruction,
        sources=(render(scene),),
        target=render(target),
        tags=TASKS[instruction.task].tags(Edit(scene, target)),
        mask=edit_mask(scene, target),
        source_scene=scene,
        target_scene=target,
        held_out_combination=scene.has_held_out() or target.has_held_out(),
        index=number,
    )
