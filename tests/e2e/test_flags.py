"""Each flag reaches the stage it is meant for, or the command ends with 2 and one message."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.health import Health
from tests.support.invoke_project import InvokeProject


def snapshots(scratch: InvokeProject) -> list[str]:
    folder = scratch.root / "pipeline" / "snapshots"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.fixture
def asking(versioned: InvokeProject) -> InvokeProject:
    """Return a project with a health gate whose configured endpoint does not exist."""
    versioned.configuration["release"]["health"]["url"] = "http://127.0.0.1:9/health"
    versioned.configuration["release"]["gates"]["api-health"] = {"http": "health"}
    return versioned


@pytest.mark.slow
def test_health_url_on_prepare_reaches_its_preflight(asking: InvokeProject, health: Health) -> None:
    """--health-url reaches the pre-task, and the manifest has the requested URL."""
    manifest = asking.document("release.prepare", "--health-url", health.url)
    asked = next(check for check in manifest["preflight"]["checks"] if check["id"] == "api-health")
    assert (manifest["status"], asked["diagnostics"]["url"]) == ("ready", health.url)
    assert health.requests > 0


@pytest.mark.slow
def test_a_chain_runs_the_gates_once_with_the_given_url(asking: InvokeProject, health: Health) -> None:
    """``release.preflight release.prepare --health-url URL`` runs the gates once."""
    manifest = asking.document("release.preflight", "release.prepare", "--health-url", health.url)
    assert manifest["status"] == "ready"
    assert asking.gate_runs() == 1


def test_two_different_urls_end_with_2_before_any_gate(asking: InvokeProject, health: Health) -> None:
    """Contradicting flags are an error."""
    done = asking.run("release.preflight", "--health-url", health.url, "release.prepare", "--health-url", "http://x/")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert (asking.gate_runs(), health.requests, snapshots(asking)) == (0, 0, [])


@pytest.mark.slow
def test_the_stock_executor_refuses_gates_run_with_other_arguments(asking: InvokeProject, health: Health) -> None:
    """Without the executor line prepare refuses, shows the line, and publishes nothing."""
    del asking.configuration["tasks"]
    done = asking.run("release.prepare", "--health-url", health.url)
    assert done.returncode == 2
    assert "executor_class: release_tasks.executor.StageExecutor" in done.stderr
    assert snapshots(asking) == []
    assert not (asking.root / "pipeline" / "manifests").exists()


@pytest.mark.slow
def test_the_stock_executor_prepares_without_flags(versioned: InvokeProject) -> None:
    """The suite works without the executor line when no flag has to reach a pre-task."""
    del versioned.configuration["tasks"]
    assert versioned.document("release.prepare")["status"] == "ready"


@pytest.mark.slow
def test_a_skipped_gate_blocks_the_release(scratch: InvokeProject) -> None:
    """A gate in --skip was not checked, so the release is blocked."""
    scratch.configuration["release"]["gates"]["other"] = {"command": "true"}
    done = scratch.run("release.preflight", "--skip", "count", "release.prepare", "--release-id", "v1")
    assert done.returncode == 1
    manifest = json.loads((scratch.root / "pipeline/manifests/v1.json").read_text())
    assert (manifest["status"], manifest["snapshot"], snapshots(scratch)) == ("blocked", None, [])
    assert "count" in manifest["diagnostics"][0]


REFUSED = [
    ("release.prepare --release-id=", "--release-id: the value is empty"),
    ("-f missing.yaml release.status", "missing.yaml: no such file"),
    ("gate.run nonesuch", "nonesuch"),
    ("release.preflight --only nonesuch", "nonesuch"),
    ("release.rollback --snapshot nonesuch", "nonesuch"),
    ("release.rollback --snapshot ../..", "not a valid id"),
    ("release.rollback --snapshot a/b", "not a valid id"),
    ("release.rollback --snapshot --help", "start with '-'"),
    ("release.rollback --wait soon", "duration"),
    ("release.prepare --release-id ../x", "not a valid id"),
    ("release.prepare --release-id latest", "latest"),
    ("release.prepare --retention none", "whole number"),
    ("release.prepare --retention 0", "1 or more"),
    ("release.status --limit many", "whole number"),
    ("release.audit --limit -3", "start with '-'"),
    ("release.verify --snapshot ..", "not a valid id"),
    ("gateway.start --port http", "whole number"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("line", "message"), REFUSED)
def test_useless_input_ends_with_2_and_one_message(scratch: InvokeProject, line: str, message: str) -> None:
    """No gate runs, nothing is captured, and there is no traceback."""
    done = scratch.run(*line.split())
    said_lines = [text for text in done.stderr.strip().splitlines() if not text.startswith(">")]
    assert done.returncode == 2, done
    assert len(said_lines) == 1 and message in said_lines[0], done.stderr
    assert (scratch.gate_runs(), snapshots(scratch)) == (0, [])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("retention", "many", "invoke.yaml:1: release.retention: expected a whole number"),
        ("retentoin", 3, "did you mean 'retention'"),
        ("gates", {"build": {"command": "x", "path": "y"}}, "expected exactly one of"),
        ("assets", {"a": {"file": "x"}, "b": {"file": "x"}}, "overlaps with"),
    ],
)
@pytest.mark.slow
def test_a_wrong_configuration_names_file_and_path(scratch: InvokeProject, key: str, value: Any, message: str) -> None:
    """Exit 2 with the source, the dotted path and the expected value."""
    scratch.configuration["release"][key] = value
    done = scratch.run("release.status")
    assert (done.returncode, message in done.stderr, "Traceback" in done.stderr) == (2, True, False), done.stderr


@pytest.mark.slow
def test_environment_overrides_are_converted(scratch: InvokeProject) -> None:
    """``false`` is false, digits are a number, and a wrong value is reported with its variable."""
    scratch.configuration["release"]["gates"]["bad"] = {"command": "false", "advisory": True}
    assert scratch.run("release.preflight").returncode == 0
    scratch.variables["INVOKE_RELEASE_GATES_BAD_ADVISORY"] = "false"
    assert scratch.run("release.preflight").returncode == 1
    scratch.variables["INVOKE_RELEASE_RETENTION"] = "soon"
    done = scratch.run("release.status")
    assert done.returncode == 2
    assert "INVOKE_RELEASE_RETENTION" in done.stderr
