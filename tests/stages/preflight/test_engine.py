"""The engine: gates run in parallel, every result is recorded, and a stop leaves no process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from release_tasks.core.codec import encode
from release_tasks.core.errors import ExitCode, Interrupted, UsageError
from release_tasks.core.events import Event, GateBegan, GateEnded
from release_tasks.report.junit import junit_xml
from release_tasks.stages.preflight.engine import PreflightRun

Run = Callable[..., PreflightRun]


def statuses(run: PreflightRun) -> dict[str, str]:
    """Return the status of each check, in order."""
    return {check.id: check.status for check in run.report.checks}


@pytest.mark.slow
def test_independent_gates_run_in_parallel(run: Run) -> None:
    """Three gates of two seconds do not take six."""
    started = time.monotonic()
    result = run({name: {"command": "sleep 2"} for name in "abc"})
    assert time.monotonic() - started < 5
    assert result.report.passed
    assert all(2000 <= check.duration_ms < 5000 for check in result.report.checks)


def test_results_have_the_configured_order(run: Run) -> None:
    """The order of the report is that of the configuration, not that of completion."""
    ended: list[str] = []
    result = run(
        {"slow": {"command": "sleep 0.4"}, "mid": {"command": "sleep 0.2"}, "fast": {"path": "."}},
        emit=lambda event: ended.append(event.check.id) if isinstance(event, GateEnded) else None,
    )
    assert ended[0] == "fast"
    assert [check.id for check in result.report.checks] == ["slow", "mid", "fast"]


def test_every_gate_runs_even_after_a_failure(run: Run) -> None:
    """Only gates that need the failed one do not run."""
    result = run(
        {
            "build": {"command": "exit 1"},
            "tests": {"command": "true", "needs": ["build"]},
            "package": {"command": "true", "needs": ["tests", "gui"]},
            "gui": {"path": "nowhere"},
        }
    )
    assert statuses(result) == {
        "build": "failed",
        "tests": "skipped",
        "package": "skipped",
        "gui": "failed",
    }
    assert not result.report.passed
    assert result.report.failed_checks == ["build", "tests", "package", "gui"]
    held = {check.id: check for check in result.report.checks}
    assert held["tests"].detail == "not run: it needs build, which failed"
    assert held["tests"].diagnostics == {"needs": ["build"], "next": "inv gate.run build"}
    assert held["package"].detail == ("not run: it needs tests, which was skipped and gui, which failed")


def test_a_gate_waits_for_its_needs(run: Run, tmp_path: Path) -> None:
    """A gate starts only when its needs have passed, in any order of the file."""
    result = run(
        {
            "last": {"path": "made", "needs": ["first"]},
            "first": {"command": "sleep 0.2; echo x > made"},
        }
    )
    assert statuses(result) == {"last": "passed", "first": "passed"}


def test_advisory_failures_do_not_block(run: Run) -> None:
    """An advisory gate fails in the report and not in the verdict."""
    result = run({"lint": {"command": "exit 1", "advisory": True}, "gui": {"command": "true"}})
    assert statuses(result)["lint"] == "failed"
    assert result.report.checks[0].advisory
    assert result.report.passed
    assert result.report.failed_checks == []


def test_skipped_gates_are_recorded_and_block_no_other(run: Run) -> None:
    """--skip and --only are recorded, do not fail preflight, and do not count as failed needs."""
    gates: dict[str, Any] = {
        "build": {"command": "exit 1"},
        "tests": {"command": "true", "needs": ["build"]},
        "gui": {"command": "exit 1"},
    }
    skipped = run(gates, skip=["build", "gui"])
    assert statuses(skipped) == {"build": "skipped", "tests": "passed", "gui": "skipped"}
    assert skipped.report.checks[0].detail == "excluded by --skip"
    assert skipped.report.checks[0].diagnostics == {"leftOut": True}
    assert skipped.report.passed
    assert skipped.report.failed_checks == []
    only = run(gates, only=["tests"], strict=True, health_url="http://127.0.0.1:1/")
    assert only.report.checks[2].detail == "excluded by --only"
    assert (only.only, only.skip, only.strict) == (("tests",), (), True)
    assert only.health_url == "http://127.0.0.1:1/"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only": ["biuld"]}, "--only: unknown gate 'biuld' (did you mean 'build'?)"),
        ({"skip": ["zzz"]}, "--skip: unknown gate 'zzz'; configured: build, tests"),
        ({"skip": ["build", "tests"]}, "exclude every gate"),
        ({"health_url": "localhost"}, "--health-url: expected an http:// or https:// URL"),
        ({"release_id": "../x"}, "release id '../x' is not a valid id"),
    ],
)
def test_wrong_arguments_are_refused_before_any_gate_runs(
    run: Run, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    """An unknown gate, a wrong URL or id: one message, and no gate runs."""
    gates = {"build": {"command": "touch ran"}, "tests": {"command": "touch ran"}}
    with pytest.raises(UsageError) as caught:
        run(gates, **options)
    assert message in caught.value.message
    assert list(tmp_path.iterdir()) == []


def test_a_preflight_without_gates_is_refused(run: Run) -> None:
    """A preflight must have a gate."""
    with pytest.raises(UsageError, match="no gates are configured"):
        run({})


def test_events_are_emitted_in_the_calling_thread(run: Run) -> None:
    """The order is that in which they happen."""
    threads: list[tuple[Event, threading.Thread]] = []
    run(
        {"a": {"command": "true"}, "b": {"command": "true", "needs": ["a"]}},
        emit=lambda event: threads.append((event, threading.current_thread())),
    )
    assert [type(event) for event, _ in threads] == [GateBegan, GateEnded, GateBegan, GateEnded]
    assert {thread for _, thread in threads} == {threading.current_thread()}


def test_the_report_fits_the_manifest(run: Run, tmp_path: Path) -> None:
    """Every result is plain JSON with times."""
    result = run({"a": {"command": "exit 1"}, "b": {"json": "x"}, "c": {"path": "x"}})
    document = encode(result.report)
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    for check in document["checks"]:
        assert check["startedAt"] <= check["completedAt"]
        assert check["diagnostics"]["next"]
    assert result.log_directory == tmp_path / "memory/release-pipeline/logs/v1"
    assert sorted(path.name for path in result.log_directory.iterdir()) == ["a.log"]


# Stopping


GATES = """{{
    "polite": {{"command": "sleep 60; : {tag}"}},
    "rude": {{"command": "trap '' TERM; echo up > {ready}; while :; do sleep 0.1; done; : {tag}"}},
    "hidden": {{"command": "setsid sh -c 'trap \\"\\" TERM; sleep 60; : {tag}' & sleep 60"}},
    "health": {{"http": "health"}},
}}"""

SCRIPT = """
import pathlib, signal, sys, time
from release_tasks.tasks.project import load_settings
from release_tasks.core.errors import ExitCode, Interrupted
from release_tasks.stages.preflight.engine import run_preflight

