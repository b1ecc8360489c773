"""Configured notifications: the recipients when ``inv`` ends, and that they cannot change its result."""

from __future__ import annotations

import json
import signal
import time
from typing import IO, Any

import pytest

from tests.support.health import Health
from tests.support.invoke_project import InvokeProject

pytestmark = pytest.mark.slow

APPEND = "cat >> received; echo >> received"


@pytest.fixture
def project(scratch: InvokeProject) -> InvokeProject:
    """Return a project whose notification command appends each document to the file ``received``."""
    scratch.configuration["release"]["notices"] = {"pager": {"command": APPEND}}
    return scratch


def received(project: InvokeProject) -> list[dict[str, Any]]:
    file = project.root / "received"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def occasions(project: InvokeProject) -> list[str]:
    return [document["occasion"] for document in received(project)]


def notice_events(project: InvokeProject) -> list[dict[str, Any]]:
    document = project.document("release.audit", "--limit", "100")
    assert document["status"] == "intact"
    return [event for event in document["events"] if event["event"].startswith("notice.")]


def test_prepared_and_restored(project: InvokeProject) -> None:
    """A release and a rollback notify once each; a noop rollback sends nothing."""
    project.document("release.prepare", "--release-id", "v1")
    (project.root / "state.txt").write_text("two")
    outcome = project.document("release.rollback")
    assert outcome["status"] == "restored"
    assert project.document("release.rollback")["status"] == "noop"
    first, second = received(project)
    assert (first["occasion"], first["stage"], first["status"]) == ("prepared", "release.prepare", "ready")
    assert first["application"] == {"name": "theirs", "version": "2.1"}
    assert (first["releaseId"], first["next"]) == ("v1", "inv release.watch --health-url URL")
    assert (second["occasion"], second["stage"], second["snapshotId"]) == (
        "restored",
        "release.rollback",
        outcome["snapshotId"],
    )
    assert second["application"]["version"] == "2.1" and second["id"] != first["id"]
    events = notice_events(project)
    assert [(event["event"], event["occasion"]) for event in events] == [
        ("notice.sent", "prepared"),
        ("notice.sent", "restored"),
    ]
    assert [event["noticeId"] for event in events] == [first["id"], second["id"]]


def test_blocked_names_the_gate_and_the_next_command(project: InvokeProject) -> None:
    """The next command is that of the failed gate."""
    project.configuration["release"]["gates"] = {"tests": {"command": "exit 3"}}
    assert project.document("release.prepare", "--release-id", "v1", code=1)["status"] == "blocked"
    (document,) = received(project)
    assert (document["occasion"], document["detail"]) == ("blocked", "tests: exit code 3")
    assert document["next"].startswith("inv gate.run tests")


def test_failed_is_sent_to_subscribers_of_failed_only(project: InvokeProject) -> None:
    """A rollback whose service stays unhealthy notifies the receivers of `failed`."""
    project.configuration["release"]["notices"] = {
        "pager": {"command": APPEND, "when": ["failed"]},
        "chat": {"command": "touch chat", "when": ["prepared"]},
    }
    project.document("release.prepare", "--release-id", "v1")
    (project.root / "chat").unlink()
    (project.root / "state.txt").write_text("two")
    project.configuration["release"]["health"].update(url="http://127.0.0.1:9/health", deadline="300ms")
    assert project.document("release.rollback", code=1)["status"] == "failed"
    assert occasions(project) == ["failed"] and not (project.root / "chat").exists()
    assert received(project)[0]["next"] == "inv release.diagnose"


