"""The plugin by itself: what a copy holds, what a check finds, what the gate says."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import jsonl_queue
import pytest
from jsonl_queue import asset, gate

from release_tasks.plugins import AssetContext, AssetKind, PluginError, gate_context

KIND: AssetKind = asset


@pytest.fixture
def queue(tmp_path: Path) -> Path:
    """Return a queue of three records."""
    path = tmp_path / "queue.jsonl"
    for number in (1, 2, 3):
        jsonl_queue.append(path, number, "text")
    return path


@pytest.fixture
def writer(queue: Path) -> Iterator[None]:
    """Let a real process append to the queue."""
    command = [sys.executable, "-m", "jsonl_queue.writer", str(queue)]
    folder = Path(jsonl_queue.__file__).parents[1]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "writing\n"
        yield
        process.terminate()


@pytest.mark.slow
def test_copies_taken_while_a_writer_works_are_sound(queue: Path, tmp_path: Path, writer: None) -> None:
    """However often: every copy ends with a whole record."""
    for number in range(50):
        copy = tmp_path / f"copy-{number}"
        KIND.capture(queue, copy, AssetContext())
        assert KIND.check(copy, AssetContext()) == []


def test_equal_state_gives_equal_bytes_and_nothing_else_is_written(queue: Path, tmp_path: Path) -> None:
    """A copy is the queue, and the queue's folder is as before."""
    before = sorted(path.name for path in queue.parent.iterdir())
    reported: list[tuple[int, int]] = []
    context = AssetContext(report=lambda done, total: reported.append((done, total)))
    asset.capture(queue, tmp_path / "copy", context)
    assert (tmp_path / "copy").read_bytes() == queue.read_bytes()
    assert reported[-1] == (queue.stat().st_size, queue.stat().st_size)
    assert sorted(path.name for path in queue.parent.iterdir()) == sorted([*before, "copy"])


def test_writer_that_never_ends_is_waited_for_as_long_as_was_said(queue: Path, tmp_path: Path) -> None:
    """Then the capture fails, and says what to type."""
    with jsonl_queue.lock_path(queue).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(PluginError, match=r"held .* for 0.1 s. See who it is: fuser"):
            asset.capture(queue, tmp_path / "copy", AssetContext(options={"wait": 0.1}))


def test_cancelled_capture_ends_within_half_a_second(queue: Path, tmp_path: Path) -> None:
    """Also while it waits for a lock."""
    context = AssetContext()
    threading.Timer(0.1, context.cancelled.set).start()
    with jsonl_queue.lock_path(queue).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        began = time.monotonic()
        with pytest.raises(PluginError, match="given up"):
            asset.capture(queue, tmp_path / "copy", context)
    assert time.monotonic() - began < 0.6


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'{"number": 1, "text": ""}\n{"num', "line 2 is no record"),
        (b'{"number": 1}\n{"number": 3}\n', "line 2 holds record 3"),
        (b'{"number": 1}', "line 1 has no end"),
        (b"[]\n", "line 1 is no record"),
    ],
)
def test_check_finds_what_is_not_whole(tmp_path: Path, content: bytes, problem: str) -> None:
    """A torn end, a gap, something else altogether."""
    (tmp_path / "copy").write_bytes(content)
    assert asset.check(tmp_path / "copy", AssetContext()) == [problem]


@pytest.mark.parametrize(("most", "passed"), [(3, True), (2, False)])
def test_gate_counts(queue: Path, most: int, passed: bool) -> None:
    """As many as allowed pass, one more fails."""
    verdict = gate.check(gate_context(queue.parent, {"path": "queue.jsonl", "most": most}))
    assert (verdict.passed, verdict.detail) == (passed, f"queue.jsonl: 3 waiting, at most {most} may")
    assert verdict.diagnostics["next"] == f"wc -l {queue}"


def test_gate_says_what_is_wrong(tmp_path: Path) -> None:
    """A queue that is not there, and options that make no sense."""
    verdict = gate.check(gate_context(tmp_path, {"path": "none.jsonl"}))
    assert (verdict.passed, verdict.detail) == (False, "none.jsonl: cannot be read: No such file or directory")
    with pytest.raises(PluginError, match=r"release.gates.depth.with: expected path"):
        gate.check(gate_context(tmp_path, {"pth": "queue.jsonl"}, name="depth"))
