"""``--json`` prints exactly one document on stdout; ``--dry`` changes nothing."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest

from tests.support.invoke_project import InvokeProject


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("release.preflight --json", 0),
        ("release.prepare --json", 0),
        ("release.preflight release.prepare --json", 0),
        ("release.preflight --json release.prepare", 0),
        ("release.prepare --retention none --json", 2),
        ("release.prepare --release-id ../x --json", 2),
        ("release.rollback --json", 1),
        ("release.rollback --snapshot nonesuch --json", 2),
        ("release.recover --json", 0),
        ("release.status --json", 0),
        ("release.verify --json", 0),
        ("release.audit --json", 0),
        ("gate.run count --json", 0),
        ("gate.run nonesuch --json", 2),
        ("gate.interfaces --json", 2),
        ("gateway.status --json", 1),
        ("release.status --limit many --json", 2),
        ("release.status --json release.audit --json", 2),
    ],
)
def test_stdout_is_exactly_one_document(scratch: InvokeProject, line: str, code: int) -> None:
    """This holds when gates print, on failure, and for a chain."""
    done = scratch.run(*line.split())
    assert done.returncode == code, done
    assert isinstance(json.loads(done.stdout), dict)


@pytest.mark.slow
def test_the_document_of_a_blocked_release_has_its_failed_gates(scratch: InvokeProject) -> None:
    """It includes the last lines of the gate's output."""
    scratch.configuration["release"]["gates"]["bad"] = {"command": "echo some reason; exit 3", "subsystem": "engine"}
    manifest = scratch.document("release.prepare", code=1)
    check = next(check for check in manifest["preflight"]["checks"] if check["id"] == "bad")
    assert (manifest["status"], manifest["snapshot"]) == ("blocked", None)
    assert (check["status"], check["subsystem"], check["diagnostics"]["exitCode"]) == ("failed", "engine", 3)
    assert check["diagnostics"]["outputTail"] == ["some reason"]


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["release_tasks.executor.StageExecutor", "invoke.executor.Executor"])
def test_prepare_writes_the_gates_as_junit(scratch: InvokeProject, executor: str) -> None:
    """This holds for a blocked release and under both executors."""
    scratch.configuration["tasks"]["executor_class"] = executor
    scratch.configuration["release"]["gates"]["bad"] = {"command": "exit 3"}
    assert scratch.run("release.prepare", "--junit", "reports/gates.xml").returncode == 1
    suite = ElementTree.parse(scratch.root / "reports" / "gates.xml").getroot()[0]
    assert [(case.attrib["name"], case.find("failure") is not None) for case in suite] == [
        ("count", False),
        ("bad", True),
    ]


@pytest.mark.slow
def test_both_verdicts_are_readable_without_json(scratch: InvokeProject) -> None:
    """The text has gates, verdict and the rollback command, without escapes in a pipe."""
    scratch.configuration["release"]["gates"]["bad"] = {"command": "echo some reason; exit 3", "advisory": True}
    done = scratch.run("release.prepare", "--release-id", "v1")
    assert done.returncode == 0
    assert "READY  v1" in done.stdout
    assert "some reason" in done.stdout
    assert "inv release.rollback --snapshot v1_snapshot_" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr


DRY = [
    "release.preflight --junit out.xml",
    "release.prepare",
    "release.preflight release.prepare --json",
    "release.rollback",
    "release.rollback --force --restart-command false",
    "release.recover",
    "release.status",
    "release.verify",
    "release.audit",
    "gate.run count",
    "gateway.start",
    "gateway.restart",
    "gateway.stop",
]


@pytest.mark.slow
def test_dry_changes_nothing(scratch: InvokeProject) -> None:
    """No byte, mode or name changes, with a release and with a state that a rollback would change."""
    assert scratch.run("release.prepare", "--release-id", "v1").returncode == 0
    (scratch.root / "state.txt").write_text("two")
    before = scratch.tree()
    for line in DRY:
        done = scratch.run("--dry", *line.split())
        assert done.returncode == 0, done
        assert scratch.tree() == before, line


@pytest.mark.slow
def test_plan_lists_the_changes_and_makes_none(scratch: InvokeProject) -> None:
    """--plan is exact and leaves no trace, not even in the audit log."""
    assert scratch.run("release.prepare", "--release-id", "v1").returncode == 0
    (scratch.root / "state.txt").write_text("two")
    before = scratch.tree()
    plan = scratch.document("release.rollback", "--plan")
    assert [(change["key"], change["action"]) for change in plan["changes"]] == [("state", "restore")]
    assert scratch.tree() == before


@pytest.mark.slow
def test_unknown_gates_and_missing_gates_are_errors(scratch: InvokeProject) -> None:
    """A project without gates is a mistake and does not pass."""
    scratch.configuration["release"]["gates"] = {}
    assert scratch.run("release.preflight").returncode == 2
    scratch.configuration["release"]["assets"] = {}
    assert scratch.run("release.rollback").returncode == 2
