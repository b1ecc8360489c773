"""``inv release.watch`` as it is typed: exit codes, one document, one rollback, signals, kills, a process held up."""

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

import pytest

from release_tasks.core.lock import run_lock

pytestmark = pytest.mark.slow

STRACE = shutil.which("strace")
SHORT = ["--for", "2s", "--interval", "100ms"]


@pytest.fixture
def deployed(scratch, health):
    """Return a project with release v1 prepared and its state changed since, and health at hand as ``.health``."""
    scratch.configuration["release"]["health"].update(url=health.url, deadline="300ms")
    assert scratch.run("release.prepare", "--release-id", "v1").returncode == 0
    (scratch.root / "state.txt").write_text("two")
    scratch.health = health
    return scratch


def state(project):
    return (project.root / "state.txt").read_text()


def events(project):
    document = project.document("release.audit", "--limit", "50")
    assert document["status"] == "intact"
    return [event["event"] for event in document["events"]]


def await_look(process: subprocess.Popen[str], word: str, times: int = 1) -> None:
    """Read stderr until so many looks had this finding."""
    assert process.stderr is not None
    for line in process.stderr:
        times -= f"  {word}" in line
        if times == 0:
            return
    raise AssertionError(f"no {word} look was shown")


def test_healthy_is_one_document_and_zero(deployed):
    """Everything else is on stderr, a line a look; the verdict is by the baseline of v1."""
    done = deployed.run("release.watch", *SHORT, "--json")
    document = json.loads(done.stdout)
    assert (done.returncode, document["status"], document["exitCode"]) == (0, "healthy", 0)
    assert (document["releaseId"], document["rollback"], document["diagnostics"]) == ("v1", None, [])
    assert document["baseline"]["health"] == "ok"
    assert 10 <= document["counts"]["looks"] <= 21
    assert len([line for line in done.stderr.splitlines() if "  ok  ok  " in line]) == document["counts"]["looks"]
    assert set(document) >= {"startedAt", "endedAt", "samples", "counts", "reasons"}


def test_flags_are_spelled_alike_under_each_invoke(versioned, health):
    """``for`` is a word of Python and a flag all the same; configuration and flags say the same."""
    versioned.configuration["release"]["health"]["url"] = health.url
    assert "--for=STRING" in versioned.run("--help", "release.watch").stdout
    done = versioned.run("release.watch", "--for", "2s", "--interval=100ms")
    assert (done.returncode, "HEALTHY  the service: " in done.stdout) == (0, True), done
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
def test_what_makes_no_sense_ends_with_two(scratch, line, word):
    """Before the first look, with the key or flag to set."""
    done = scratch.run(*line.split())
    assert (done.returncode, word in done.stderr) == (2, True), done


def test_keys_are_checked_like_all_others(scratch):
    """Each mistake with its path."""
    scratch.configuration["release"]["watch"] = {"error_rate": "most", "failures": 0, "for": "0s", "windw": 3}
    done = scratch.run("release.watch")
    assert done.returncode == 2
    for told in (
        "release.watch.error_rate: expected a share such as 0.3 or 30%, got 'most'",
        "release.watch.failures: expected a whole number, 1 or more",
        "release.watch.windw: unknown key (did you mean 'window'?)",
    ):
        assert told in done.stderr


def test_dry_says_what_it_would_do_and_changes_nothing(deployed):
    """Also with --rollback, on a service that fails."""
    deployed.health.status = 503
    before, asked = deployed.tree(), deployed.health.requests
    done = deployed.run("--dry", "release.watch", "--rollback", "--for", "1m", "--interval", "5s")
    assert done.returncode == 0
    assert "Would look at release v1 every 5s for 1m." in done.stdout
    assert "Would roll back to v1_snapshot_" in done.stdout
    assert (deployed.tree(), deployed.health.requests) == (before, asked)


def test_a_failing_release_is_told_with_the_next_command(deployed):
    """Without --rollback nothing is changed; it ends long before its time."""
    deployed.health.status = 503
    began = time.monotonic()
    done = deployed.run("release.watch", "--for", "10m", "--interval", "50ms")
    assert (done.returncode, state(deployed), time.monotonic() - began < 30) == (1, "two", True)
    assert "DEGRADED  release v1: 3 looks, 0 ok, 3 bad, 0 unknown" in done.stdout
    assert "inv release.rollback --snapshot v1_snapshot_" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr


def test_rollback_brings_the_state_before_the_release_back(deployed):
    """Once, under the lock, with the evidence in the log; the audit log of it is intact."""
    deployed.configuration["release"]["restart"] = {"command": "echo restarted >> restarts", "settle": "100ms"}
    deployed.health.status = 503
    document = deployed.document("release.watch", "--rollback", "--for", "1m", "--interval", "50ms", code=1)
    assert (document["status"], document["exitCode"], state(deployed)) == ("degraded", 1, "one")
    assert document["rollback"]["restoredAssets"] == ["state"]
    assert (deployed.root / "restarts").read_text() == "restarted\n"
    watched = ["watch.degraded", "rollback.started", "rollback.finished", "watch.finished"]
    assert events(deployed) == ["prepare.ready", *watched]
    assert deployed.document("release.status")["rollback"]["restored"] is True


