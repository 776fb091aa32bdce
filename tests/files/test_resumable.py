"""A folder that is written survives kills, a full disk, other processes and other settings."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tagmoe.errors import CheckpointError, TagMoEError, UsageError
from tagmoe.files import resumable
from tagmoe.files.resumable import NOTE, ByteRange, Made, PlannedFile, partial_folder, write_folder

SIZE = 300_000


@pytest.fixture
def plan(tmp_path: Path) -> list[PlannedFile]:
    """Four files: copied bytes, made bytes, both in a folder, and a small text."""
    source = tmp_path / "source"
    source.write_bytes(os.urandom(SIZE))
    made = Made(SIZE, lambda: iter([b"a" * 100_000, b"b" * 200_000]))
    return [
        PlannedFile("one", (b"head 1", ByteRange(source, 10, SIZE - 10))),
        PlannedFile("two", (b"head 2", made)),
        PlannedFile("sub/three", (b"head 3", ByteRange(source, 0, 7), made, ByteRange(source, 7, 9))),
        PlannedFile("four.json", (b"{}\n",)),
    ]


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def fail_at(monkeypatch: pytest.MonkeyPatch, name: str, error: BaseException) -> None:
    """Raise in the middle of the file `name`, after some of its bytes are on the disk."""
    write = resumable._write_all

    def broken(output: int, data: bytes) -> None:
        write(output, data[: len(data) // 2])
        if os.readlink(f"/proc/self/fd/{output}").endswith(f"{name}.tmp"):
            raise error
        write(output, data[len(data) // 2 :])

    monkeypatch.setattr(resumable, "_write_all", broken)


def test_the_folder_is_what_was_planned(plan, tmp_path) -> None:
    calls: list[tuple[int, int]] = []
    written = write_folder(tmp_path / "out", plan, fingerprint={}, progress=lambda *call: calls.append(call))
    data = (tmp_path / "source").read_bytes()
    made = b"a" * 100_000 + b"b" * 200_000
    assert content(tmp_path / "out") == {
        "one": b"head 1" + data[10:],
        "two": b"head 2" + made,
        "sub/three": b"head 3" + data[:7] + made + data[7:16],
        "four.json": b"{}\n",
    }
    total = sum(file.nbytes for file in plan)
    assert (written.nbytes, written.nbytes_now, written.kept) == (total, total, ())
    assert calls[0] == (0, total)
    assert calls[-1] == (total, total)
    assert calls == sorted(calls)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]


@pytest.mark.parametrize("failure", [errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, None, "short"])
def test_where_the_kernel_cannot_copy_a_buffer_does(plan, tmp_path, monkeypatch, failure) -> None:
    write_folder(tmp_path / "kernel", plan, fingerprint={})
    real = os.copy_file_range

    def refuse(source: int, output: int, count: int, offset_src: int) -> int:
        if failure == "short":
            return real(source, output, min(count, 1000), offset_src=offset_src) if offset_src < 5000 else 0
        raise OSError(failure, "cannot")

    if failure is None:
        monkeypatch.delattr(os, "copy_file_range")
    else:
        monkeypatch.setattr(os, "copy_file_range", refuse)
    monkeypatch.setattr(resumable, "CHUNK", 7919)
    write_folder(tmp_path / "buffer", plan, fingerprint={})
    assert content(tmp_path / "buffer") == content(tmp_path / "kernel")


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left"), OSError(errno.EIO, "I/O"), KeyboardInterrupt()]
)
def test_a_failure_keeps_what_is_finished_and_the_next_call_goes_on(plan, tmp_path, monkeypatch, error) -> None:
    with monkeypatch.context() as patch:
        fail_at(patch, "three", error)
        with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else TagMoEError) as caught:
            write_folder(tmp_path / "out", plan, fingerprint={"a": 1})
    assert "\n" not in str(caught.value)
    partial = partial_folder(tmp_path / "out")
    assert sorted(content(partial)) == ["one", "two", NOTE]
    assert not (tmp_path / "out").exists()
    if getattr(error, "errno", None) == errno.ENOSPC:
        assert "is full: 0.3 MB more are needed; 2 of 4 files are finished and kept" in str(caught.value)
    before = {name: (partial / name).stat() for name in ("one", "two")}
    written = write_folder(tmp_path / "out", plan, fingerprint={"a": 1})
    assert written.kept == ("one", "two")
    assert written.nbytes_now == plan[2].nbytes + plan[3].nbytes
    for name, state in before.items():
        after = (tmp_path / "out" / name).stat()
        assert (after.st_ino, after.st_mtime_ns) == (state.st_ino, state.st_mtime_ns)
    write_folder(tmp_path / "whole", plan, fingerprint={})
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_a_failure_before_anything_is_finished_leaves_nothing(plan, tmp_path, monkeypatch) -> None:
    fail_at(monkeypatch, "one", OSError(errno.ENOSPC, "No space left"))
    with pytest.raises(TagMoEError, match="is full"):
        write_folder(tmp_path / "out", plan, fingerprint={})
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("spoil", ["size", "head", "fingerprint", "no note"])
def test_leftovers_that_are_not_of_this_plan_are_redone(plan, tmp_path, monkeypatch, spoil) -> None:
    with monkeypatch.context() as patch:
        fail_at(patch, "three", KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            write_folder(tmp_path / "out", plan, fingerprint={"a": 1})
    partial, said = partial_folder(tmp_path / "out"), []
    if spoil == "size":
        (partial / "one").write_bytes((partial / "one").read_bytes()[:-1])
    elif spoil == "head":
        (partial / "one").write_bytes(b"X" + (partial / "one").read_bytes()[1:])
    elif spoil == "no note":
        (partial / NOTE).write_text("")
    (partial / "stranger").write_text("of an earlier plan")
    written = write_folder(
        tmp_path / "out", plan, fingerprint={"a": 2 if spoil == "fingerprint" else 1}, log=said.append
    )
    assert written.kept == (("two",) if spoil in ("size", "head") else ())
    assert len(said) == (spoil in ("fingerprint", "no note"))
    write_folder(tmp_path / "whole", plan, fingerprint={})
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_a_source_that_breaks_takes_what_was_made_of_it_along(plan, tmp_path) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"x"
        raise CheckpointError("The source is broken.")

    with pytest.raises(CheckpointError, match="broken"):
        write_folder(tmp_path / "out", [plan[0], PlannedFile("bad", (Made(9, chunks),))], fingerprint={})
    short = PlannedFile("bad", (ByteRange(tmp_path / "source", SIZE - 5, 6),))
    with pytest.raises(CheckpointError, match=r"source.*shorter"):
        write_folder(tmp_path / "out", [plan[0], short], fingerprint={})
    gone = PlannedFile("bad", (ByteRange(tmp_path / "gone", 0, 6),))
    with pytest.raises(CheckpointError, match=r"gone.*cannot be read"):
        write_folder(tmp_path / "out", [plan[0], gone], fingerprint={})
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_the_disk_is_looked_at_before_anything_is_written(plan, tmp_path, monkeypatch) -> None:
    usage = type("Usage", (), {"free": 600_000})
    monkeypatch.setattr(resumable.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(TagMoEError, match=r"0\.6 MB free and 0\.9 MB are needed"):
        write_folder(tmp_path / "out", plan, fingerprint={})
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    usage.free = 1_000_000
    write_folder(tmp_path / "out", plan, fingerprint={})


def test_what_is_there_is_not_overwritten(plan, tmp_path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("old")
    with pytest.raises(UsageError, match="exists"):
        write_folder(tmp_path / "out", plan, fingerprint={})
    assert content(tmp_path / "out") == {"mine": b"old"}
    write_folder(tmp_path / "out", plan, fingerprint={}, replace=True)
    assert "mine" not in content(tmp_path / "out")
    with pytest.raises(UsageError, match="no folder"):
        write_folder(tmp_path / "nowhere" / "out", plan, fingerprint={})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]


def test_a_folder_in_the_way_is_left_alone(plan, tmp_path) -> None:
    partial = partial_folder(tmp_path / "out")
    partial.mkdir()
    (partial / "mine").write_text("old")
    with pytest.raises(TagMoEError, match="in the way"):
        write_folder(tmp_path / "out", plan, fingerprint={})
    assert content(partial) == {"mine": b"old"}


def test_a_second_process_is_refused_and_disturbs_nothing(plan, tmp_path) -> None:
    partial = partial_folder(tmp_path / "out")
    partial.mkdir()
    (partial / "one.tmp").write_text("half")
    with (partial / NOTE).open("w") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        with pytest.raises(TagMoEError, match="Another process is writing"):
            write_folder(tmp_path / "out", plan, fingerprint={})
        assert sorted(content(partial)) == ["one.tmp", NOTE]
    assert write_folder(tmp_path / "out", plan, fingerprint={}).kept == ()


SLOW = """
import sys, time
from pathlib import Path
from tagmoe.files.resumable import Made, PlannedFile, partial_folder, write_folder