def test_degraded_is_sent_while_the_rollback_runs(project: InvokeProject, health: Health) -> None:
    """The rollback does not delay the first notification, and a hanging command does not delay the rollback."""
    release = project.configuration["release"]
    release["health"].update(url=health.url, deadline="300ms")
    release["notices"] = {
        "pager": {"command": APPEND},
        "slow": {
            "command": "touch begun; until test -e go; do sleep 0.05; done",
            "when": ["degraded"],
            "timeout": "1m",
        },
    }
    project.document("release.prepare", "--release-id", "v1")
    (project.root / "state.txt").write_text("two")
    health.status = 500
    process = project.start("release.watch", "--for", "1m", "--interval", "100ms", "--rollback", "--json")
    while (project.root / "state.txt").read_text() != "one":
        assert process.poll() is None
        time.sleep(0.01)
    health.status = 200
    while not (project.root / "begun").exists():
        time.sleep(0.01)
    (project.root / "go").touch()  # only now: the rollback did not wait for it
    out, _ = process.communicate(timeout=60)
    assert json.loads(out)["rollback"] is not None
    documents = {document["occasion"]: document for document in received(project)}
    assert "rolling back now" in documents["degraded"]["text"]
    assert documents["degraded"]["stage"] == "release.watch"
    assert set(documents) in ({"prepared", "degraded", "restored"}, {"prepared", "degraded", "failed"})
    kinds = [event["event"] for event in project.document("release.audit", "--limit", "50")["events"]]
    newest_first = kinds[::-1] if kinds.index("prepare.ready") < kinds.index("rollback.started") else kinds
    assert newest_first[:3] == ["notice.sent"] * 3  # all of them after the event of the rollback


def test_degraded_without_a_snapshot_is_sent(project: InvokeProject, health: Health) -> None:
    """The watch is to roll back and has no snapshot: an operator must act."""
    project.configuration["release"]["health"]["url"] = health.url
    health.status = 500
    line = ["release.watch", "--for", "1m", "--interval", "100ms", "--rollback"]
    assert project.document(*line, code=1)["status"] == "degraded"
    assert sorted(occasions(project)) == ["degraded", "failed"]
    (failure,) = [document for document in received(project) if document["occasion"] == "failed"]
    assert "the requested rollback did not happen" in failure["text"]


def test_an_interrupted_rollback_that_cannot_be_finished_is_sent(project: InvokeProject) -> None:
    """The start gate of the service fails, and notifies besides the journal of the system."""
    project.document("release.prepare", "--release-id", "v1")
    (project.root / "pipeline" / "rollback-journal.json").write_text("{}")
    project.document("release.recover", code=1)
    assert occasions(project) == ["prepared", "failed"]
    assert received(project)[1]["stage"] == "release.recover"


@pytest.mark.parametrize(
    "line", ["--dry release.prepare", "--dry release.rollback", "release.rollback --plan", "release.drill"]
)
def test_commands_that_change_nothing_send_nothing(project: InvokeProject, line: str) -> None:
    """No notification is sent."""
    project.document("release.prepare", "--release-id", "v1")
    (project.root / "state.txt").write_text("two")
    assert project.run(*line.split()).returncode == 0
    assert occasions(project) == ["prepared"]


FAULTS = {
    "hangs": {"command": "sleep 600", "timeout": "300ms", "retries": 0},
    "is-not-there": {"command": "./no-such-pager"},
    "fails": {"command": "exit 1", "retries": 0},
    "floods": {"command": "yes | head -c 50000000"},
    "leaves-a-child": {"command": "sleep 600 & exit 0"},
    "closes-its-input": {"command": "exec <&-"},
    "ends-itself": {"command": "kill -TERM $$", "retries": 0},
    "repeats-it": {"command": "cat | tee /dev/stderr"},
    "refused": {"webhook": "http://127.0.0.1:9/hook", "retries": 0},
    "no-secret": {"webhook": "http://127.0.0.1:9/hook", "hmac_secret_env": "NOT_SET_ANYWHERE"},
    "no-address": {"webhook_env": "NOT_SET_ANYWHERE"},
}


