"""Secrets of the field through every task: nothing of them stands on disk or on a screen."""

from __future__ import annotations

import base64
import json
import os
import pty
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from release_tasks.core.printable import output_lines
from tests.support.health import Health
from tests.support.invoke_project import InvokeProject
from tests.support.secrets import LEAKS, pieces

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

INPUTS = {"invoke.yaml", "printed.txt", "printed.sh"}
VALUES = {
    "API_TOKEN": "Zq9w8e7r6t5y4u3i2o1p",
    "DATABASE_URL": "postgres://app:Vm2n3b4v5c6x7z8l@db:5432/x",
    "SESSION_COOKIE": "sid=Hk4j5h6g7f8d9s0a1q2w; Path=/",
    "STRIPE_KEY": "Tr6t7y8u9i0o1p2a3s4d",
}
KNOWN = ["Zq9w8e7r6t5y4u3i2o1p", "Vm2n3b4v5c6x7z8l", "Hk4j5h6g7f8d9s0a1q2w", "Tr6t7y8u9i0o1p2a3s4d"]
SECRETS = {leak.name: leak.secret for leak in LEAKS} | {value: value for value in KNOWN}
IN_ONE_LINE = [leak for leak in LEAKS if leak.text.isprintable()]


def encodings(value: str) -> list[str]:
    """Return a value as a program may print it."""
    data = value.encode()
    coded = [base64.b64encode(b"x" * size + data).decode() for size in range(3)]
    return [value, value.upper(), data.hex(), "".join(f"%{byte:02X}" for byte in data), quote(value), *coded]


@pytest.fixture
def project(scratch: InvokeProject, health: Health) -> Iterator[InvokeProject]:
    """Return a project whose commands, answers and configuration contain every secret of the corpus."""
    lines = [f"line {index}: {leak.text}" for index, leak in enumerate(LEAKS)]
    lines += [f"value {each}" for value in KNOWN for each in encodings(value)]
    (scratch.root / "printed.txt").write_text("\n".join(lines) + "\n")
    scratch.variables.update(VALUES, GITHUB_ACTIONS="true", GITHUB_STEP_SUMMARY=str(scratch.root / "summary.md"))
    comments = [f"# {leak.text}" for leak in IN_ONE_LINE]
    count = len(comments) // 8 + 1
    gates = {
        f"part{at}": {"command": "\n".join(["true", *comments[at : at + count]])}
        for at in range(0, len(comments), count)
    }
    health.body = {"ok": True, "data": {"status": "degraded", "checks": {leak.text: "failed" for leak in LEAKS}}}
    release = scratch.configuration["release"]
    (scratch.root / "summary.md").touch()  # as a runner does
    release["health"].update(url=health.url, deadline="1s")
    release["gates"] = {
        **gates,
        "prints": {"command": "cat printed.txt"},
        "prints-and-fails": {"command": "cat printed.txt >&2; exit 3", "advisory": True},
        "asks": {"http": f"{health.url}?access_token={KNOWN[0]}", "expect": {"text": "ready"}, "advisory": True},
    }
    release["restart"] = {
        "command": "\n".join(["cat printed.txt; exit 1", *comments]),
        "stop": "\n".join(["cat printed.txt; exit 1", *comments]),
        "settle": "100ms",
    }
    release["notices"] = {"pager": {"command": "cat >> received; cat printed.txt; exit 1"}}
    yield scratch


def found_on_disk(root: Path) -> list[tuple[str, str]]:
    """Return the files below ``root`` with a piece of a secret, and that piece."""
    found = []
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.name not in INPUTS and "__pycache__" not in path.parts:
            content = path.read_text(errors="replace")
            found += [(str(path.relative_to(root)), f"{name}: {piece}") for name, piece in in_text(content)]
    return found


