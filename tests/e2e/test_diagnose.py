"""``release.diagnose``, ``status`` and ``diff`` at the command line, as text and as documents."""

from __future__ import annotations

import pytest

from tests.support.invoke_project import InvokeProject

pytestmark = pytest.mark.slow


def test_diagnose_names_the_next_command_until_the_service_is_healthy(scratch: InvokeProject) -> None:
    """No release, prepared, rehearsed, unhealthy, rolled back."""
    first = scratch.document("release.diagnose")
    assert (first["status"], first["verdict"], first["next"]) == ("healthy", None, [])
    assert [finding["key"] for finding in first["findings"]] == ["no-release", "nobody-asked"]
    assert "No release is ready. Prepare one: inv release.prepare" in scratch.run("release.status").stdout
    scratch.document("release.prepare", "--release-id", "v1")
    keys = [finding["key"] for finding in scratch.document("release.diagnose")["findings"]]
    assert keys == ["unproved", "nobody-asked"]
    shown = scratch.run("release.status").stdout
    prepared_at = scratch.document("release.status")["current"]["generatedAt"]
    assert f"READY  v1 (2.1), prepared {prepared_at}; gates: 1 passed" in shown
    assert "  never  " in shown and "inv release.drill --snapshot v1_snapshot_" in shown
    assert scratch.document("release.drill")["status"] == "passed"
    (snapshot,) = scratch.document("release.status")["snapshots"]
    shown = scratch.run("release.status").stdout
    assert snapshot["provedAt"] in shown and "inv release.drill" not in shown
    url = "http://127.0.0.1:9/health"
    unhealthy = scratch.document("release.diagnose", "--health-url", url, code=1)
    assert (unhealthy["verdict"], unhealthy["next"]) == (
        "unhealthy",
        ["inv release.rollback --plan", "inv release.rollback"],
    )
    reported = scratch.run("release.diagnose", "--health-url", url)
    assert reported.returncode == 1
    assert "type: inv release.rollback --plan" in reported.stdout and "Deploy the old code" in reported.stdout
    assert scratch.run("release.diagnose", "--health-url", "ftp://x").returncode == 2
    assert scratch.document("release.status")["current"]["releaseId"] == "v1"


def test_two_releases_are_compared(scratch: InvokeProject) -> None:
    """An unknown id is a usage error that lists the known ones."""
    scratch.document("release.prepare", "--release-id", "v1")
    (scratch.root / "state.txt").write_text("two")
    scratch.document("release.prepare", "--release-id", "v2")
    document = scratch.document("release.diff", "v1", "v2")
    assert document["status"] == "different"
    assert [(d["where"], d["what"], d["how"]) for d in document["differences"]] == [("state", "content", "changed")]
    assert scratch.document("release.diff", "v2", "v2")["status"] == "equal"
    done = scratch.run("release.diff", "v1", "v9")
    assert (done.returncode, done.stdout) == (2, "")
    assert "There is no release 'v9'. The latest releases are v1, v2" in done.stderr


@pytest.mark.slow
def test_watch_and_recover_refuse_where_they_cannot_work(scratch: InvokeProject) -> None:
    """A watch during an interrupted rollback; a start gate in a folder without a configuration."""
    scratch.configuration["release"]["health"]["url"] = "http://127.0.0.1:9/health"
    scratch.configuration["release"]["gates"] = {"count": {"command": "true"}}
    scratch.document("release.prepare", "--release-id", "v1")
    (scratch.root / "pipeline" / "rollback-journal.json").write_text("{}")
    document = scratch.document("release.watch", "--for", "10s", "--interval", "1s", code=1)
    assert "inv release.recover" in document["message"]
    del scratch.configuration["release"]["assets"]
    document = scratch.document("release.recover", code=2)
    assert str(scratch.root) in document["message"] and "release.assets is empty" in document["message"]


@pytest.mark.slow
def test_break_refuses_an_unknown_fault_and_a_missing_gateway(scratch: InvokeProject) -> None:
    """Both are usage errors."""
    assert "use one of mcp, queue, identity" in scratch.document("gateway.break", "everything", code=2)["message"]
    assert "inv gateway.start" in scratch.document("gateway.break", "mcp", code=1)["message"]
    assert scratch.run("--dry", "gateway.break", "mcp").stdout.startswith("Would break mcp of the gateway in ")
