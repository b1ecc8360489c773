"""Command gates with real processes that fail, hang, flood and leave children."""

from __future__ import annotations

import os
import resource
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from release_tasks.core.records import Check

Checker = Callable[..., Check]
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


def log_of(result: Check) -> bytes:
    """Return the complete log of the gate."""
    return Path(result.diagnostics["logPath"]).read_bytes()


def test_success_has_its_exit_code_and_output(check: Checker, tmp_path: Path) -> None:
    """The result has the exit code, and the log has both streams in order."""
    result = check({"command": "echo one; echo two >&2; echo three", "subsystem": "the build"})
    assert (result.status, result.detail) == ("passed", "exit code 0")
    assert result.command == "echo one; echo two >&2; echo three"
    assert result.subsystem == "the build"
    assert result.diagnostics["exitCode"] == 0
    assert result.diagnostics["outputTail"] == ["one", "two", "three"]
    assert log_of(result) == b"one\ntwo\nthree\n"
    assert "next" not in result.diagnostics
    log = tmp_path / "memory/release-pipeline/logs/v1/gate.log"
    assert result.diagnostics["logPath"] == str(log)
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert stat.S_IMODE(log.parent.stat().st_mode) == 0o700


def test_failure_has_exit_code_tail_and_next_command(check: Checker) -> None:
    """A failed build has what an operator needs next."""
    result = check({"command": "seq 1 100; echo broken >&2; exit 3"})
    assert (result.status, result.detail) == ("failed", "exit code 3")
    assert result.diagnostics["exitCode"] == 3
    assert result.diagnostics["outputTail"] == [*map(str, range(82, 101)), "broken"]
    assert result.diagnostics["next"].startswith("inv gate.run gate")
    assert result.diagnostics["logPath"] in result.diagnostics["next"]


@pytest.mark.parametrize("command", ["nosuch-tool --fast", "echo starts; sh -c nosuch-tool"])
def test_a_missing_command_is_named(check: Checker, command: str) -> None:
    """127 is explained with the name of the missing program."""
    result = check({"command": command})
    assert result.detail == "command not found: nosuch-tool (exit code 127)"
    assert result.diagnostics["exitCode"] == 127


def test_a_command_without_execute_permission_is_named(check: Checker, tmp_path: Path) -> None:
    """126 is explained."""
    (tmp_path / "build.sh").write_text("exit 0")
    result = check({"command": "./build.sh"})
    assert result.detail == "cannot be executed: ./build.sh (exit code 126)"


def test_a_signal_is_named(check: Checker) -> None:
    """A crash is reported as a signal and not as an exit code."""
    result = check({"command": "kill -SEGV $$"})
    assert (result.status, result.detail) == ("failed", "killed by SIGSEGV")
    assert result.diagnostics["signal"] == "SIGSEGV"
    assert "exitCode" not in result.diagnostics
    inner = check({"command": "sh -c 'kill -KILL $$'; exit $?"})
    assert inner.detail == "exit code 137, as after SIGKILL"


def test_a_missing_working_folder_is_reported(check: Checker, tmp_path: Path) -> None:
    """A wrong cwd is a message and not a traceback."""
    result = check({"command": "true", "cwd": "nowhere"})
    assert result.detail == f"the working folder {tmp_path}/nowhere is missing"


def test_a_command_that_cannot_start_is_a_failed_gate(check: Checker) -> None:
    """The system refuses to start it."""
    result = check({"command": ": " + "x" * (3 << 20)})
    assert result.status == "failed"
    assert result.detail == "cannot be started: Argument list too long"


def test_environment_and_folder_are_the_configured_ones(check: Checker, tmp_path: Path) -> None:
    """env and cwd apply, and tools next to the running Python are found."""
    (tmp_path / "sub").mkdir()
    command = 'echo "$COLOR"; pwd; command -v python; echo "${PATH%%:*}"'
    result = check({"command": command, "cwd": "sub", "env": {"COLOR": "green"}})
    own = os.path.dirname(sys.executable)
    assert result.diagnostics["outputTail"] == [
        "green",
        str(tmp_path / "sub"),
        f"{own}/python",
        own,
    ]


