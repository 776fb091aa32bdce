"""tools/release_readme.py: on the package index every link and picture of the README has an address."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from support.tools import load_tool

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script() -> Any:
    return load_tool("release_readme")


def test_pages_pictures_and_what_stays(script: Any) -> None:
    text = "![a\nb](docs/a.png) [c](docs/c.md#d) [e](https://x.org/f) [g](#h) `[i](j)`"
    assert script.absolute(text, "https://host.example/o/n/", "v1") == (
        "![a\nb](https://host.example/o/n/raw/v1/docs/a.png) [c](https://host.example/o/n/blob/v1/docs/c.md#d) "
        "[e](https://x.org/f) [g](#h) `[i](https://host.example/o/n/blob/v1/j)`"
    )


def test_nothing_of_the_readme_stays_relative(script: Any) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    released = script.absolute(text, "https://host.example/o/n", "v1")
    targets = re.findall(r"\]\(([^)]+)\)", released)
    assert len(targets) == len(re.findall(r"\]\(([^)]+)\)", text)) > 10
    assert [target for target in targets if not target.startswith("https://")] == []
    for path in re.findall(r"https://host\.example/o/n/(?:raw|blob)/v1/([^)#]+)", released):
        assert (ROOT / path).is_file(), path
