"""Real tasks on a pseudo-terminal: width, plain output, and a terminal that hangs up, which changes nothing."""

from __future__ import annotations

import os
import pty
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from rich.cells import cell_len

from tests.support.invoke_project import InvokeProject
from tests.support.terminal import Shown

pytestmark = pytest.mark.slow

RELEASE = "1.22.333-rc.4-of-a-name-that-is-long"
TASKS = [
    "gate.run count",
    "release.preflight",
    "release.prepare --release-id other",
    "release.prepare",
    "release.status",
    "release.verify",
    "release.audit",
    f"release.diff {RELEASE} no-such-release",
    f"release.diff {RELEASE} newer",
    "release.drill",
    "release.diagnose",
    "release.watch --for 1s --interval 200ms",
    "release.rollback --plan",
    "release.rollback --force --restart-command false",
    "release.rollback --snapshot nowhere",
    "release.recover",
    "release.status --limit soon",
    "pairing.list telegram",
    "pairing.approve telegram NOSUCHCODE",
]


@pytest.fixture
def healthy() -> Iterator[str]:
    """Return the URL of a healthy service."""

    class Healthy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"ok": true, "data": {"status": "ok"}}')

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Healthy)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/health"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def project(scratch: InvokeProject, healthy: str) -> Any:
    """Return a project of two releases with long names, a database and a gate that fails."""
    release = scratch.configuration["release"]
    release["health"]["url"] = healthy
    release["reliability"] = {"url": healthy.replace("health", "reliability")}
    release["assets"]["database"] = {"sqlite": "app.db"}
    with sqlite3.connect(scratch.root / "app.db") as database:
        database.execute("CREATE TABLE t(x)")
        database.executemany("INSERT INTO t VALUES (randomblob(4000))", [()] * 2000)
    database.close()
    assert scratch.run("release.prepare", "--release-id", RELEASE).returncode == 0
    (scratch.root / "state.txt").write_text("two")
    assert scratch.run("release.prepare", "--release-id", "newer").returncode == 0
    release["gates"]["fails"] = {"command": "echo 'a line of output of a gate ' $(seq 40); exit 3"}
    scratch.write()
    return scratch


def too_wide(line: str, columns: int) -> bool:
    """Return whether a line that could have been broken was not; a command and a word are never broken."""
    text = re.sub(r"inv [\w.]+( --[\w-]+( \w[\w.-]*)?)*", lambda found: found[0].replace(" ", "_"), line.strip())
    return cell_len(line) > columns and " " in text.rstrip(".:")


@pytest.mark.timeout(400)
@pytest.mark.parametrize("columns", [80, 60])
def test_every_answer_fits_the_terminal(
    project: InvokeProject, on_terminal: Callable[..., Shown], columns: int
) -> None:
    """No line is too wide, and only the answer is printed, for every verdict."""
    for words in TASKS:
        shown = on_terminal(project, words, columns)
        assert shown.end() in (0, 1, 2), words
        assert b"Traceback" not in shown.data, words
        assert [line for line in shown.lines() if too_wide(line, columns)] == [], words
        if b"\x1b[?25l" in shown.data:
            assert shown.data.rindex(b"\x1b[?25h") > shown.data.rindex(b"\x1b[?25l"), words


@pytest.mark.parametrize(
    "variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"CI": "true"}], ids=lambda wish: "=".join(*wish.items())
)
def test_no_escapes_where_they_are_disabled(
    project: InvokeProject, on_terminal: Callable[..., Shown], variables: dict[str, str]
) -> None:
    """Progress is printed in lines, and the answers have neither colours nor cursor movements; they still fit."""
    for words in ("release.preflight", "release.prepare --release-id third", "release.status", "release.verify"):
        shown = on_terminal(project, words, **variables)
        shown.end()
        assert b"\x1b" not in shown.data, words
        assert [line for line in shown.lines() if too_wide(line, 80)] == [], words
    assert b"> gate count\r\n" in on_terminal_data(on_terminal(project, "gate.run count", **variables))