def test_a_command_has_no_input_and_no_terminal(check: Checker) -> None:
    """A command that asks a question gets an end of file."""
    result = check({"command": "cat; ( : < /dev/tty ) 2>/dev/null || echo no terminal"})
    assert result.diagnostics["outputTail"] == ["no terminal"]


def test_a_timeout_ends_the_whole_group(check: Checker, tag: str, nothing_left: Callable[[], None]) -> None:
    """No process of the command stays, and the result has the reason."""
    started = time.monotonic()
    command = f"echo begun; sh -c 'sleep 60; : {tag}' & sh -c 'sleep 60; : {tag}'"
    result = check({"command": command, "timeout": "300ms"})
    assert time.monotonic() - started < 10
    assert (result.status, result.detail) == (
        "failed",
        "no result after 300ms (timeout); it was stopped",
    )
    assert result.diagnostics["outputTail"][0] == "begun"
    nothing_left()


@pytest.mark.slow
def test_a_command_that_ignores_sigterm_is_killed(check: Checker, tag: str, nothing_left: Callable[[], None]) -> None:
    """SIGKILL follows a second after SIGTERM."""
    started = time.monotonic()
    command = f"trap '' TERM; while :; do sleep 0.05; done; : {tag}"
    result = check({"command": command, "timeout": "200ms"})
    assert 1 < time.monotonic() - started < 10
    assert "no result after 200ms" in result.detail
    nothing_left()


def test_cleanup_on_sigterm_has_a_second(check: Checker) -> None:
    """Output of the cleanup is in the log."""
    command = "trap 'echo cleaned up; exit 0' TERM; while :; do sleep 0.02; done"
    result = check({"command": command, "timeout": "200ms"})
    assert result.status == "failed"
    assert result.diagnostics["outputTail"][-1] == "cleaned up"


def test_a_child_that_holds_the_pipe_does_not_hold_the_gate(
    check: Checker, tag: str, nothing_left: Callable[[], None]
) -> None:
    """A background child is ended half a second after its parent, and is reported."""
    started = time.monotonic()
    result = check({"command": f"sh -c 'sleep 60; : {tag}' & echo done"})
    assert time.monotonic() - started < 10
    assert result.status == "passed"
    assert result.detail.startswith("exit code 0; it left ")
    assert "running, killed now" in result.detail
    assert result.diagnostics["outputTail"] == ["done"]
    nothing_left()


@pytest.mark.slow
def test_a_child_that_floods_the_pipe_does_not_hold_the_gate(
    check: Checker, tag: str, nothing_left: Callable[[], None]
) -> None:
    """A background child that never stops writing is ended too."""
    started = time.monotonic()
    result = check({"command": f"yes {tag} & echo done; exit 4"})
    assert time.monotonic() - started < 5
    assert result.detail.startswith("exit code 4; it left 1 process running")
    nothing_left()


@pytest.mark.slow
@LINUX
@pytest.mark.parametrize("redirect", ["", ">/dev/null 2>&1"])
def test_a_child_in_its_own_session_is_found(
    check: Checker, tag: str, nothing_left: Callable[[], None], redirect: str
) -> None:
    """setsid and a double fork do not hide a process."""
    command = f"(setsid sh -c 'sleep 60; : {tag}' {redirect} &) ; echo done"
    result = check({"command": command})
    assert result.status == "passed"
    assert "killed now" in result.detail
    nothing_left()


@pytest.mark.slow
@LINUX
def test_a_child_in_its_own_session_ends_with_the_timeout(
    check: Checker, tag: str, nothing_left: Callable[[], None]
) -> None:
    """A timeout also ends processes outside the group."""
    command = f"setsid sh -c 'trap \"\" TERM; sleep 60; : {tag}' & sleep 60"
    assert check({"command": command, "timeout": "200ms"}).status == "failed"
    nothing_left()


