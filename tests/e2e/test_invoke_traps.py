"""Special cases of Invoke, each with a real ``inv`` process, under the oldest and the latest Invoke."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import release_tasks

TASKS = '''
import signal
import sys
from pathlib import Path

from invoke import Collection, call, task
from release_tasks.tasks.executor import recall, record, runs_under_stage_executor, stage


def ran(line: str):
    with Path("ran.log").open("a") as log:
        print(line, file=log)


@stage(shares=("health_url",), internal=("deferred",), help={"health_url": "what to ask"})
def preflight(ctx, health_url=None, json=False, deferred=False):
    """Run every gate."""
    ran(f"preflight {health_url} {deferred}")
    record(ctx, "gates", health_url)


@stage(pre=[call(preflight, deferred=True)], shares=("health_url",))
def prepare(ctx, health_url=None, json=False, limit=5):
    """Write the manifest."""
    ran(f"prepare {health_url} {recall(ctx, 'gates')} {runs_under_stage_executor(ctx)}")


@stage()
def status(ctx, json=False):
    """Show the releases."""
    ran("status")


@stage()
def approve(ctx, channel, code, json=False):
    """Let a sender in."""
    ran(f"approve {channel} {code}")


@stage()
def wait(ctx):
    """Wait for a signal."""
    # A shell that starts the tests in the background hands down SIGINT as ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    print("waiting", flush=True)
    signal.pause()


@task
def settings(ctx):
    """Show where the configuration comes from."""
    print(ctx.config.get("origin"), ctx.config.run.dry)


def gate(name, verdict):
    @stage(name=name)
    def body(ctx):
        ran(verdict)

    return body


one, two = gate("gate", "first gate"), gate("gate", "second gate")


@task(pre=[one, two])
def gates(ctx):
    """Run two tasks of one factory."""


@task(pre=[prepare])
def deploy(ctx):
    """Deploy, prepared."""
    ran("deploy")


ns = Collection(
    approve, deploy, gates, settings, wait, release=Collection(preflight, prepare, status)
)
'''

BINARY = """
import sys
from release_tasks.tasks.program import ReleaseProgram
from suite import ns