def test_no_notification_changes_a_result(scratch: InvokeProject) -> None:
    """Status, document and exit code are those without notifications, with good and bad results and every fault."""
    plain = scratch.document("release.prepare", "--release-id", "v1")
    scratch.configuration["release"]["notices"] = FAULTS
    ready = scratch.document("release.prepare", "--release-id", "v2")
    assert set(ready) == set(plain) and ready["status"] == "ready"
    scratch.configuration["release"]["gates"] = {"tests": {"command": "exit 3"}}
    assert scratch.document("release.prepare", "--release-id", "v3", code=1)["status"] == "blocked"
    (scratch.root / "state.txt").write_text("two")
    assert scratch.document("release.rollback")["status"] == "restored"
    assert scratch.document("release.rollback")["status"] == "noop"
    events = notice_events(scratch)
    assert len(events) == 3 * len(FAULTS)
    sent = {"floods", "leaves-a-child", "closes-its-input", "repeats-it"}
    assert {event["notice"] for event in events if event["event"] == "notice.sent"} == sent


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("is_blocked", [False, True])
def test_a_signal_while_a_notification_command_hangs(
    scratch: InvokeProject, number: signal.Signals, code: int, is_blocked: bool
) -> None:
    """The result is already printed; a negative one keeps its code, after a good one no other task starts."""
    scratch.configuration["release"]["notices"] = {"pager": {"command": "touch begun; sleep 600", "timeout": "1m"}}
    if is_blocked:
        scratch.configuration["release"]["gates"] = {"tests": {"command": "exit 3"}}
    process = scratch.start("release.prepare", "--release-id", "v1", "release.rollback", "--json")
    while not (scratch.root / "begun").exists():
        assert process.poll() is None
        time.sleep(0.01)
    assert process.stderr is not None
    for line in process.stderr:
        if "sending notifications: pager" in line:
            break
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == (1 if is_blocked else code), err
    assert ("release v1" in out or "v1" in out) and "RESTORED" not in out
    assert ("BLOCKED" if is_blocked else "READY") in out
    (event,) = notice_events(scratch)
    assert (event["event"], event["detail"]) == ("notice.failed", "stopped before it had a result")


def test_the_answer_does_not_wait_for_a_hanging_notification(scratch: InvokeProject) -> None:
    """The operator reads the result before the notification is given up."""
    scratch.configuration["release"]["notices"] = {"pager": {"command": "sleep 600", "timeout": "1h"}}
    process = scratch.start("release.prepare", "--release-id", "v1", "--json")
    assert process.stdout is not None
    assert json.loads(read_document(process.stdout))["status"] == "ready"
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)


def read_document(stream: IO[str]) -> str:
    lines: list[str] = []
    for line in stream:
        lines.append(line)
        if line == "}\n":
            break
    return "".join(lines)


def test_mistakes_are_reported_before_any_stage(project: InvokeProject) -> None:
    """The message has the file, the path and the probable key."""
    project.configuration["release"]["notices"]["pager"]["when"] = ["restord"]
    done = project.run("release.prepare")
    assert done.returncode == 2
    assert "release.notices.pager: when: expected one or more of prepared, blocked" in done.stderr
    assert "did you mean 'restored'?" in done.stderr
    assert project.gate_runs() == 0


def test_a_bare_on_key_is_reported(versioned: InvokeProject, monkeypatch: pytest.MonkeyPatch) -> None:
    """YAML reads `on` as true, and Invoke would end with a traceback: the written key is named, by each Invoke."""
    versioned.write()
    text = (
        "tasks: {executor_class: release_tasks.executor.StageExecutor}\n"
        "release: {notices: {pager: {command: x, on: [failed]}}}\n"
    )
    monkeypatch.setattr(versioned, "write", lambda: (versioned.root / "invoke.yaml").write_text(text))
    done = versioned.run("release.status")
    assert done.returncode == 2
    problem = (
        'invoke.yaml:2: release.notices.pager.on: expected a text as key; unquoted, on is true: put it in quotes: "on"'
    )
    assert done.stderr.splitlines()[0] == problem and "Traceback" not in done.stderr
