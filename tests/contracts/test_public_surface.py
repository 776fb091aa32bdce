"""What users hold on to stays as it is: names, commands, exit codes, settings, recipes, stores, the packaged model.

The snapshot is public_surface.json. A change that is meant is made there too, by running this file:
`python tests/contracts/test_public_surface.py`, and the diff of the snapshot then shows it by name.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from enum import EnumType
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args, get_origin

import pytest
import typer

import tagmoe
from tagmoe import errors
from tagmoe.cli import app, run
from tagmoe.config import COMMON, RunConfig, load_config
from tagmoe.config.load import PLANS
from tagmoe.data.store.store import Store
from tagmoe.factory.plan import read_plan

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes"
MODEL = ROOT / "src/tagmoe/pipeline/tagworld"
SNAPSHOT = Path(__file__).with_name("public_surface.json")


def kind(annotation: Any) -> Any:
    """What a parameter takes: the values of a choice, else the name of its type."""
    for option in (annotation, *get_args(annotation)):
        if isinstance(option, EnumType):
            return [member.value for member in option]
        if get_origin(option) is Literal:
            return list(get_args(option))
    return str(annotation)


def parameters(command: Any) -> dict[str, Any]:
    """Every argument and option of a command: what it is called, what it takes, what it is by default."""
    return {
        " ".join(sorted([*parameter.opts, *parameter.secondary_opts])): {
            "takes": kind(parameter.type_descriptor.annotation),
            "least": parameter.min,
            "most": parameter.max,
            "default": str(parameter.default),
            "required": parameter.required,
            "many": parameter.multiple or parameter.nargs != 1,
        }
        for parameter in command.params
    }


def commands(command: Any, name: str = "tagmoe") -> dict[str, Any]:
    """Every command below this one, with its parameters."""
    found = {name: parameters(command)}
    for verb, below in sorted(getattr(command, "commands", {}).items()):
        found |= commands(below, f"{name} {verb}")
    return found


def exit_codes() -> dict[str, int]:
    """The error classes that users see, with the exit code of each."""
    found = {name: value for name, value in vars(errors).items() if isinstance(value, type)}
    return {name: value.exit_code for name, value in sorted(found.items()) if issubclass(value, errors.TagMoEError)}


def without_words(schema: Any) -> Any:
    """A JSON schema without its titles and descriptions."""
    if isinstance(schema, list):
        return [without_words(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {name: without_words(value) for name, value in schema.items() if name not in ("title", "description")}


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def settings_of(recipe: Path) -> str:
    """A digest of all settings of a recipe; of an arm, of its own file, as it is no whole recipe."""
    if (recipe.parent / COMMON).is_file():
        return digest(recipe.read_bytes())
    if recipe.parent.name == PLANS:
        return digest(json.dumps(read_plan(recipe).model_dump(mode="json"), sort_keys=True).encode())
    return digest(json.dumps(load_config(recipe).model_dump(mode="json"), sort_keys=True).encode())


def surface(store: Path) -> dict[str, Any]:
    """Everything that is held fixed, as plain data. store: a folder to make a store in."""
    schema = Store.create(store).schema
    return {
        "public names": sorted(tagmoe.__all__),
        "exit codes": exit_codes(),
        "commands": commands(typer.main.get_command(app)),
        "settings": without_words(RunConfig.model_json_schema()),
        "recipes": {str(path.relative_to(RECIPES)): settings_of(path) for path in sorted(RECIPES.rglob("*.yaml"))},
        "store": {field.name: str(field.type) for field in schema},
        "packaged model": {
            str(path.relative_to(MODEL)): digest(path.read_bytes())
            for path in sorted(MODEL.rglob("*"))
            if path.is_file() and path.name != "README.md"
        },
    }


def fields(value: Any, name: str = "") -> set[str]:
    """Dotted names of everything in a JSON value; all items of a list count as one."""
    if isinstance(value, dict):
        return {below for key, item in value.items() for below in {f"{name}.{key}", *fields(item, f"{name}.{key}")}}
    return {below for item in value for below in fields(item, f"{name}[]")} if isinstance(value, list) else set()


QUICK = {
    "info": "info",
    "info tags": "info tags",
    "info settings": "info settings",
    "info --memory": "info --memory",
    "edit": "edit {pictures}/scene.png -p 'make the star blue' -o {folder}/edited.png --seed 0",
    "generate": "generate -p 'a red heart at the top left on a sky blue background' -o {folder}/heart.png --seed 0",
    "refused": "edit {folder}/none.png -p sunglasses -o {folder}/none.png",
    "misused": "edit {pictures}/person.png -o {folder}/none.png",
    "missing": "edit {pictures}/person.png -p sunglasses -o {folder}/none.png -m {folder}/none",
}
PRINTING = QUICK | {
    "edit --explain": "edit {pictures}/person.png -p sunglasses --rewrite tagworld -o {folder}/worn.png --seed 0 "
    "--explain {folder}/worn.html",
    "rewrite": "rewrite {pictures}/person.png -p sunglasses",
    "demo": "demo --cases 1 --seed 1000 --out {folder}/demo",
    "data import": "data import tagworld {folder}/store --count 40 --seed 0",
    "data validate": "data validate {folder}/store",
    "data invert": "data invert {folder}/store",
    "data annotate": "data annotate {folder}/store",
    "data agree": "data agree {folder}/store --a tags --b rules --out {folder}/agreement",
    "data stats": "data stats {folder}/store",
    "data encode": "data encode {folder}/store --workers 1",
    "data export": "data export {folder}/store --format jsonl --out {folder}/exported",
    "data clean": "data clean {folder}/store",
    "routing record": "routing record --cases 1 --seed 0 --out {folder}/recording",
    "routing report": "routing report {folder}/recording --out {folder}/routing-report",
}
"""Commands by what they are called in the snapshot; those of QUICK take a second or two each."""


def printed(folder: Path, commands: Mapping[str, str]) -> dict[str, Any]:
    """What commands print with --json, parsed; of one that fails, its exit code."""
    places = {"folder": folder, "pictures": ROOT / "docs/images"}
    found: dict[str, Any] = {}
    for name, words in commands.items():
        out, err = StringIO(), StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = run([*shlex.split(words.format(**places)), "--json"])
        found[name] = json.loads(out.getvalue()) if code == 0 else f"exit code {code}"
    return found


def named(results: Mapping[str, Any]) -> dict[str, Any]:
    """The names of the fields that commands printed."""
    return {name: value if isinstance(value, str) else sorted(fields(value)) for name, value in results.items()}


def verdicts(results: Mapping[str, Any]) -> list[Any]:
    """Of each case of the demo its task and its judgement; another processor may round a pixel otherwise."""
    return [[case["task"], case["success"], round(case["unchanged"], 2)] for case in results["demo"]["cases"]]


def differences(old: Any, new: Any, name: str = "") -> list[str]:
    """The places where two JSON values differ, by name."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for key in sorted(old.keys() | new.keys())
            for line in differences(old.get(key, "nothing"), new.get(key, "nothing"), f"{name}/{key}")
        ]
    return [] if old == new else [f"{name}: {old} is now {new}"]