ReleaseProgram(ns, "1.2.3").run()
"""

# Invoke needs half a second for each command line; tests/tasks/test_executor.py tests the adapter itself.
pytestmark = pytest.mark.slow

Environment = Callable[..., dict[str, str]]
EXECUTOR = "tasks:\n  executor_class: release_tasks.executor.StageExecutor\n"


@dataclass
class Project:
    """A folder with tasks, and one version of Invoke to run them with."""

    root: Path
    environment: dict[str, str]
    inv: list[str]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command line to its end."""
        return subprocess.run(
            [*self.inv, *words],
            cwd=self.root,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def succeed(self, *words: str) -> list[str]:
        """Run a command line that must succeed; return the executed tasks in order."""
        result = self.run(*words)
        assert (result.returncode, result.stderr) == (0, "")
        return self.executed()

    def executed(self) -> list[str]:
        """Return the tasks executed so far, in order."""
        log = self.root / "ran.log"
        return log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def stock(invoke_folder: Path, environment: Environment, tmp_path: Path) -> Project:
    """Return a project under Invoke's stock executor."""
    root = tmp_path / "project"
    root.mkdir()
    (root / "tasks.py").write_text(TASKS)
    script = invoke_folder / "bin" / "inv"
    return Project(root, environment(tmp_path, invoke_folder), [sys.executable, str(script)])


@pytest.fixture
def staged(stock: Project) -> Project:
    """Return a project under StageExecutor."""
    (stock.root / "invoke.yaml").write_text(EXECUTOR)
    return stock


@pytest.fixture(params=["stock", "staged"])
def either(request: pytest.FixtureRequest, stock: Project) -> Project:
    """Return a project under each of the two executors."""
    if request.param == "staged":
        (stock.root / "invoke.yaml").write_text(EXECUTOR)
    return stock


def binary_in(tmp_path: Path, variables: dict[str, str]) -> Project:
    """Return a folder without tasks.py, and the release-tasks program with the same tasks."""
    home, root = tmp_path / "elsewhere", tmp_path / "folder"
    home.mkdir()
    root.mkdir()
    (home / "suite.py").write_text(TASKS)
    (home / "binary.py").write_text(BINARY)
    return Project(root, variables, [sys.executable, str(home / "binary.py")])


@pytest.fixture
def binary(invoke_folder: Path, environment: Environment, tmp_path: Path) -> Project:
    """Return the release-tasks program under each version of Invoke."""
    return binary_in(tmp_path, environment(tmp_path, invoke_folder))


@pytest.fixture
def own_binary(environment: Environment, tmp_path: Path) -> Project:
    """Return the release-tasks program under the installed Invoke."""
    return binary_in(tmp_path, environment(tmp_path))


def assert_refused(result: subprocess.CompletedProcess[str], *parts: str) -> None:
    """Expect exit code 2, and one line on stderr with these parts."""
    assert result.returncode == 2, result
    assert len(result.stderr.splitlines()) == 1
    assert all(part in result.stderr for part in parts), result.stderr


def test_the_intended_invoke_runs(invoke_folder: Path, stock: Project) -> None:
    """The versions are those of the parameters, with this package next to them."""
    expected = invoke_folder.name.rpartition("-")[2]
    assert stock.run("--version").stdout.startswith(f"Invoke {expected}.")


@pytest.mark.parametrize(
    "line",
    [
        "release.prepare --health-url U",
        "release.preflight release.prepare --health-url U",
        "release.preflight --health-url U release.prepare",
        "--no-dedupe release.preflight --health-url U release.prepare",
    ],
)
def test_gates_run_once_with_the_url_of_any_stage(staged: Project, line: str) -> None:
    """A flag reaches the pre-task, and a chain runs the gates once."""
    assert staged.succeed(*line.split()) == ["preflight U True", "prepare U U True"]


def test_own_task_runs_prepare_first(staged: Project) -> None:
    """``pre=[release.prepare]`` of a plain task works, also after other stages."""
    expected = ["preflight U True", "prepare U U True", "deploy"]
    assert staged.succeed("release.prepare", "--health-url", "U", "deploy") == expected


def test_prepare_detects_the_stock_executor(stock: Project) -> None:
    """Without StageExecutor the URL does not reach the gates, and prepare detects it."""
    ran = stock.succeed("release.prepare", "--health-url", "U")
    assert ran == ["preflight None True", "prepare U None False"]


def test_contradicting_values_end_with_2(staged: Project) -> None:
    """Two URLs for one parameter are refused by name, and no task runs."""
    words = ["release.preflight", "--health-url", "A", "release.prepare", "--health-url", "B"]
    result = staged.run(*words)
    assert_refused(result, "release.preflight --health-url 'A'", "release.prepare --health-url 'B'")
    assert result.stdout == ""
    result = staged.run(*words, "--json")
    assert_refused(result, "contradict")
    assert json.loads(result.stdout) == {
        "status": "error",
        "exitCode": 2,
        "message": result.stderr.rstrip("\n"),
    }
    assert staged.executed() == []


def test_two_documents_are_refused_with_one(staged: Project) -> None:
    """stdout is exactly one JSON document, and two stages cannot both write it."""
    result = staged.run("release.prepare", "--json", "release.status", "--json")
    assert_refused(result, "--json", "one document", "release.prepare and release.status")
    assert json.loads(result.stdout)["exitCode"] == 2
    assert staged.executed() == []


def test_two_tasks_of_one_factory_both_run(either: Project) -> None:
    """No gate is dropped because another has the same code object."""
    assert either.succeed("gates") == ["first gate", "second gate"]


def test_values_like_flags_are_refused_with_the_usage(either: Project) -> None:
    """``--force`` instead of a code is refused, ``--help`` shows the help, and no request is approved."""
    usage = "usage: approve CHANNEL CODE [--json]"
    for words in (("approve", "telegram", "--help"), ("approve", "-h")):
        assert "Let a sender in." in either.run(*words).stdout
    result = either.run("approve", "telegram", "--force", "--json")
    assert_refused(result, "CODE", "'--force'", usage)
    assert json.loads(result.stdout)["exitCode"] == 2
    assert either.executed() == []


def test_a_value_like_a_flag_stops_the_whole_line(staged: Project) -> None:
    """The command line is checked before its first task runs."""
    assert_refused(staged.run("release.status", "approve", "telegram", "--force"), "approve: CODE")
    assert staged.executed() == []


def test_a_malformed_number_is_refused(stock: Project) -> None:
    """No traceback of Invoke is printed."""
    assert_refused(stock.run("release.prepare", "--limit", "soon"), "--limit", "number", "'soon'")
    assert stock.executed() == []


def test_help_and_list_show_flags_and_no_internals(staged: Project) -> None:
    """``inv --help TASK`` and ``inv --list`` have the form of any Invoke task."""
    shown = staged.run("--help", "release.preflight").stdout
    assert "--health-url=STRING" in shown
    assert "what to ask" in shown
    assert "deferred" not in shown
    assert staged.run("release.preflight", "--help").stdout == shown
    refused = staged.run("release.preflight", "--deferred")
    assert refused.returncode == 1  # Invoke's own code for a parse error
    listed = staged.run("--list").stdout
    assert "release.prepare" in listed
    assert "Write the manifest." in listed
    assert staged.executed() == []


@pytest.fixture(params=["inv", "release-tasks"])
def either_program(request: pytest.FixtureRequest, staged: Project, binary: Project) -> Project:
    """Return the same tasks for both programs."""
    (binary.root / "invoke.yaml").write_text("origin: here\n")
    return staged if request.param == "inv" else binary


def test_ctrl_c_ends_with_130(either_program: Project) -> None:
    """A signal to the process gives its exit code and a sentence, without a traceback."""
    project = either_program
    with subprocess.Popen(
        [*project.inv, "wait"],
        cwd=project.root,
        env=project.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "waiting\n"
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=10) == ("", "wait was stopped by SIGINT.\n")
        finally:
            process.kill()
    assert process.returncode == 130


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("invoke.yaml", "origin: here\n"),
        ("invoke.yml", "origin: here\n"),
        ("invoke.json", '{"origin": "here"}'),
        ("invoke.py", "origin = 'here'\n"),
    ],
)
def test_the_binary_reads_the_configuration_of_the_working_folder(own_binary: Project, name: str, text: str) -> None:
    """release-tasks finds invoke.yaml without a tasks.py."""
    (own_binary.root / name).write_text(text)
    assert own_binary.run("settings").stdout == "here False\n"