def test_of_two_watches_one_rolls_back(deployed):
    """The other ends with 75 while the first is at it, with 1 after it."""
    deployed.configuration["release"]["restart"] = {"command": "echo restarted >> restarts", "settle": "300ms"}
    deployed.write()
    line = ["release.watch", "--rollback", "--for", "1m", "--interval", "100ms", "--json"]
    both = [deployed.start(*line) for _ in range(2)]
    for process in both:
        await_look(process, "ok")
    deployed.health.status = 503
    documents = [json.loads(process.communicate(timeout=60)[0]) for process in both]
    assert [document["status"] for document in documents] == ["degraded", "degraded"]
    assert sum(document["rollback"] is not None for document in documents) == 1
    assert {process.returncode for process in both} <= {1, 75}
    assert events(deployed).count("rollback.started") == 1
    assert (state(deployed), (deployed.root / "restarts").read_text()) == ("one", "restarted\n")


def test_a_held_lock_ends_it_with_75(deployed):
    """Its own document, with who holds the lock; nothing was changed, nobody was waited for."""
    deployed.health.status = 503
    with run_lock(deployed.root / "pipeline", "release.prepare"):
        document = deployed.document("release.watch", "--rollback", "--for", "1m", "--interval", "50ms", code=75)
    assert (document["status"], document["exitCode"], document["rollback"]) == ("degraded", 75, None)
    assert f"is locked by 'release.prepare' (pid {os.getpid()}" in document["diagnostics"][0]
    assert state(deployed) == "two"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_inconclusive(deployed, number, code):
    """At once, with its document, and with the end on record."""
    process = deployed.start("release.watch", "--rollback", "--for", "10m", "--interval", "100ms", "--json")
    await_look(process, "ok", 3)
    began = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, time.monotonic() - began < 15) == (code, True), err
    document = json.loads(out)
    assert (document["status"], document["exitCode"]) == ("inconclusive", code)
    assert events(deployed)[-1] == "watch.finished"
    assert state(deployed) == "two"


def test_a_signal_during_its_rollback_leaves_the_state_whole(deployed):
    """The snapshot is live, health was not reached, and the document says where to look."""
    deployed.configuration["release"]["health"]["deadline"] = "60s"
    deployed.health.status = 503
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
def test_a_kill_in_mid_swap_is_finished_by_recover(deployed):
    """The watch is killed at the exchange of names; the next command completes what its journal says."""
    deployed.health.status = 503
    deployed.write()
    inject = ["-e", "trace=renameat2", "-e", "inject=renameat2:signal=SIGKILL:when=1", "-o", "/dev/null"]
    words = ["release.watch", "--rollback", "--for", "1m", "--interval", "50ms"]
    command = [str(STRACE), "-f", "-qq", *inject, *deployed.command, *words]
    done = subprocess.run(command, cwd=deployed.root, env=deployed.variables, capture_output=True, timeout=90)
    assert done.returncode not in (0, 1), done
    assert (deployed.root / "pipeline" / "rollback-journal.json").exists()
    assert deployed.document("release.recover")["status"] == "finished"
    assert state(deployed) == "one"
    assert events(deployed)[1:] == ["watch.degraded", "rollback.started", "rollback.recovered"]
    # And the watch that a supervisor starts anew does not do it again.
    again = deployed.document("release.watch", "--rollback", "--for", "1m", "--interval", "50ms", code=1)
    assert (again["rollback"], "was restored already" in again["diagnostics"][0]) == (None, True)


def test_a_process_that_stood_still_has_not_seen_that_time(deployed):
    """Stopped for longer than it watches: inconclusive, and the gap is told."""
    process = deployed.start("release.watch", "--for", "4s", "--interval", "200ms", "--json")
    await_look(process, "ok", 6)
    process.send_signal(signal.SIGSTOP)
    time.sleep(9)  # more than a request's timeout and five seconds, wherever the signal met it
    process.send_signal(signal.SIGCONT)
    document = json.loads(process.communicate(timeout=20)[0])
    assert (process.returncode, document["status"]) == (1, "inconclusive")
    assert document["reasons"][0].startswith("No sample was taken for ")
    assert sum(sample["unseenMs"] for sample in document["samples"]) > 8000


def test_a_service_that_restarts_for_a_moment_is_healthy(scratch, free_port, tmp_path):
    """A real process, killed and started again in the middle of the watch; --rollback stays still."""
    (tmp_path / "health").write_text("ok")
    serving = [sys.executable, "-m", "http.server", str(free_port), "--bind", "127.0.0.1", "--directory", str(tmp_path)]

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(serving, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    running = start()
    try:
        scratch.configuration["release"]["health"].update(url=f"http://127.0.0.1:{free_port}/health", deadline="20s")
        scratch.configuration["release"]["gates"]["api-health"] = {"http": "health"}
        assert scratch.run("release.prepare").returncode == 0
        scratch.configuration["release"]["watch"] = {"failures": 5}  # a busy machine takes its time to start Python
        line = ["release.watch", "--rollback", "--for", "12s", "--interval", "1s", "--json"]
        process = scratch.start(*line)
        await_look(process, "ok", 4)
        running.kill()
        running.wait()
        await_look(process, "bad")
        running = start()
        document = json.loads(process.communicate(timeout=60)[0])
    finally:
        running.kill()
        running.wait()
    assert (process.returncode, document["status"]) == (0, "healthy"), document["reasons"]
    assert 1 <= document["counts"]["bad"] <= 4


def test_the_display_on_a_terminal_is_redrawn_and_stdout_is_left_alone(deployed):
    """The last looks as a table on stderr, the verdict on stdout."""
    deployed.write()
    main, side = pty.openpty()
    variables = {**deployed.variables, "TERM": "xterm", "COLUMNS": "100"}
    variables.pop("CI", None)  # nobody looks on there
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
    assert out.startswith("HEALTHY  release v1: ")
