"""An output's name is taken before the work: nobody else's result is replaced, and no finished work is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from support.failing_disk import read_only, small_files

from tagmoe.errors import TagMoEError, UsageError
from tagmoe.files.claim import claim


def text(content: str, *, times: int = 1):
    return lambda place: place.write_text(content * times)


def test_a_result_takes_its_place(tmp_path: Path) -> None:
    taken = claim(tmp_path / "out.txt")
    assert not (tmp_path / "out.txt").exists(), "nothing is there before the result is"
    taken.write(text("new"))
    taken.release()
    assert [path.name for path in tmp_path.iterdir()] == ["out.txt"]
    assert (tmp_path / "out.txt").read_text() == "new"


def test_a_name_in_use_is_refused_until_it_is_given_up(tmp_path: Path) -> None:
    first = claim(tmp_path / "out.txt")
    with pytest.raises(UsageError, match="Another command is writing"):
        claim(tmp_path / "out.txt")
    claim(tmp_path / "other.txt").release()
    first.release()
    claim(tmp_path / "out.txt").release()


HOLD = """
import sys, time
from pathlib import Path
from tagmoe.files.claim import claim
claim(Path(sys.argv[1]))
print("taken", flush=True)
time.sleep(600)
"""


def test_a_killed_process_gives_its_name_up(tmp_path: Path) -> None:
    out = tmp_path / "out.txt"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(out)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(UsageError, match="Another command"):
            claim(out)
        process.send_signal(signal.SIGKILL)
    taken = claim(out)
    taken.write(text("new"))
    taken.release()
    assert [path.name for path in tmp_path.iterdir()] == ["out.txt"]


RACE = """
import sys, time
from pathlib import Path
from tagmoe.files.claim import claim
from tagmoe.errors import TagMoEError
while time.time() < float(sys.argv[2]): pass
try:
    taken = claim(Path(sys.argv[1]))
    time.sleep(0.3)
    taken.write(lambda place: place.write_text(sys.argv[3]))
except TagMoEError:
    sys.exit(7)
"""


def test_of_commands_that_start_at_once_one_wins(tmp_path: Path) -> None:
    out, start = tmp_path / "out.txt", str(time.time() + 1.5)
    commands = [
        subprocess.Popen([sys.executable, "-c", RACE, str(out), start, name]) for name in ("one", "two", "three")
    ]
    codes = [command.wait(30) for command in commands]
    assert sorted(codes) == [0, 7, 7]
    assert out.read_text() == ("one", "two", "three")[codes.index(0)]


@pytest.mark.parametrize("existed", [False, True])
def test_what_another_program_wrote_meanwhile_is_left_alone(tmp_path: Path, existed: bool) -> None:
    out = tmp_path / "out.txt"
    if existed:
        out.write_text("old")
    taken = claim(out)
    (tmp_path / "theirs").write_text("theirs")
    os.replace(tmp_path / "theirs", out)
    with pytest.raises(TagMoEError, match="written by another program meanwhile") as caught:
        taken.write(text("ours"))
    taken.release()
    assert out.read_text() == "theirs"
    kept = Path(str(caught.value).split("'")[-2])
    assert (kept.read_text(), kept.suffix) == ("ours", ".txt")


@pytest.mark.parametrize("dangling", [False, True])
def test_a_link_is_followed_and_stays_a_link(tmp_path: Path, dangling: bool) -> None:
    (tmp_path / "deep").mkdir()
    target, link = tmp_path / "deep" / "real.txt", tmp_path / "link.txt"
    if not dangling:
        target.write_text("old")
    link.symlink_to(target)
    taken = claim(link)
    taken.write(text("new"))
    taken.release()
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_names_and_places_are_probed_first(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="name that cannot be used"):
        claim(tmp_path / ("x" * 256))
    longest = claim(tmp_path / ("x" * 255))
    longest.write(text("new"))
    longest.release()
    assert [len(path.name) for path in tmp_path.iterdir()] == [255]
    with read_only(tmp_path), pytest.raises(TagMoEError, match="Nothing can be written in"):
        claim(tmp_path / "out.txt")
    with pytest.raises(TagMoEError, match=r"full \(.* MB needed"):
        claim(tmp_path / "out.txt", nbytes=2**60)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("folder", [False, True])
def test_when_the_disk_is_full_the_first_error_is_said_and_nothing_stays(tmp_path: Path, folder: bool) -> None:
    taken = claim(tmp_path / "out")

    def make(place: Path) -> None:
        (place / "page" if folder else place).write_text("x" * 5000)

    with small_files(1000), pytest.raises(TagMoEError, match="File too large") as caught:
        taken.write(make, folder=folder)
    taken.release()
    assert "the result is" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("folder", [False, True])
def test_a_place_that_went_away_costs_no_work(tmp_path: Path, folder: bool) -> None:
    place = tmp_path / "place"
    place.mkdir()
    taken = claim(place / "out.txt")

    def make(target: Path) -> None:
        (target / "page" if folder else target).write_text("the work")

    with read_only(place), pytest.raises(TagMoEError, match=r"Permission denied.*; the result is") as caught:
        taken.write(make, folder=folder)
    taken.release()
    kept = Path(str(caught.value).split("'")[-2])
    assert kept.is_relative_to(tempfile.gettempdir())
    assert (kept / "page" if folder else kept).read_text() == "the work"


def test_a_folder_replaces_the_one_that_was_there(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old")
    taken = claim(tmp_path / "out")
    with taken.fill() as folder:
        (folder / "new").write_text("new")
    taken.release()
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["out", "out/new"]


def test_a_block_that_fails_leaves_the_old_folder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    taken = claim(tmp_path / "out")

    def stop() -> None:
        with taken.fill() as folder:
            (folder / "new").write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    taken.release()
    assert [path.name for path in tmp_path.rglob("*")] == ["out"]


def test_a_name_that_is_refused_is_not_kept(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(TagMoEError, match="full"):
            claim(tmp_path / "out.txt", nbytes=2**60)
    claim(tmp_path / "out.txt").release()
    assert not list(tmp_path.iterdir())