target = Path(sys.argv[1])

def chunks():
    yield b"x" * 1000
    # the first file gets its name once it is on the disk, while this one is written
    while not (partial_folder(target) / "one").exists():
        time.sleep(0.01)
    print("in the middle", flush=True)
    time.sleep(60)

files = [PlannedFile("one", (b"1" * 1000,)), PlannedFile("two", (Made(2000, chunks),))]
write_folder(target, files, fingerprint={"a": 1})
"""


def test_a_disk_that_is_full_at_a_sync_leaves_nothing_half_written(tmp_path, monkeypatch) -> None:
    """Some file systems say so only then, and by then the next file is being written."""
    plan = [PlannedFile(name, (name.encode() * 1000,)) for name in ("one", "two", "three")]
    sync, failed = os.fsync, []

    def full(descriptor: int) -> None:
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith("two.tmp") and not failed:
            failed.append(descriptor)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(TagMoEError, match=r"0\.0 MB more are needed; 1 of 3 files are finished and kept"):
        write_folder(tmp_path / "out", plan, fingerprint={})
    assert sorted(content(partial_folder(tmp_path / "out"))) == ["one", NOTE]
    assert write_folder(tmp_path / "out", plan, fingerprint={}).kept == ("one",)


def test_a_kill_in_the_middle_leaves_finished_files_and_frees_the_lock(tmp_path) -> None:
    process = subprocess.Popen([sys.executable, "-c", SLOW, tmp_path / "out"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "in the middle\n"
    plan = [PlannedFile("one", (b"1" * 1000,)), PlannedFile("two", (b"2" * 2000,))]
    with pytest.raises(TagMoEError, match="Another process"):
        write_folder(tmp_path / "out", plan, fingerprint={"a": 1})
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    partial = partial_folder(tmp_path / "out")
    assert {"one", "two.tmp"} <= content(partial).keys()
    inode = (partial / "one").stat().st_ino
    started = time.monotonic()
    assert write_folder(tmp_path / "out", plan, fingerprint={"a": 1}).kept == ("one",)
    assert time.monotonic() - started < 10
    assert (tmp_path / "out" / "one").stat().st_ino == inode
    assert content(tmp_path / "out") == {"one": b"1" * 1000, "two": b"2" * 2000}