def on_terminal_data(shown: Shown) -> bytes:
    """Return what it printed until its end."""
    shown.end()
    return shown.data


def test_characters_outside_of_the_encoding_are_replaced(
    project: InvokeProject, on_terminal: Callable[..., Shown]
) -> None:
    """Under the C locale and ASCII every printed byte is ASCII, whatever a gate prints; JSON escapes it."""
    project.configuration["release"]["gates"]["fails"] = {"command": "echo 'caf\u00e9 \u65e5\u672c \u2713'; exit 1"}
    project.write()
    for words in ("release.preflight", "gate.run fails", "release.status", "release.preflight --json"):
        shown = on_terminal(project, words, LC_ALL="C", PYTHONIOENCODING="ascii")
        assert shown.end() in (0, 1), shown.data
        assert b"Traceback" not in shown.data and shown.data.isascii(), words
    variables = {**project.variables, "LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    command = [*project.command, "release.preflight", "--json"]
    piped = subprocess.run(command, cwd=project.root, env=variables, capture_output=True, check=False, timeout=60)
    assert piped.returncode == 1 and piped.stdout.isascii()
    assert "caf\\u00e9" in piped.stdout.decode()


def test_a_pipe_gets_one_line_per_row_without_escapes(project: InvokeProject) -> None:
    """Ids and times are complete on their row, for programs."""
    done = project.run("release.status")
    assert done.returncode == 0 and "\x1b" not in done.stdout + done.stderr
    row = next(line for line in done.stdout.splitlines() if line.startswith(RELEASE))
    assert re.match(rf"{re.escape(RELEASE)}  \S+T\S+Z +ready  .+  {re.escape(RELEASE)}_snapshot_\d+", row)


def test_ctrl_c_restores_the_cursor(project: InvokeProject, on_terminal: Callable[..., Shown]) -> None:
    """During a gate: 130, the display is cleared, and the message is below the finished lines."""
    project.configuration["release"]["gates"] = {"long": {"command": "sleep 60"}}
    project.write()
    shown = on_terminal(project, "release.preflight")
    shown.wait_for("gate long")
    os.killpg(shown.process.pid, signal.SIGINT)
    assert shown.end() == 130
    assert shown.data.rindex(b"\x1b[?25h") > shown.data.rindex(b"\x1b[?25l")
    assert shown.lines()[-1] == "Interrupted by SIGINT; nothing is left half-done."


RESTORED = "release.rollback --force"


def test_a_rollback_without_a_reader_is_restored(project: InvokeProject) -> None:
    """stderr is a closed pipe from the first line on: exit 0, and the state is restored."""
    (project.root / "state.txt").write_text("three")
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [*project.command, *RESTORED.split()],
        cwd=project.root,
        env=project.variables,
        stdout=subprocess.PIPE,
        stderr=writer,
    )
    os.close(writer)
    os.close(reader)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    assert out.startswith(b"RESTORED")
    assert (project.root / "state.txt").read_text() == "two"


def test_a_rollback_whose_terminal_hangs_up_is_restored(project: InvokeProject) -> None:
    """The display gets EIO during the rollback; the state is restored."""
    (project.root / "state.txt").write_text("three")
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [*project.command, *RESTORED.split()],
        cwd=project.root,
        env={**{k: v for k, v in project.variables.items() if k != "CI"}, "TERM": "xterm"},
        stdout=subprocess.PIPE,
        stderr=slave,
    )
    os.close(slave)
    os.read(master, 1)
    os.close(master)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    assert out.startswith(b"RESTORED")
    assert (project.root / "state.txt").read_text() == "two"


def test_list_loads_no_display(project: InvokeProject) -> None:
    """A stage loads rich, and ``inv --list`` does not."""
    code = "import sys; from release_tasks import ns; ns.task_names; print('rich' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=project.variables, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
