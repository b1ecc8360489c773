"""Mistakes that Invoke does not catch: one sentence and exit code 2, by the oldest and the latest Invoke."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.invoke_project import InvokeProject

PROGRAM = [sys.executable, "-m", "release_tasks.tasks.program"]
EXECUTOR = "tasks: {executor_class: release_tasks.executor.StageExecutor}\n"

pytestmark = pytest.mark.slow

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(versioned: InvokeProject) -> Run:
    """Return a function that writes invoke.yaml and runs a command line."""

    def run_with(text: str, *words: str, command: list[str] | None = None) -> subprocess.CompletedProcess[str]:
        Path(versioned.root, "invoke.yaml").write_text(text)
        return subprocess.run(
            [*(command or versioned.command), *(words or ("release.status",))],
            cwd=versioned.root,
            env=versioned.variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )

    return run_with


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("release:\n\tretention: 3\n", "invoke.yaml:2: a tab before the first word: YAML indents with spaces only"),
        ("- release\n", "invoke.yaml:1: expected keys such as `release:` at the top of the file, got a list"),
        ("tasks: [x]\n", "invoke.yaml:1: tasks: expected keys and values below it, got ['x']"),
        (
            "tasks:\n  executor_class: release_tasks.executor.StageExecuter\n",
            "invoke.yaml:2: tasks.executor_class: 'release_tasks.executor.StageExecuter' cannot be loaded: module "
            "'release_tasks.executor' has no attribute 'StageExecuter'. The executor of this package is "
            "release_tasks.executor.StageExecutor",
        ),
    ],
)
def test_a_mistake_before_the_task_is_one_sentence(run: Run, text: str, sentence: str) -> None:
    """With inv and with release-tasks; with --json also a document."""
    for command in (None, PROGRAM):
        done = run(text, "release.status", "--json", command=command)
        assert (done.returncode, done.stderr) == (2, f"{sentence}\n"), done
        assert json.loads(done.stdout) == {"status": "error", "exitCode": 2, "message": sentence}


def test_the_traceback_is_shown_with_invoke_debug(versioned: InvokeProject, run: Run) -> None:
    """The sentence comes last."""
    versioned.variables["INVOKE_DEBUG"] = "1"
    done = run("a: [1\n")
    assert done.returncode == 2 and "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("invoke.yaml:1: a `[` that begins here")


def test_the_error_of_a_task_stays_a_traceback(versioned: InvokeProject, run: Run) -> None:
    """Only errors of the loading are shown as a sentence, also where the error has the same type."""
    lines = "from invoke import Config, task\nfrom release_tasks import ns\n@task\ndef mine(ctx):\n"
    load = "    Config(project_location='other').load_project()\n"
    (versioned.root / "other").mkdir()
    (versioned.root / "other" / "invoke.yaml").write_text("a: [1\n")
    (versioned.root / "tasks.py").write_text(f"{lines}{load}ns.add_task(mine)\n")
    for text in ("", EXECUTOR):
        done = run(text, "mine")
        assert done.returncode == 1 and "Traceback" in done.stderr, done


def test_a_variable_for_a_number_may_have_a_unit(versioned: InvokeProject, run: Run) -> None:
    """Invoke itself would convert it to the type of the number in the file; a wrong value names the variable."""
    text = EXECUTOR + "release:\n  gates: {build: {command: sleep 20, timeout: 60}}\n"
    versioned.variables["INVOKE_RELEASE_GATES_BUILD_TIMEOUT"] = "100ms"
    done = run(text, "release.preflight")
    assert done.returncode == 1 and "100ms" in done.stdout, done
    versioned.variables["INVOKE_RELEASE_GATES_BUILD_TIMEOUT"] = "soon"
    done = run(text, "release.preflight")
    assert done.returncode == 2, done
    assert done.stderr.startswith("environment variable INVOKE_RELEASE_GATES_BUILD_TIMEOUT: release.gates.build."), done


def test_the_variables_of_other_sections_are_named(versioned: InvokeProject, run: Run) -> None:
    """Invoke ends with a traceback; under its own executor too."""
    versioned.variables["INVOKE_MINE_PORT"] = "x"
    for executor in (EXECUTOR, ""):
        done = run(executor + "mine: {port: 1}\n")
        sentence = "environment variable INVOKE_MINE_PORT: mine.port: expected a value such as 1, got 'x'\n"
        assert (done.returncode, done.stderr) == (2, sentence), done