def test_the_binary_keeps_the_core_flags_of_invoke(binary: Project) -> None:
    """``--dry`` and ``-f`` work as under inv, over the folder's configuration."""
    (binary.root / "invoke.yaml").write_text("origin: here\n")
    (binary.root / "other.yaml").write_text("origin: there\n")
    assert binary.run("--dry", "-f", "other.yaml", "settings").stdout == "there True\n"


def test_the_binary_uses_the_stage_executor(binary: Project) -> None:
    """No line about the executor is needed."""
    (binary.root / "invoke.yaml").write_text("origin: here\n")
    expected = ["preflight U True", "prepare U U True"]
    assert binary.succeed("release.prepare", "--health-url", "U") == expected
    assert binary.run("--version").stdout == "release-tasks 1.2.3\n"
    assert "release.prepare" in binary.run("--list").stdout


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("release.prepaer", "No idea what 'release.prepaer' is!"),
        ("release.prepare --health-url", "needed value"),
        ("release.prepare --bogus", "--bogus"),
        ("approve telegram", "'code; usage: approve CHANNEL CODE [--json]'"),
        ("--help release.prepaer", "release.prepaer"),
        ("--list nowhere", "nowhere"),
        ("--list --list-format tree", "flat, nested, json"),
        ("--list --list-depth deep", "deep"),
        ("-f nowhere.yaml release.status", "nowhere.yaml"),
        ("-f notes.txt release.status", "notes.txt"),
    ],
)
def test_the_binary_ends_with_2_for_a_parse_error(own_binary: Project, line: str, part: str) -> None:
    """One message, no task runs, and one document where one was requested."""
    (own_binary.root / "notes.txt").write_text("")
    assert_refused(own_binary.run(*line.split()), part)
    if "release.prepare " in line:
        result = own_binary.run(*line.split()[:1], "--json", *line.split()[1:])
        assert_refused(result, part)
        assert json.loads(result.stdout)["exitCode"] == 2
    assert own_binary.executed() == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("invoke.yaml", "a: [1\nb: 2\n"),
        ("invoke.yaml", "- a list\n"),
        ("invoke.yaml", "run: true\n"),
        ("invoke.json", "{"),
        ("invoke.py", "1 / 0\n"),
    ],
)
def test_the_binary_names_an_unusable_configuration(own_binary: Project, name: str, text: str) -> None:
    """A malformed file is one message with its name."""
    (own_binary.root / name).write_text(text)
    assert_refused(own_binary.run("release.status"), f"{name}:1: ")
    assert own_binary.executed() == []


def test_the_module_is_the_binary(own_binary: Project) -> None:
    """``python -m release_tasks.tasks.program`` is the command that pip installs, with the suite."""
    own_binary.inv = [sys.executable, "-m", "release_tasks.tasks.program"]
    version = f"release-tasks {release_tasks.__version__}\n"
    assert own_binary.run("--version").stdout == version
    assert "release.prepare" in own_binary.run("--list").stdout
