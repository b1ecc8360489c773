"""``inv release.watch`` at the command line: exit codes, documents, one rollback, signals, kills, a stopped process."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import threading
import time
from datetime import datetime
from pathlib import Path

import pytest

from release_tasks.core.lock import run_lock
from tests.support.health import Health
from tests.support.invoke_project import InvokeProject

pytestmark = pytest.mark.slow

STRACE = shutil.which("strace")
SHORT = ["--for", "2s", "--interval", "100ms"]


@pytest.fixture
def deployed(scratch: InvokeProject, health: Health) -> InvokeProject:
    """Return a project with release v1 prepared and its state changed since; ``health`` is its endpoint."""
    scratch.configuration["release"]["health"].update(url=health.url, deadline="300ms")
    assert scratch.run("release.prepare", "--release-id", "v1").returncode == 0
    (scratch.root / "state.txt").write_text("two")
    return scratch


def state(project: InvokeProject) -> str:
    return (project.root / "state.txt").read_text()


def events(project: InvokeProject) -> list[str]:
    document = project.document("release.audit", "--limit", "50")
    assert document["status"] == "intact"
    return [event["event"] for event in document["events"]]


def await_samples(process: subprocess.Popen[str], word: str, times: int = 1) -> None:
    """Read stderr until ``times`` samples had this finding."""
    assert process.stderr is not None
    for line in process.stderr:
        times -= f"  {word}" in line
        if times == 0:
            return
    raise AssertionError(f"no {word} sample was printed")


def test_healthy_is_one_document_and_zero(deployed: InvokeProject) -> None:
    """Everything else is on stderr, a line for each sample; the verdict uses the baseline of v1."""
    done = deployed.run("release.watch", *SHORT, "--json")
    document = json.loads(done.stdout)
    assert (done.returncode, document["status"], document["exitCode"]) == (0, "healthy", 0)
    assert (document["releaseId"], document["rollback"], document["diagnostics"]) == ("v1", None, [])
    assert document["baseline"]["health"] == "ok"
    assert 10 <= document["counts"]["looks"] <= 21
    assert len([line for line in done.stderr.splitlines() if "  ok  ok  " in line]) == document["counts"]["looks"]
    assert set(document) >= {"startedAt", "endedAt", "samples", "counts", "reasons"}


def test_flags_have_the_same_names_under_each_invoke(versioned: InvokeProject, health: Health) -> None:
    """``for`` is a keyword of Python and still a flag; configuration and flags have the same meaning."""
    versioned.configuration["release"]["health"]["url"] = health.url
    assert "--for=STRING" in versioned.run("--help", "release.watch").stdout
    done = versioned.run("release.watch", "--for", "2s", "--interval=100ms")
    assert (done.returncode, "HEALTHY  the service\n" in done.stdout) == (0, True), done
    assert "no baseline to compare with" in done.stdout
    versioned.configuration["release"]["watch"] = {"for": "2s", "interval": "100ms"}
    assert versioned.document("release.watch")["status"] == "healthy"


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("release.watch", "release.health.url"),
        ("release.watch --for soon", "--for: expected a duration"),
        ("release.watch --for 0s", "--for: expected a duration above 0"),
        ("release.watch --interval 0", "--interval: expected a duration above 0"),
        ("release.watch --health-url localhost", "--health-url"),
        ("release.watch --for 1s --health-url http://127.0.0.1:9/", "min_samples"),
    ],
)
def test_useless_input_ends_with_2(scratch: InvokeProject, line: str, word: str) -> None:
    """The message comes before the first sample and names the key or flag to set."""
    done = scratch.run(*line.split())
    assert (done.returncode, word in done.stderr) == (2, True), done


def test_keys_are_checked(scratch: InvokeProject) -> None:
    """Each mistake is reported with its path."""
    scratch.configuration["release"]["watch"] = {"error_rate": "most", "failures": 0, "for": "0s", "windw": 3}
    done = scratch.run("release.watch")
    assert done.returncode == 2
    for reported in (
        "release.watch.error_rate: expected a share such as 0.3 or 30%, got 'most'",
        "release.watch.failures: expected a whole number, 1 or more",
        "release.watch.windw: unknown key (did you mean 'window'?)",
    ):
        assert reported in done.stderr


def test_dry_shows_the_plan_and_changes_nothing(deployed: InvokeProject, health: Health) -> None:
    """This holds with --rollback and an unhealthy service too."""
    health.status = 503
    before, asked = deployed.tree(), health.requests
    done = deployed.run("--dry", "release.watch", "--rollback", "--for", "1m", "--interval", "5s")
    assert done.returncode == 0
    assert "Would watch release v1 every 5s for 1m." in done.stdout
    assert "Would roll back to v1_snapshot_" in done.stdout
    assert (deployed.tree(), health.requests) == (before, asked)


def test_a_degraded_release_is_reported_with_the_next_command(deployed: InvokeProject, health: Health) -> None:
    """Without --rollback nothing is changed; the watch ends early."""
    health.status = 503
    started = time.monotonic()
    done = deployed.run("release.watch", "--for", "10m", "--interval", "50ms")
    assert (done.returncode, state(deployed), time.monotonic() - started < 30) == (1, "two", True)
    assert "DEGRADED  release v1: 3 samples, 3 bad\n" in done.stdout
    assert "inv release.rollback --snapshot v1_snapshot_" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr


def test_rollback_restores_the_state_before_the_release(deployed: InvokeProject, health: Health) -> None:
    """One rollback, under the lock, with the evidence in an intact audit log."""
    deployed.configuration["release"]["restart"] = {"command": "echo restarted >> restarts", "settle": "100ms"}
    health.status = 503
    document = deployed.document("release.watch", "--rollback", "--for", "1m", "--interval", "50ms", code=1)
    assert (document["status"], document["exitCode"], state(deployed)) == ("degraded", 1, "one")
    assert document["rollback"]["restoredAssets"] == ["state"]
    assert (deployed.root / "restarts").read_text() == "restarted\n"
    watched = ["watch.degraded", "rollback.started", "snapshot.taken", "rollback.finished", "watch.finished"]
    assert events(deployed) == ["prepare.ready", "prepare.published", *watched]
    assert deployed.document("release.status")["rollback"]["restored"] is True


def test_one_of_two_watches_rolls_back(deployed: InvokeProject, health: Health) -> None:
    """The other ends with 75 during the first rollback, with 1 after it."""
    deployed.configuration["release"]["restart"] = {"command": "echo restarted >> restarts", "settle": "300ms"}
    deployed.write()
    line = ["release.watch", "--rollback", "--for", "1m", "--interval", "100ms", "--json"]
    both = [deployed.start(*line) for _ in range(2)]
    for process in both:
        await_samples(process, "ok")
    health.status = 503
    documents = [json.loads(process.communicate(timeout=60)[0]) for process in both]
    assert [document["status"] for document in documents] == ["degraded", "degraded"]
    assert sum(document["rollback"] is not None for document in documents) == 1
    assert {process.returncode for process in both} <= {1, 75}
    assert events(deployed).count("rollback.started") == 1
    assert (state(deployed), (deployed.root / "restarts").read_text()) == ("one", "restarted\n")


def test_a_held_lock_ends_it_with_75(deployed: InvokeProject, health: Health) -> None:
    """The document names the holder; nothing was changed, and the watch did not wait."""
    health.status = 503
    with run_lock(deployed.root / "pipeline", "release.prepare"):
        document = deployed.document("release.watch", "--rollback", "--for", "1m", "--interval", "50ms", code=75)
    assert (document["status"], document["exitCode"], document["rollback"]) == ("degraded", 75, None)
    assert f"is locked by 'release.prepare' (pid {os.getpid()}" in document["diagnostics"][0]
    assert state(deployed) == "two"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_inconclusive(deployed: InvokeProject, number: signal.Signals, code: int) -> None:
    """It ends immediately, with its document and its event."""
    process = deployed.start("release.watch", "--rollback", "--for", "10m", "--interval", "100ms", "--json")
    await_samples(process, "ok", 3)
    started = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, time.monotonic() - started < 15) == (code, True), err
    document = json.loads(out)
    assert (document["status"], document["exitCode"]) == ("inconclusive", code)
    assert events(deployed)[-1] == "watch.finished"
    assert state(deployed) == "two"


def test_a_signal_during_its_rollback_leaves_the_state_whole(deployed: InvokeProject, health: Health) -> None:
    """The snapshot is live, health was not checked, and the document has the command to type."""
    deployed.configuration["release"]["health"]["deadline"] = "60s"
    health.status = 503
    process = deployed.start("release.watch", "--rollback", "--for", "1m", "--interval", "50ms", "--json")
    assert process.stderr is not None
    for line in process.stderr:
        if line.strip() == "> health":
            break
    process.send_signal(signal.SIGTERM)
    document = json.loads(process.communicate(timeout=20)[0])
    assert (process.returncode, document["status"], document["rollback"]) == (143, "degraded", None)
    assert "inv release.status" in document["diagnostics"][0]
    assert state(deployed) == "one"
    assert events(deployed)[-2:] == ["rollback.refused", "watch.finished"]


@pytest.mark.skipif(STRACE is None, reason="NOT TESTED: no strace here (Debian: apt install strace)")
def test_a_kill_during_the_swap_is_finished_by_recover(deployed: InvokeProject, health: Health) -> None:
    """The watch is killed at the exchange of names; the next command completes the journal."""
    health.status = 503
    deployed.write()
    inject = ["-e", "trace=renameat2", "-e", "inject=renameat2:signal=SIGKILL:when=1", "-o", "/dev/null"]
    words = ["release.watch", "--rollback", "--for", "1m", "--interval", "50ms"]
    command = [str(STRACE), "-f", "-qq", *inject, *deployed.command, *words]
    done = subprocess.run(command, cwd=deployed.root, env=deployed.variables, capture_output=True, timeout=90)
    assert done.returncode not in (0, 1), done
    assert (deployed.root / "pipeline" / "rollback-journal.json").exists()
    assert deployed.document("release.recover")["status"] == "finished"
    assert state(deployed) == "one"
    assert events(deployed)[2:] == ["watch.degraded", "rollback.started", "snapshot.taken", "rollback.recovered"]
    # A watch that a supervisor starts again does not roll back again.
    again = deployed.document("release.watch", "--rollback", "--for", "1m", "--interval", "50ms", code=1)
    assert (again["rollback"], "was restored already" in again["diagnostics"][0]) == (None, True)


def test_a_stopped_process_does_not_count_that_time(deployed: InvokeProject) -> None:
    """Stopped for longer than the watch: it ends later by as much, with all its samples, and the gap is reported."""
    process = deployed.start("release.watch", "--for", "4s", "--interval", "200ms", "--json")
    await_samples(process, "ok", 6)
    process.send_signal(signal.SIGSTOP)
    continued_after = 9  # more than a request's timeout and five seconds, wherever the signal arrived
    time.sleep(continued_after)
    process.send_signal(signal.SIGCONT)
    document = json.loads(process.communicate(timeout=20)[0])
    assert (process.returncode, document["status"]) == (0, "healthy"), document["reasons"]
    assert sum(sample["unseenMs"] for sample in document["samples"]) > 8000
    started, ended = (datetime.fromisoformat(document[key].rstrip("Z")) for key in ("startedAt", "endedAt"))
    assert (ended - started).total_seconds() > continued_after + 2  # one second of a gap counts as watched
    gap = next(number for number, sample in enumerate(document["samples"]) if sample["unseenMs"])
    assert len(document["samples"]) - gap > 5


def test_a_short_restart_of_the_service_is_healthy(scratch: InvokeProject, free_port: int, tmp_path: Path) -> None:
    """A real process is killed and started again during the watch; --rollback does nothing."""
    (tmp_path / "health").write_text("ok")
    serving = [sys.executable, "-m", "http.server", str(free_port), "--bind", "127.0.0.1", "--directory", str(tmp_path)]

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(serving, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    running = start()
    try:
        scratch.configuration["release"]["health"].update(url=f"http://127.0.0.1:{free_port}/health", deadline="20s")
        scratch.configuration["release"]["gates"]["api-health"] = {"http": "health"}
        assert scratch.run("release.prepare").returncode == 0
        scratch.configuration["release"]["watch"] = {"failures": 5}  # a busy machine starts Python slowly
        line = ["release.watch", "--rollback", "--for", "12s", "--interval", "1s", "--json"]
        process = scratch.start(*line)
        await_samples(process, "ok", 4)
        running.kill()
        running.wait()
        await_samples(process, "bad")
        running = start()
        document = json.loads(process.communicate(timeout=60)[0])
    finally:
        running.kill()
        running.wait()
    assert (process.returncode, document["status"]) == (0, "healthy"), document["reasons"]
    assert 1 <= document["counts"]["bad"] <= 4


def test_the_display_on_a_terminal_is_redrawn(deployed: InvokeProject) -> None:
    """The last samples are a table on stderr, the verdict is on stdout."""
    deployed.write()
    main, side = pty.openpty()
    variables = {**deployed.variables, "TERM": "xterm", "COLUMNS": "100"}
    variables.pop("CI", None)  # CI has no live display
    seen: list[bytes] = []

    def read() -> None:
        while True:
            try:
                data = os.read(main, 65536)
            except OSError:  # the other end is closed
                return
            seen.append(data)

    line = [*deployed.command, "release.watch", "--for", "1s", "--interval", "100ms"]
    process = subprocess.Popen(line, cwd=deployed.root, env=variables, stdout=subprocess.PIPE, stderr=side, text=True)
    os.close(side)
    reader = threading.Thread(target=read)
    reader.start()
    out, _ = process.communicate(timeout=60)
    reader.join(20)
    os.close(main)
    shown = b"".join(seen).decode()
    assert process.returncode == 0
    assert "TIME" in shown and "LATENCY" in shown and "\x1b[" in shown
    assert out.startswith("HEALTHY  release v1\n")
