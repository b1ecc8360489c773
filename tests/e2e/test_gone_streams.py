"""A standard stream that is closed, full or unread changes no verdict and no exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.support.invoke_project import InvokeProject

pytestmark = pytest.mark.slow

REDIRECTIONS = [
    ">&-",
    "2>&-",
    ">&- 2>&-",
    "<&- >&- 2>&-",
    ">/dev/full",
    "2>/dev/full",
    ">/dev/full 2>&1",
    "| true",
    "2>&1 | true",
]
# An answer, a restore, a negative verdict, a refusal of the parser, one of the task, and Invoke's own output.
LINES = [
    ("release.status", 0),
    ("release.rollback --force", 0),
    ("gate.run fails", 1),
    ("release.rollback --snapshot=", 2),
    ("release.nonesuch", 2),
    ("gate.run nonesuch", 2),
    ("release.preflight release.status --json", 1),
    ("--list", 0),
    ("gate.run --help", 0),
]


@pytest.fixture
def program(scratch: InvokeProject) -> InvokeProject:
    """Return a project with a prepared release, a gate that fails, and ``release-tasks`` as its command."""
    scratch.configuration["release"]["gates"] = {"fails": {"command": "false"}}
    scratch.command = [sys.executable, "-m", "release_tasks"]
    scratch.configuration["release"]["gates"]["fails"] |= {"advisory": True}
    scratch.document("release.prepare", "--release-id", "v1")
    del scratch.configuration["release"]["gates"]["fails"]["advisory"]
    scratch.write()
    return scratch


def exit_code(project: InvokeProject, line: str, redirection: str) -> int:
    """Return the exit code of a line whose streams a shell redirects; nothing of it may be a traceback."""
    command = " ".join([*project.command, line])
    script = f"( {command}; echo $? > code ) {redirection}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=project.root, env=project.variables, capture_output=True, text=True, timeout=60
    )
    shown = done.stdout + done.stderr
    assert "Traceback" not in shown and "Exception ignored" not in shown, (line, redirection, shown)
    return int((project.root / "code").read_text())


@pytest.mark.timeout(600)
@pytest.mark.parametrize("redirection", REDIRECTIONS)
def test_a_stream_that_is_gone_changes_no_exit_code(program: InvokeProject, redirection: str) -> None:
    """Each kind of answer of ``release-tasks``; ALL_STREAMS=1 tries every line with every redirection."""
    lines = LINES if os.environ.get("ALL_STREAMS") else [LINES[1], LINES[REDIRECTIONS.index(redirection)]]
    for line, code in lines:
        assert exit_code(program, line, redirection) == code, (line, redirection)


@pytest.mark.parametrize("redirection", [">/dev/full", "2>/dev/full"])
def test_a_restore_under_inv_is_0_and_its_chain_goes_on(scratch: InvokeProject, redirection: str) -> None:
    """A task of the project that prints after it does not fail either."""
    (scratch.root / "tasks.py").write_text(
        "from invoke import task\nfrom release_tasks import ns\n\n"
        "@task\ndef report(ctx):\n    print('x' * 10000, flush=True)\n    open('reported', 'w').close()\n\n"
        "ns.add_task(report)\n"
    )
    scratch.document("release.prepare", "--release-id", "v1")
    (scratch.root / "state.txt").write_text("two")
    assert exit_code(scratch, "release.rollback report", redirection) == 0
    assert (scratch.root / "state.txt").read_text() == "one"
    assert (scratch.root / "reported").exists()
    assert exit_code(scratch, "release.rollback --snapshot=", redirection) == 2


@pytest.mark.parametrize("target", ["/dev/full", "missing/folder/file"])
def test_a_file_of_the_runner_that_cannot_be_written(scratch: InvokeProject, target: str) -> None:
    """GITHUB_OUTPUT and GITHUB_STEP_SUMMARY: a note on stderr, and the release is ready."""
    scratch.variables |= {"GITHUB_ACTIONS": "true", "GITHUB_OUTPUT": target, "GITHUB_STEP_SUMMARY": target}
    done = scratch.run("release.prepare", "--json")
    assert (done.returncode, json.loads(done.stdout)["status"]) == (0, "ready")
    assert "GITHUB_OUTPUT" in done.stderr
