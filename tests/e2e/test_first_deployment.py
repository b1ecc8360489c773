"""``inv release.prepare --first`` at the command line."""

from __future__ import annotations

import pytest

from tests.support.invoke_project import InvokeProject

pytestmark = pytest.mark.slow


def test_the_printed_way_out_is_the_one_that_works(scratch: InvokeProject) -> None:
    """Blocked, ``--first`` ready, deployed, back to nothing, and refused after an ordinary release."""
    state = scratch.root / "state.txt"
    state.unlink()
    scratch.configuration["release"]["health"].update(url="http://127.0.0.1:9/health", deadline="200ms")
    scratch.configuration["release"]["gates"]["api"] = {"http": "health"}
    blocked = scratch.run("release.prepare")
    assert blocked.returncode == 1 and "inv release.prepare --first" in blocked.stdout
    first = scratch.run("release.preflight", "release.prepare", "--first", "--release-id", "v1")
    assert first.returncode == 0, (first.stdout, first.stderr)
    assert "not asked: the service is not deployed yet (--first)" in first.stdout and "absent" in first.stdout
    state.write_text("one")
    again = scratch.document("release.prepare", "--first", code=2)
    assert "v1 was prepared with it already" in again["message"]
    planned = scratch.document("release.rollback", "--plan")
    assert planned["changes"][0]["action"] == "remove" and "before the first deployment" in planned["diagnostics"][0]
    back = scratch.document("release.rollback")
    assert back["status"] == "restored" and back["removedAssets"] == ["state"] and not state.exists()
    assert scratch.document("release.rollback")["status"] == "noop"
    assert scratch.document("release.diagnose")["findings"][0]["key"] == "not-deployed"
    document = scratch.document("release.prepare", "--first", "--release-id", "v2")
    assert document["firstDeployment"] is True
    assert scratch.document("release.status")["current"]["releaseId"] == "v2"


def test_the_stock_executor_does_not_lose_the_flag(scratch: InvokeProject) -> None:
    """Gates that ran without ``--first`` do not count for a prepare with it."""
    del scratch.configuration["tasks"]
    done = scratch.run("release.prepare", "--first")
    assert done.returncode == 2 and "--first True" in done.stderr and "executor_class" in done.stderr
