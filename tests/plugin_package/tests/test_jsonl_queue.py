"""Tests of the plugin alone: the content of a copy, the findings of a check, the verdict of the gate."""

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
    """Every one of 50 copies ends with a complete record."""
    for number in range(50):
        copy = tmp_path / f"copy-{number}"
        KIND.capture(queue, copy, AssetContext())
        assert KIND.check(copy, AssetContext()) == []


def test_equal_state_gives_equal_bytes_and_nothing_else_is_written(queue: Path, tmp_path: Path) -> None:
    """A copy equals the queue, and the capture adds nothing else to the folder."""
    before = sorted(path.name for path in queue.parent.iterdir())
    reported: list[tuple[int, int]] = []
    context = AssetContext(report=lambda done, total: reported.append((done, total)))
    asset.capture(queue, tmp_path / "copy", context)
    assert (tmp_path / "copy").read_bytes() == queue.read_bytes()
    assert reported[-1] == (queue.stat().st_size, queue.stat().st_size)
    assert sorted(path.name for path in queue.parent.iterdir()) == sorted([*before, "copy"])


def test_capture_waits_for_a_hanging_writer_as_long_as_configured(queue: Path, tmp_path: Path) -> None:
    """Then the capture fails and names the command to type."""
    with jsonl_queue.lock_path(queue).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(PluginError, match=r"held .* for 0.1 s. Find it with: fuser"):
            asset.capture(queue, tmp_path / "copy", AssetContext(options={"wait": 0.1}))


def test_cancelled_capture_ends_within_half_a_second(queue: Path, tmp_path: Path) -> None:
    """The capture checks for cancellation also while it waits for a lock."""
    context = AssetContext()
    threading.Timer(0.1, context.cancelled.set).start()
    with jsonl_queue.lock_path(queue).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        started = time.monotonic()
        with pytest.raises(PluginError, match="cancelled"):
            asset.capture(queue, tmp_path / "copy", context)
    assert time.monotonic() - started < 0.6


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'{"number": 1, "text": ""}\n{"num', "line 2 is not a record"),
        (b'{"number": 1}\n{"number": 3}\n', "line 2 contains record 3"),
        (b'{"number": 1}', "line 1 has no newline"),
        (b"[]\n", "line 1 is not a record"),
    ],
)
def test_check_finds_damaged_records(tmp_path: Path, content: bytes, problem: str) -> None:
    """An incomplete last record, a missing record, a line that is not a record."""
    (tmp_path / "copy").write_bytes(content)
    assert asset.check(tmp_path / "copy", AssetContext()) == [problem]


@pytest.mark.parametrize(("most", "passed"), [(3, True), (2, False)])
def test_gate_counts(queue: Path, most: int, passed: bool) -> None:
    """The allowed number of records passes, one more fails."""
    verdict = gate.check(gate_context(queue.parent, {"path": "queue.jsonl", "most": most}))
    assert (verdict.passed, verdict.detail) == (passed, f"queue.jsonl: 3 waiting, at most {most} allowed")
    assert verdict.diagnostics["next"] == f"wc -l {queue}"


def test_gate_reports_errors(tmp_path: Path) -> None:
    """A missing queue is a finding; invalid options raise PluginError."""
    verdict = gate.check(gate_context(tmp_path, {"path": "none.jsonl"}))
    assert (verdict.passed, verdict.detail) == (False, "none.jsonl: cannot be read: No such file or directory")
    with pytest.raises(PluginError, match=r"release.gates.depth.with: expected path"):
        gate.check(gate_context(tmp_path, {"pth": "queue.jsonl"}, name="depth"))
