"""The built wheel, installed in fresh environments outside the checkout: bare, and with each extra alone.

Each environment begins as a copy, by hard links, of one with the wheel and its dependencies: torch is a gigabyte.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from support.fault_server import fault_server
from support.images_server import images_server

import tagmoe
from tagmoe.extras import APART, EXTRAS, install_line
from tagmoe.pipeline.packaged import FOLDER, example

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
TINY = (
    "train tagworld/quick --output-dir {folder}/run --set threads=1 --set validation_cases=1 "
    "--set base.steps=1 --set base.batch=2 --set base.unique_samples=2 "
    "--set unified.steps=1 --set unified.batch=2 --set unified.unique_samples=2"
)
EDIT = "edit {scene} -p 'make the star blue' -o {folder}/edited.png --steps 1 --force"
QUANTISED = (
    "from tagmoe.pipeline.memory.placing import load_pipeline; from tagmoe.pipeline.memory.plans import CPU_PLANS; "
    "from tagmoe.pipeline.packaged import packaged_folder; plans = [plan for plan in CPU_PLANS if plan.is_quantised]; "
    "assert len(plans) == 2; [load_pipeline(packaged_folder(), plan, 'cpu') for plan in plans]"
)
IMPORT = "data import tagworld {folder}/store --count 24 --seed 0"
COMMANDS = {
    "train": [f"{TINY} --set tensorboard=true"],
    "lora": [f"{EDIT} --lora {{folder}}/lora.safetensors"],
    "data": [
        IMPORT,
        "data validate {folder}/store --workers 1",
        "data invert {folder}/store",
        "data annotate {folder}/store",
        "data stats {folder}/store",
        "data encode {folder}/store --workers 1",
        "data export {folder}/store --format parquet --out {folder}/parquet",
        "data export {folder}/store --format webdataset --out {folder}/webdataset",
        "data export {folder}/store --format jsonl --out {folder}/jsonl",
        "data import parquet {folder}/parquet {folder}/again --licence MIT",
        f"{TINY} --set data.store={{folder}}/store",
        "data clean {folder}/store",
    ],
    "video": ["data video {folder}/clip.gif {folder}/pairs"],
    "ray": [IMPORT, "data annotate {folder}/store --engine ray --workers 1"],
    "eval": [
        "eval generate {folder}/bench --endpoint {images} --model tiny-editor --tasks recolour --out {folder}/served"
    ],
    "study": ["study analyze {folder}/study --simulated --draws 100 --out {folder}/rates"],
    "vlm": ["rewrite {scene} -p sunglasses --backend {url} --vlm-model tiny-vlm"],
    "reports": [
        "routing report {folder}/recording --out {folder}/report",
    ],
}
"""What each extra is for."""
PREPARED = "eval prepare tagworld --cases 1 --out {folder}/bench"
BEFORE = {
    "eval": [PREPARED],
    "reports": [
        f"{EDIT} --explain {{folder}}/edited.html",
        "routing record --cases 1 --tasks recolour,wear --controls 0 --seed 0 --steps 1 --out {folder}/recording",
    ],
    "study": [
        PREPARED,
        "eval generate {folder}/bench --editor target --out {folder}/target",
        "eval generate {folder}/bench --editor copy --out {folder}/copy",
        "study plan {folder}/target {folder}/copy --cases {folder}/bench --people 5 --ratings 2 --out {folder}/study",
        "study build {folder}/study --side 64",
        "study simulate {folder}/study --taste target=3 --taste copy=1",
    ],
}
"""What comes before the commands of an extra and needs none."""
SERVERS = {
    "serve": ("serve --port 0 --no-page", "/v1/models", "tagmoe-tagworld"),
    "page": ("serve --port 0 --page", "/", "gradio"),
    "study": ("study serve {folder}/study --port 0", "/", "study.js"),
}
"""Servers that an extra is for: a command, an address, and a word of what is there."""
CALLS = {"memory": QUANTISED, "fleet": "from tagmoe.serve.fleet import Fleet, app; app(Fleet())"}
"""Extras that are tried in Python. The plan of `memory` depends on the machine, and Ray Serve has its own command."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment, and a folder to work in that is no part of the checkout."""

    folder: Path
    work: Path

    def python(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run its Python, with nothing of the environment that this test runs in."""
        command = [str(self.folder / "bin" / "python"), *words]
        return subprocess.run(command, cwd=self.work, env=self.variables, capture_output=True, text=True)

    @property
    def variables(self) -> dict[str, str]:
        """Of its processes."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        return {**kept, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HOME": str(self.work)}

    def install(self, *requirements: str, but: Sequence[str] = ()) -> None:
        """Install in the versions that this project is tested with. but: packages of which any version will do."""
        lines = (ROOT / "constraints.txt").read_text().splitlines(keepends=True)
        held = self.work / "constraints.txt"
        held.write_text("".join(line for line in lines if line.partition("==")[0].lower() not in but))
        options = ["--quiet", "--disable-pip-version-check", "--constraint", str(held)]
        done = self.python("-m", "pip", "install", *options, *requirements)
        assert done.returncode == 0, done.stderr[-2000:]

    def tagmoe(self, command: str, **places: str) -> subprocess.CompletedProcess[str]:
        """Run one command line, with paths in place of the names in braces."""
        places = {"folder": str(self.work), "scene": str(example("scene")), **places}
        return self.python("-m", "tagmoe", *(word.format(**places) for word in shlex.split(command)))

    def serves(self, command: str, path: str, word: str) -> None:
        """Start a server, ask it, and end it by SIGTERM."""
        words = [part.format(folder=str(self.work)) for part in shlex.split(command)]
        with subprocess.Popen(
            [str(self.folder / "bin" / "python"), "-m", "tagmoe", *words],
            cwd=self.work,
            env=self.variables,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stderr is not None
            said = ""
            for line in process.stderr:
                said += line
                if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                    with urllib.request.urlopen(found[0] + path, timeout=60) as answer:
                        assert word in answer.read().decode()
                    break
            process.send_signal(signal.SIGTERM)
            said += process.stderr.read()
            assert process.wait(120) == 0, said[-2000:]

    def copy(self, folder: Path) -> Environment:
        """The same packages in another environment."""
        shutil.copytree(self.folder, folder / "venv", symlinks=True, copy_function=os.link)
        (folder / "work").mkdir()
        return Environment(folder / "venv", folder / "work")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, since a build leaves folders behind."""
    source = tmp_path_factory.mktemp("source")
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(source), str(source)]
    subprocess.run(command, check=True)
    (built,) = source.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """tagmoe without extras."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    (folder / "work").mkdir()
    environment = Environment(folder / "venv", folder / "work")
    environment.install("torch")
    environment.install(str(wheel))
    return environment


def lora_file(path: Path) -> None:
    """A LoRA for one layer of the packaged model."""
    config = json.loads((FOLDER / "transformer" / "config.json").read_text())
    width = config["num_attention_heads"] * config["attention_head_dim"]
    base = "transformer.transformer_blocks.0.attn.to_q"
    save_file({f"{base}.lora_A.weight": torch.zeros(2, width), f"{base}.lora_B.weight": torch.zeros(width, 2)}, path)


def succeed(environment: Environment, commands: Sequence[str], **places: str) -> None:
    for command in commands:
        done = environment.tagmoe(command, **places)
        assert done.returncode == 0, f"{command}: {done.stderr[-2000:]}"


def test_without_extras_the_package_works_from_anywhere(bare: Environment) -> None:
    script = subprocess.run([bare.folder / "bin" / "tagmoe", "-V"], cwd=bare.work, capture_output=True, text=True)
    assert (script.returncode, script.stdout) == (0, f"{tagmoe.__version__}\n")
    place = bare.python("-c", "from tagmoe.pipeline.packaged import example; print(example('scene'))").stdout.strip()
    assert place.startswith(str(bare.folder))
    succeed(
        bare,
        ["--help", "train --list", "info", "demo --cases 1 --steps 1 --out {folder}/demo", EDIT, TINY],
        scene=place,
    )
    assert (bare.work / "demo" / "report.html").is_file()
    assert (bare.work / "edited.png").is_file()
    assert (bare.work / "run" / "model" / "model_index.json").is_file()


def test_without_extras_each_command_names_its_install_line(bare: Environment) -> None:
    lora_file(bare.work / "lora.safetensors")
    succeed(bare, [*BEFORE["study"], *BEFORE["reports"]])
    first = {**{extra: command for extra, (command, _, _) in SERVERS.items()}, **{e: c[0] for e, c in COMMANDS.items()}}
    for extra, command in first.items():
        done = bare.tagmoe(command, url="http://127.0.0.1:9/v1", images="http://127.0.0.1:9/v1")
        assert done.returncode == 3, f"{command}: {done.stderr}"
        # Ray and videos work on a store of data, and the page is one of the server: these are asked for first.
        needs = {"ray": "data", "video": "data", "page": "serve"}
        assert install_line(needs.get(extra, extra)) in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_alone_is_enough_for_its_commands(bare: Environment, wheel: Path, tmp_path: Path, extra: str) -> None:
    environment = bare.copy(tmp_path)
    # What is apart cannot be installed in all versions of constraints.txt.
    environment.install(f"tagmoe[{extra}] @ {wheel.as_uri()}", but=["pillow"] if extra in APART else [])
    if extra in CALLS:
        done = environment.python("-c", CALLS[extra])
        assert done.returncode == 0, done.stderr[-2000:]
        return
    lora_file(environment.work / "lora.safetensors")
    pictures = [Image.new("RGB", (64, 64), (8 * number, 90, 40)) for number in range(20)]
    pictures[0].save(environment.work / "clip.gif", save_all=True, append_images=pictures[1:], duration=100)
    with fault_server() as server, images_server() as images:
        succeed(environment, [*BEFORE.get(extra, []), *COMMANDS.get(extra, [])], url=server.url, images=images.url)
    if extra in SERVERS:
        environment.serves(*SERVERS[extra])


def test_every_extra_is_tried() -> None:
    assert {*COMMANDS, *SERVERS, *CALLS} == {*EXTRAS}


def test_uninstalling_leaves_nothing(bare: Environment, tmp_path: Path) -> None:
    environment = bare.copy(tmp_path)
    succeed(environment, ["-V", "train --list"])
    done = environment.python("-m", "pip", "uninstall", "--yes", "--quiet", "tagmoe")
    assert done.returncode == 0, done.stderr
    assert [str(path) for path in environment.folder.rglob("*tagmoe*")] == []
