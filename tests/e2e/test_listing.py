"""``inv --list`` shows the tasks that the project has something configured for; the others still run when typed."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.support.invoke_project import InvokeProject

COMMAND = {"command": "true"}
INTERFACES = dict.fromkeys(("gui", "dispatcher", "mcp-config"), COMMAND)
ALWAYS = {"gate.run", "release.status"}
OPTIONAL = {"gate.build", "gate.tests", "gate.api-health", "gate.interfaces", "gateway.start", "pairing.list"}
PROGRAM = [sys.executable, "-m", "release_tasks.tasks.program"]


def listed(project: InvokeProject, *words: str) -> set[str]:
    """Return the tasks of ALWAYS and OPTIONAL that the listing contains."""
    done = project.run("--list", *words)
    assert (done.returncode, done.stderr) == (0, ""), done
    return {name for name in ALWAYS | OPTIONAL if f"  {name} " in done.stdout}


@pytest.mark.parametrize("command", [None, PROGRAM], ids=["inv", "release-tasks"])
@pytest.mark.parametrize(
    ("gates", "sections", "expected"),
    [
        ({}, {}, set()),
        ({"build": COMMAND, "api-health": COMMAND}, {}, {"gate.build", "gate.api-health"}),
        (INTERFACES, {}, {"gate.interfaces"}),
        ({"gui": COMMAND, "tests": COMMAND}, {}, {"gate.tests"}),
        ({}, {"pairing": {"ttl": "1h"}}, {"pairing.list"}),
        ({}, {"gateway": {"port": 3100}}, {"gateway.start", "pairing.list"}),
    ],
)
def test_the_list_contains_what_is_configured(
    versioned: InvokeProject,
    command: list[str] | None,
    gates: dict[str, Any],
    sections: dict[str, Any],
    expected: set[str],
) -> None:
    """Gates of the project; the gateway's tasks with its section, pairing with its own or the gateway's."""
    versioned.command = command or versioned.command
    versioned.configuration["release"]["gates"] = gates
    versioned.configuration |= sections
    assert listed(versioned) == ALWAYS | expected


def test_a_tasks_file_may_configure_gates(scratch: InvokeProject) -> None:
    """``ns.configure`` counts like invoke.yaml."""
    line = 'ns.configure({"release": {"gates": {"tests": {"command": "true"}}}, "gateway": {}})'
    (scratch.root / "tasks.py").write_text(f"from release_tasks import ns\n{line}\n")
    assert listed(scratch) == ALWAYS | {"gate.tests", "gateway.start", "pairing.list"}


def test_json_and_a_subfolder_list_the_same(scratch: InvokeProject) -> None:
    """A list for programs leaves the same tasks out, and Invoke finds the project from a folder below it."""
    scratch.configuration["release"]["gates"] = {"build": COMMAND}
    done = scratch.run("--list", "--list-format", "json")
    tasks = {part["name"]: [task["name"] for task in part["tasks"]] for part in json.loads(done.stdout)["collections"]}
    assert (tasks["gate"], tasks["gateway"], tasks["pairing"]) == (["build", "run"], [], [])
    folder = scratch.root / "below"
    folder.mkdir()
    below = [*scratch.command, "--list"]
    done = subprocess.run(below, cwd=folder, env=scratch.variables, capture_output=True, text=True)
    assert "gate.build" in done.stdout and "gate.tests" not in done.stdout, done


@pytest.mark.slow
def test_a_task_that_is_not_listed_runs_when_typed(versioned: InvokeProject) -> None:
    """It says what is missing, as it does where it is listed; its collection lists it by name."""
    done = versioned.run("gate.build")
    assert (done.returncode, done.stderr.strip()) == (2, "unknown gate 'build'; release.gates has: count")
    assert versioned.run("gateway.status").returncode == 1
    assert versioned.run("--help", "pairing.list").returncode == 0
    assert ".start" in versioned.run("--list", "gateway").stdout
    assert ".tests" in versioned.run("--list", "gate").stdout


@pytest.mark.parametrize("release", ["text", ["a list"], {"gates": "text"}, {"gates": ["a list"]}, None])
def test_a_configuration_that_cannot_be_used_hides_nothing(versioned: InvokeProject, release: object) -> None:
    """What is wrong with it is for the task to report."""
    versioned.configuration["release"] = release
    assert listed(versioned) == ALWAYS | OPTIONAL


@pytest.mark.slow
def test_a_file_that_cannot_be_read_is_one_sentence(versioned: InvokeProject) -> None:
    """It names the file and the line."""
    (versioned.root / "invoke.yaml").write_text("a: [1\n")
    for command in (versioned.command, PROGRAM):
        done = _run_as_it_is(versioned, *command)
        sentence = "invoke.yaml:1: a `[` that begins here is not closed, or a comma is missing in it\n"
        assert (done.returncode, done.stderr) == (2, sentence), done


def _run_as_it_is(project: InvokeProject, *command: str) -> subprocess.CompletedProcess[str]:
    """List the tasks with the invoke.yaml that the test wrote."""
    line = [*command, "--list"]
    return subprocess.run(line, cwd=project.root, env=project.variables, capture_output=True, text=True)


def test_a_runtime_file_may_configure_what_the_project_does_not(versioned: InvokeProject) -> None:
    """Invoke reads it after it has listed the tasks, so everything is listed."""
    (versioned.root / "other.yaml").write_text("gateway: {port: 3100}\n")
    assert listed(versioned, "-f", "other.yaml") == ALWAYS | OPTIONAL
    versioned.variables["INVOKE_RUNTIME_CONFIG"] = "other.yaml"
    assert listed(versioned) == ALWAYS | OPTIONAL


def test_the_list_loads_no_library_of_a_stage(scratch: InvokeProject) -> None:
    """Invoke and the standard library are enough."""
    heavy = ("requests", "cattrs", "attrs", "rich", "apsw", "psutil", "starlette")
    code = "import sys; from invoke import Program; Program().run('inv --list', exit=False); "
    code += f"print([name for name in {heavy} if name in sys.modules])"
    scratch.command = [sys.executable, "-c"]
    assert scratch.run(code).stdout.endswith("[]\n")
