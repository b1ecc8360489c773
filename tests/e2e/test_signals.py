"""Ctrl-C and SIGTERM to ``inv`` alone: it ends within two seconds, without processes or partial results."""

from __future__ import annotations

import signal
import time

import pytest

from tests.support.invoke_project import InvokeProject
from tests.support.processes import await_file, is_running


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("line", ["release.preflight", "release.prepare --json"])
@pytest.mark.slow
def test_a_signal_to_inv_alone_during_a_gate(
    scratch: InvokeProject, number: signal.Signals, code: int, line: str
) -> None:
    """The gate ignores SIGTERM and has a background child; both end, and no manifest is written."""
    scratch.configuration["release"]["gates"] = {
        "stubborn": {"command": "trap '' TERM; sleep 600 & echo $! $$ > pids; while :; do sleep 1; done"}
    }
    process = scratch.start(*line.split())
    pids = [int(word) for word in await_file(scratch.root / "pids").split()]
    process.send_signal(number)
    process.communicate(timeout=20)  # the gate itself would never end
    assert process.returncode == code
    deadline = time.monotonic() + 1
    while any(is_running(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(is_running(pid) for pid in pids)
    assert not (scratch.root / "pipeline" / "manifests").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.slow
def test_a_signal_during_the_health_check_after_a_restore(scratch: InvokeProject, number: signal.Signals) -> None:
    """The restore is complete, the lock is released, and the event says that health is unknown."""
    assert scratch.run("release.prepare", "--release-id", "v1").returncode == 0
    (scratch.root / "state.txt").write_text("two")
    scratch.configuration["release"]["health"].update(url="http://127.0.0.1:9/health", deadline="60s")
    process = scratch.start("release.rollback")
    assert process.stderr is not None
    for line in process.stderr:
        if "health" in line:
            break
    process.send_signal(number)
    process.communicate(timeout=10)
    assert process.returncode == 128 + number
    assert (scratch.root / "state.txt").read_text() == "one"
    status = scratch.document("release.status")
    assert (status["lock"], status["rollback"]["status"], status["rollback"]["restored"]) == (None, "failed", True)
    assert scratch.run("release.audit").returncode == 0