def in_text(text: str) -> list[tuple[str, str]]:
    """Return each piece of a secret in ``text``, with the words before it."""
    pairs = [(name, piece) for name, secret in SECRETS.items() for piece in pieces(secret) if piece in text]
    return [(name, text[max(text.index(piece) - 80, 0) : text.index(piece) + 20]) for name, piece in pairs]


TASKS = [
    ["release.preflight", "--junit", "junit.xml"],
    ["release.preflight", "--json"],
    ["release.prepare", "--release-id", "v1"],
    ["release.status"],
    ["release.rollback", "--plan"],
    ["release.rollback", "--force"],
    ["release.rollback", "--force", "--json"],
    ["release.diagnose"],
    ["release.audit", "--json"],
    ["release.report", "--release-id", "v1"],
    ["release.watch", "--for", "1s", "--interval", "500ms"],
]


def test_nothing_of_a_secret_stands_anywhere(project: InvokeProject) -> None:
    """Not in a log, a manifest, the page, JUnit, the summary, a notification, the audit log or on the screen."""
    shown = ""
    for words in TASKS:
        if "release.rollback" in words:
            (project.root / "state.txt").write_text(f"changed before {words}")
        done = project.run(*words)
        assert "Traceback" not in done.stderr, done.stderr
        shown += done.stdout + done.stderr
    assert in_text(shown) == []
    assert found_on_disk(project.root) == []
    logs = list((project.root / "pipeline" / "logs").rglob("prints.log"))
    assert logs and all(
        f"line {index}: " in log.read_text(errors="replace") for log in logs for index in range(len(LEAKS))
    )
    restarts = list((project.root / "pipeline").rglob("restart.log"))
    assert restarts and all(
        f"line {index}: " in log.read_text(errors="replace") for log in restarts for index in range(len(LEAKS))
    )
    for name in ("junit.xml", "summary.md", "received"):
        assert (project.root / name).stat().st_size
    assert list(project.root.rglob("*.html"))


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_nothing_of_a_secret_stands_on_a_terminal(project: InvokeProject, columns: int) -> None:
    """The lines of a terminal are wrapped, and a wrapped secret is a secret too."""
    del project.variables["GITHUB_ACTIONS"]
    project.variables.update(TERM="xterm-256color", COLUMNS=str(columns))
    project.write()
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [*project.command, "release.preflight"], cwd=project.root, env=project.variables, stdin=slave, stdout=slave,
        stderr=slave,
    )  # fmt: skip
    os.close(slave)
    data = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # the last process has closed the terminal
            break
        if not part:
            break
        data += part
    os.close(master)
    process.wait(60)
    lines = "\n".join(output_lines(data))
    joined = "".join(line.strip(" \N{BOX DRAWINGS LIGHT VERTICAL}") for line in lines.split("\n"))
    assert in_text(lines) == [] and in_text(joined) == []
    assert "prints-and-fails" in lines


def test_version_that_is_a_secret_is_redacted(project: InvokeProject) -> None:
    """The version is in the manifest and in the id of the release."""
    texts = [leak for leak in IN_ONE_LINE if "'" not in leak.text][::60]
    for leak in texts:
        project.configuration["release"]["app"] = {"name": "theirs", "version": {"command": f"echo '{leak.text}'"}}
        project.configuration["release"]["gates"] = {"always": {"command": "true"}}
        project.configuration["release"]["notices"] = {}
        done = project.run("release.prepare")
        assert done.returncode == 0, done.stderr
        assert in_text(done.stdout + done.stderr) == []
    assert found_on_disk(project.root) == []


def test_secret_in_a_wrong_configuration_is_redacted(project: InvokeProject) -> None:
    """A message about a wrong value quotes it."""
    for place in ("retention", "root"):
        project.configuration["release"][place] = {"x": f"token={KNOWN[0]}"}
    done = project.run("release.status", "--json")
    assert done.returncode == 2
    assert in_text(done.stdout + done.stderr) == []
    assert json.loads(done.stdout)["exitCode"] == 2
