"""Notices as they are configured: who is told what when ``inv`` ends, and that it can change nothing about that end."""

from __future__ import annotations

import json
import signal
import time

import pytest

pytestmark = pytest.mark.slow

TOLD = "cat >> told; echo >> told"


@pytest.fixture
def project(scratch):
    """Return a project whose pager appends what it is told to the file ``told``."""
    scratch.configuration["release"]["notices"] = {"pager": {"command": TOLD}}
    return scratch


def told(project):
    file = project.root / "told"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def occasions(project):
    return [document["occasion"] for document in told(project)]


def notice_events(project):
    document = project.document("release.audit", "--limit", "100")
    assert document["status"] == "intact"
    return [event for event in document["events"] if event["event"].startswith("notice.")]


def test_prepared_and_restored(project):
    """A release and a rollback to it are told once each; a rollback that finds all in place tells nobody."""
    project.document("release.prepare", "--release-id", "v1")
    (project.root / "state.txt").write_text("two")
    outcome = project.document("release.rollback")
    assert outcome["status"] == "restored"
    assert project.document("release.rollback")["status"] == "noop"
    first, second = told(project)
    assert (first["occasion"], first["stage"], first["status"]) == ("prepared", "release.prepare", "ready")
    assert first["application"] == {"name": "theirs", "version": "2.1"}
    assert (first["releaseId"], first["next"]) == ("v1", "inv release.watch")
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


def test_blocked_names_the_gate_and_what_to_type(project):
    """The next command is the one that the failed gate names."""
    project.configuration["release"]["gates"] = {"tests": {"command": "exit 3"}}
    assert project.document("release.prepare", "--release-id", "v1", code=1)["status"] == "blocked"
    (document,) = told(project)
    assert (document["occasion"], document["detail"]) == ("blocked", "tests: exit code 3")
    assert document["next"].startswith("inv gate.run tests")


def test_failed_and_who_does_not_want_to_know(project):
    """A rollback whose service does not get well is told to those who asked for that."""
    project.configuration["release"]["notices"] = {
        "pager": {"command": TOLD, "when": ["failed"]},
        "chat": {"command": "touch chat", "when": ["prepared"]},
    }
    project.document("release.prepare", "--release-id", "v1")
    (project.root / "chat").unlink()
    (project.root / "state.txt").write_text("two")
    project.configuration["release"]["health"].update(url="http://127.0.0.1:9/health", deadline="300ms")
    assert project.document("release.rollback", code=1)["status"] == "failed"
    assert occasions(project) == ["failed"] and not (project.root / "chat").exists()
    assert told(project)[0]["next"] == "inv release.diagnose"


def test_degraded_is_told_while_it_is_rolled_back(project, health):
    """The first notice is not held up by the rollback, nor the rollback by a pager that hangs."""
    release = project.configuration["release"]
    release["health"].update(url=health.url, deadline="300ms")
    release["notices"] = {
        "pager": {"command": TOLD},
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
    documents = {document["occasion"]: document for document in told(project)}
    assert "rolling back now" in documents["degraded"]["text"]
    assert documents["degraded"]["stage"] == "release.watch"
    assert set(documents) in ({"prepared", "degraded", "restored"}, {"prepared", "degraded", "failed"})
    kinds = [event["event"] for event in project.document("release.audit", "--limit", "50")["events"]]
    newest_first = kinds[::-1] if kinds.index("prepare.ready") < kinds.index("rollback.started") else kinds
    assert newest_first[:3] == ["notice.sent"] * 3  # all of them after the account of the rollback


def test_a_rollback_that_a_watch_owes_is_told(project, health):
    """Degraded, to be rolled back, and nothing to go back to: somebody has to come."""
    project.configuration["release"]["health"]["url"] = health.url
    health.status = 500
    line = ["release.watch", "--for", "1m", "--interval", "100ms", "--rollback"]
    assert project.document(*line, code=1)["status"] == "degraded"
    assert sorted(occasions(project)) == ["degraded", "failed"]
    (failure,) = [document for document in told(project) if document["occasion"] == "failed"]
    assert "the requested rollback did not happen" in failure["text"]


def test_an_interrupted_rollback_that_cannot_be_finished_is_told(project):
    """The start gate of the service fails, and says so to more than the journal of the system."""
    project.document("release.prepare", "--release-id", "v1")
    (project.root / "pipeline" / "rollback-journal.json").write_text("{}")
    project.document("release.recover", code=1)
    assert occasions(project) == ["prepared", "failed"]
    assert told(project)[1]["stage"] == "release.recover"


@pytest.mark.parametrize(
    "line", ["--dry release.prepare", "--dry release.rollback", "release.rollback --plan", "release.drill"]
)
def test_rehearsals_are_silent(project, line):
    """What changes nothing tells nobody."""
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
    "nobody-listens": {"webhook": "http://127.0.0.1:9/hook", "retries": 0},
    "no-secret": {"webhook": "http://127.0.0.1:9/hook", "hmac_secret_env": "NOT_SET_ANYWHERE"},
    "no-address": {"webhook_env": "NOT_SET_ANYWHERE"},
}


def test_no_notice_changes_a_result(scratch):
    """Status, document and exit code of good and of bad ends are those without any notice, whatever goes wrong."""
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
def test_a_signal_while_a_pager_hangs(scratch, number, code, is_blocked):
    """The result is shown already and stands; a negative one keeps its code, after a good one nothing else begins."""
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


def test_no_answer_waits_for_a_pager(scratch):
    """What an operator wants to read at three in the morning is there before the pager has been given up."""
    scratch.configuration["release"]["notices"] = {"pager": {"command": "sleep 600", "timeout": "1h"}}
    process = scratch.start("release.prepare", "--release-id", "v1", "--json")
    assert process.stdout is not None
    assert json.loads(read_document(process.stdout))["status"] == "ready"
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)


def read_document(stream):
    lines = []
    for line in stream:
        lines.append(line)
        if line == "}\n":
            break
    return "".join(lines)


def test_mistakes_are_told_before_anything_runs(project):
    """With the file, the path, and what was probably meant."""
    project.configuration["release"]["notices"]["pager"]["when"] = ["restord"]
    done = project.run("release.prepare")
    assert done.returncode == 2
    assert "release.notices.pager: when: expected some of prepared, blocked" in done.stderr
    assert "did you mean 'restored'?" in done.stderr
    assert project.gate_runs() == 0


def test_a_bare_on_is_no_key(versioned):
    """YAML takes it for true, and Invoke would end with a traceback: it is named, under each Invoke."""
    versioned.write()
    text = (
        "tasks: {executor_class: release_tasks.executor.StageExecutor}\n"
        "release: {notices: {pager: {command: x, on: [failed]}}}\n"
    )
    versioned.write = lambda: (versioned.root / "invoke.yaml").write_text(text)
    done = versioned.run("release.status")
    assert done.returncode == 2
    assert "release.notices.pager.True: a key that is not text" in done.stderr and "Traceback" not in done.stderr
