"""Every document: links and pictures exist, pictures say what is seen, the site's pages are all there and it builds."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FILES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def links(path: Path) -> list[tuple[str, str, str]]:
    """The mark of a picture ("!" or ""), the words, and the target without its heading."""
    # what looks like a link in code is none
    text = re.sub(r"```.*?```|`[^`\n]*`", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [(mark, words, target.partition("#")[0]) for mark, words, target in LINK.findall(text)]


def test_links_and_pictures_exist() -> None:
    found = [(path, target) for path in FILES for _, _, target in links(path) if target and "://" not in target]
    assert len(found) > 40
    assert [(path.name, target) for path, target in found if not (path.parent / target).exists()] == []


def test_pictures_say_what_is_seen() -> None:
    """By hand in the pages that people write; the pages of results are written by tools/write_results.py."""
    written_by_hand = [path for path in FILES if path.parent.name != "results"]
    pictures = [(path, words) for path in written_by_hand for mark, words, _ in links(path) if mark]
    assert len(pictures) >= 3
    assert [(path.name, words) for path, words in pictures if len(words.split()) < 12] == []


def test_pages_of_the_site_link_to_no_file_outside_it() -> None:
    """Such a link works in a checkout and is broken on the site."""
    pages = [path for path in FILES if DOCS in path.parents]
    outside = [
        (path.name, target)
        for path in pages
        for _, _, target in links(path)
        if target and "://" not in target and DOCS not in (path.parent / target).resolve().parents
    ]
    assert outside == []


def test_every_page_is_in_the_navigation() -> None:
    def pages(entry: object) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        return [page for part in (entry.values() if isinstance(entry, dict) else entry) for page in pages(part)]  # type: ignore[attr-defined]

    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert sorted(pages(config["nav"])) == sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))


def test_lines_of_decisions_fit_a_screen() -> None:
    files = sorted((DOCS / "decisions").glob("*.md"))
    long = [(path.name, line) for path in files for line in path.read_text().splitlines() if len(line) > 120]
    assert len(files) >= 7
    assert long == []


def test_every_chapter_of_decisions_is_in_its_index() -> None:
    index = [target for _, _, target in links(DOCS / "decisions.md")]
    assert [path.name for path in (DOCS / "decisions").glob("*.md") if f"decisions/{path.name}" not in index] == []


def test_what_the_site_is_built_with_is_pinned() -> None:
    lines = [line for line in (DOCS / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w-]+==[\d.]+", line) for line in lines)
    assert {line.partition("==")[0] for line in lines} >= {"zensical", "mkdocstrings-python", "nbclient", "ipykernel"}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_docs_builds_the_site_and_fails_on_a_broken_link(tmp_path: Path) -> None:
    """In a copy whose environment is empty: make installs what the documents need, at the project's versions."""
    for name in ("Makefile", "mkdocs.yml", "constraints.txt", "pyproject.toml", "CONTRIBUTING.md", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("docs", "src"):
        shutil.copytree(ROOT / name, tmp_path / name)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / ".venv"], check=True)
    (tmp_path / ".venv" / ".ready").touch()
    done = subprocess.run(["make", "docs"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "No issues found" in done.stdout + done.stderr
    assert "load_packaged" in (tmp_path / "site" / "reference" / "index.html").read_text(encoding="utf-8")
    with (tmp_path / "docs" / "data.md").open("a") as page:
        page.write("\n[nowhere](nowhere.md)\n")
    broken = subprocess.run(["make", "docs"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert broken.returncode != 0
