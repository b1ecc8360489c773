"""The start gate in real ``inv`` processes, with a rollback that stops the service and starts it through the gate."""

from __future__ import annotations

import shlex

import pytest

from tests.support.invoke_project import InvokeProject
from tests.support.processes import await_true


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_service_waits_at_the_gate_and_is_started_through_it(scratch: InvokeProject) -> None:
    """Before the swap the gate ends with 75 and status names the stage; the restart command is the gate itself."""
    assert scratch.run("release.prepare", "--release-id", "v1").returncode == 0
    (scratch.root / "state.txt").write_text("two")
    scratch.configuration["release"]["restart"] = {
        "stop": "touch stopping; while [ ! -e go ]; do sleep 0.05; done",
        "command": shlex.join([*scratch.command, "release.recover", "--wait", "0s"]) + " && touch started",
        "settle": "30s",
    }
    plan = scratch.document("release.rollback", "--plan")
    assert any("touch stopping" in text for text in plan["diagnostics"])
    assert not (scratch.root / "stopping").exists()

    rollback = scratch.start("release.rollback", "--json")
    await_true((scratch.root / "stopping").exists, seconds=60)
    held = scratch.document("release.recover", "--wait", "0s", code=75)
    assert "has not finished its swap" in held["message"] and f"pid {rollback.pid}" in held["message"]
    assert scratch.document("release.status")["lock"]["stage"] == "before swap"
    assert (scratch.root / "state.txt").read_text() == "two"
    (scratch.root / "go").touch()
    out, err = rollback.communicate(timeout=60)
    assert rollback.returncode == 0, (out, err)
    assert (scratch.root / "started").exists()
    assert (scratch.root / "state.txt").read_text() == "one"
    assert scratch.document("release.recover")["status"] == "clean"