def stop(number, frame):
    raise Interrupted(ExitCode.SIGTERM)

signal.signal(signal.SIGTERM, stop)
# A shell that starts the tests in the background hands down SIGINT as ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
health = {{"url": "http://127.0.0.1:{port}/", "deadline": "60s", "interval": "30s"}}
raw = {{"release": {{"gates": {gates}, "health": health}}}}
try:
    run_preflight(load_settings(raw, pathlib.Path({project!r})), release_id="v1")
except KeyboardInterrupt:
    sys.exit(130)
except Interrupted as error:
    sys.exit(int(error.exit_code))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("is_repeated", [False, True])
@pytest.mark.slow
def test_a_signal_to_the_process_alone_leaves_no_orphan(
    tmp_path: Path,
    tag: str,
    nothing_left: Callable[[], None],
    number: signal.Signals,
    is_repeated: bool,
) -> None:
    """All processes end within 2 s of the signal, also when it comes twice."""
    ready = tmp_path / "ready"
    gates = GATES.format(tag=tag, ready=ready)
    script = SCRIPT.format(gates=gates, project=str(tmp_path), port=9)
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONFAULTHANDLER": ""},
        start_new_session=True,
    )
    try:
        until = time.monotonic() + 20
        while not ready.exists() and time.monotonic() < until and process.poll() is None:
            time.sleep(0.01)
        started = time.monotonic()
        process.send_signal(number)
        if is_repeated:
            time.sleep(0.1)
            process.send_signal(number)
        _, errors = process.communicate(timeout=10)
        took = time.monotonic() - started
    finally:
        process.kill()
        process.wait()
    assert process.returncode == (130 if number == signal.SIGINT else 143), errors
    assert took < 8
    assert errors == b""
    nothing_left()


def test_an_exception_of_a_consumer_ends_every_gate(run: Run, tag: str, nothing_left: Callable[[], None]) -> None:
    """No gate runs on after the caller has ended."""

    def explode(event: Event) -> None:
        if isinstance(event, GateEnded):
            raise Interrupted(ExitCode.SIGTERM)

    gates = {"long": {"command": f"sleep 60; : {tag}"}, "short": {"command": "true"}}
    started = time.monotonic()
    with pytest.raises(Interrupted):
        run(gates, emit=explode)
    assert time.monotonic() - started < 10
    nothing_left()


# JUnit


def test_junit_has_every_check(run: Run) -> None:
    """Failures are failures, advisory and skipped gates are skipped, output is attached."""
    result = run(
        {
            "build": {"command": "echo '<oops> & \x01'; exit 2", "subsystem": "core"},
            "tests": {"command": "true", "needs": ["build"]},
            "lint": {"command": "exit 1", "advisory": True},
            "gui": {"command": "true"},
        }
    )
    suite = ElementTree.fromstring(junit_xml(result.report, "release v1"))[0]
    assert suite.attrib["name"] == "release v1"
    assert [suite.attrib[key] for key in ("tests", "failures", "skipped")] == ["4", "1", "2"]
    build, tests, lint, gui = suite.findall("testcase")
    assert (build.attrib["classname"], build.attrib["name"]) == ("core", "build")
    failure = build.find("failure")
    assert failure is not None and failure.attrib["message"] == "exit code 2"
    assert "next: inv gate.run build" in (failure.text or "")
    assert (build.findtext("system-out") or "").startswith("<oops> & ")
    assert "needs build" in tests.find("skipped").attrib["message"]  # type: ignore[union-attr]
    assert lint.find("skipped").attrib["message"] == "advisory: exit code 1"  # type: ignore[union-attr]
    assert len(gui.findall("failure") + gui.findall("skipped")) == 0