def test_names_commands_settings_and_formats_are_as_written_down(tmp_path: Path) -> None:
    held = json.loads(SNAPSHOT.read_text())
    assert len(held["commands"]) > 20
    now = json.loads(json.dumps(surface(tmp_path / "store")))
    assert differences({name: held[name] for name in now}, now) == []


@pytest.mark.usefixtures("models")
def test_quick_commands_print_the_fields_that_are_written_down(tmp_path: Path) -> None:
    held = json.loads(SNAPSHOT.read_text())["printed fields"]
    assert differences({name: held[name] for name in QUICK}, named(printed(tmp_path, QUICK))) == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_commands_print_the_fields_and_the_demo_its_verdicts(tmp_path: Path) -> None:
    held = json.loads(SNAPSHOT.read_text())
    results = printed(tmp_path, PRINTING)
    assert differences(held["printed fields"], named(results)) == []
    assert len(held["demo"]) == 25
    assert verdicts(results) == held["demo"]


def test_a_difference_is_found_by_name() -> None:
    assert differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "d": 2}}) == [
        "/a/c: 2 is now nothing",
        "/a/d: nothing is now 2",
    ]


if __name__ == "__main__":
    with TemporaryDirectory() as name:
        results = printed(Path(name), PRINTING)
        found = surface(Path(name) / "empty") | {"printed fields": named(results), "demo": verdicts(results)}
    SNAPSHOT.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