def test_a_child_that_ends_by_itself_is_not_reported(check: Checker) -> None:
    """A child that ends within half a second was not left behind."""
    assert check({"command": "sleep 0.2 >/dev/null 2>&1 & exit 0"}).detail == "exit code 0"


def test_a_command_that_closes_its_output_is_awaited(check: Checker) -> None:
    """The end of the output is not the end of the command."""
    started = time.monotonic()
    result = check({"command": "exec >&- 2>&-; sleep 0.3; exit 5"})
    assert time.monotonic() - started >= 0.3
    assert result.detail == "exit code 5"


def test_the_last_output_is_never_lost(check: Checker) -> None:
    """All output from before the exit is read, also a full pipe."""
    result = check({"command": "head -c 900000 /dev/zero | tr '\\0' x; echo; echo end"})
    assert result.diagnostics["outputTail"][-1] == "end"
    assert result.diagnostics["outputBytes"] == 900_005


def test_no_result_and_no_log_has_a_secret(check: Checker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets of the environment, of the gate and of known forms are redacted everywhere."""
    monkeypatch.setenv("DEPLOY_TOKEN", "from-the-environment")
    monkeypatch.setenv("HOOK", "named-in-the-config")
    monkeypatch.setenv("SSH_PRIVATE_KEY", "-----BEGIN KEY-----\nAAAAB3NzaC1yc2E\n-----END KEY-----")
    command = (
        'echo "$DEPLOY_TOKEN"; echo "$HOOK"; echo "$DB_PASSWORD" >&2; echo "$SSH_PRIVATE_KEY";'
        "printf 'Authorization: Bearer abcdef%s\\n' 1234567890; echo from-the-environment; exit 1"
    )
    result = check(
        {"command": command, "env": {"DB_PASSWORD": "from-the-gate"}},
        release={"reliability": {"hmac_secret_env": "HOOK"}},
    )
    everything = repr(result).encode() + log_of(result)
    for secret in (
        b"from-the-environment",
        b"named-in-the-config",
        b"from-the-gate",
        b"AAAAB3NzaC1yc2E",
        b"abcdef1234567890",
    ):
        assert secret not in everything
    assert result.diagnostics["outputTail"][0] == "[REDACTED]"


def test_a_secret_written_in_pieces_is_redacted(check: Checker, monkeypatch: pytest.MonkeyPatch) -> None:
    """It arrives byte by byte."""
    monkeypatch.setenv("MY_SECRET", "tortoise-7")
    script = (
        "import os, time\n"
        "for letter in os.environ['MY_SECRET'] + chr(10):\n"
        "    os.write(1, letter.encode())\n"
        "    time.sleep(0.005)\n"
    )
    result = check({"command": f'python -c "{script}"'})
    assert result.diagnostics["outputTail"] == ["[REDACTED]"]
    assert log_of(result) == b"[REDACTED]\n"


def test_output_cannot_control_the_terminal(check: Checker) -> None:
    """Colours, cursor movements and progress bars become plain lines in the result."""
    command = r"printf '\033[31mred\033[0m\n10%%\r50%%\r100%%\n\033]0;title\007bell\007\n'"
    assert check({"command": command}).diagnostics["outputTail"] == ["red", "100%", r"bell\x07"]


def test_an_unwritable_log_does_not_change_the_verdict(check: Checker, tmp_path: Path) -> None:
    """The result mentions the log."""
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory/release-pipeline").write_text("not a folder")
    result = check({"command": "echo fine"})
    assert result.status == "passed"
    assert result.diagnostics["logProblem"].startswith("the log could not be written: ")
    assert result.diagnostics["outputTail"] == ["fine"]


def test_a_link_instead_of_the_log_is_not_followed(check: Checker, tmp_path: Path) -> None:
    """A planted link does not make preflight overwrite another file."""
    logs = tmp_path / "memory/release-pipeline/logs/v1"
    logs.mkdir(parents=True)
    (tmp_path / "precious").write_text("precious")
    (logs / "gate.log").symlink_to(tmp_path / "precious")
    assert "logProblem" in check({"command": "echo overwritten"}, log_directory=logs).diagnostics
    assert "logProblem" not in check({"command": "echo a folder of its own"}).diagnostics
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_lost_exit_code_is_a_failure(tmp_path: Path) -> None:
    """Where SIGCHLD is ignored the kernel discards the exit code, and 0 would be a guess."""
    script = f"""
import signal, pathlib
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
from release_tasks.tasks.project import load_settings
from release_tasks.stages.preflight.engine import run_preflight
raw = {{"release": {{"gates": {{"build": {{"command": "exit 3"}}}}}}}}
settings = load_settings(raw, pathlib.Path({str(tmp_path)!r}))
(check,) = run_preflight(settings, release_id="v1").report.checks
print(check.status, "/", check.detail)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.startswith("failed / its exit code was lost"), done.stdout + done.stderr


@pytest.mark.slow
def test_a_gate_inside_a_gate_leaves_no_process(
    check: Checker, tmp_path: Path, tag: str, nothing_left: Callable[[], None]
) -> None:
    """The outer run finds the processes that a killed inner run started."""
    (tmp_path / "p").mkdir()
    inner = tmp_path / "inner.py"
    inner.write_text(f"""
import pathlib, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
from release_tasks.tasks.project import load_settings
from release_tasks.stages.preflight.engine import run_preflight
raw = {{"release": {{"gates": {{"build": {{"command": "sleep 60; : {tag}"}}}}}}}}
run_preflight(load_settings(raw, pathlib.Path({str(tmp_path / "p")!r})), release_id="v1")
""")
    result = check({"command": f"python {inner}", "timeout": "1s"})
    assert "no result after 1s" in result.detail
    nothing_left()


_FLOOD = """
import pathlib, resource, sys, time
from release_tasks.tasks.project import load_settings
from release_tasks.stages.preflight.engine import run_preflight

def peak():
    unit = 1 if sys.platform == "linux" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit

raw = {"release": {"gates": {
    "warm": {"command": "true"}, "flood": {"command": sys.argv[2], "timeout": sys.argv[3]}}}}
settings = load_settings(raw, pathlib.Path(sys.argv[1]))
run_preflight(settings, release_id="v0", only=["warm"])
before = peak()
run = run_preflight(settings, release_id="v1", only=["flood"])
check = run.report.checks[1]
print(check.status, check.diagnostics["outputBytes"], peak() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "timeout", "status"),
    [
        ("head -c 1073741824 /dev/zero | tr '\\\\0' x", "60s", "passed"),
        ("yes | head -c 1073741824", "60s", "passed"),
        ("yes a rather long line with a key and a token in it", "3s", "failed"),
    ],
)
def test_endless_output_needs_little_memory(tmp_path: Path, command: str, timeout: str, status: str) -> None:
    """1 GiB in one line, 1 GiB in lines and endless output are read and limited."""
    done = subprocess.run(
        [sys.executable, "-c", _FLOOD, str(tmp_path), command.replace("\\\\", "\\"), timeout],
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )
    got, count, grown = done.stdout.split()
    assert got == status
    assert int(count) >= 1 << 20
    assert int(grown) < 40 << 10, f"{grown} KiB more at the peak"
    log = tmp_path / "memory/release-pipeline/logs/v1/flood.log"
    assert log.stat().st_size < 17 << 20
    if int(count) > 18 << 20:
        assert b"bytes were left out here]\n" in log.read_bytes()[16 << 20 :]


def test_a_gate_leaves_no_open_file(check: Checker) -> None:
    """No file descriptor stays open, and the signal handlers are unchanged."""
    check({"command": "true"})
    before = len(os.listdir("/dev/fd"))
    for _ in range(5):
        check({"command": "echo x"})
    assert len(os.listdir("/dev/fd")) == before
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 0


def test_unset_variables_have_defaults(check: Checker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without PATH a default PATH is used."""
    monkeypatch.delenv("PATH")
    gate: dict[str, Any] = {"command": "ls / >/dev/null"}
    assert check(gate).status == "passed"
