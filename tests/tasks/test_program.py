"""The release-tasks program in one process: which project it uses, and that it refuses to run without one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from release_tasks.core.errors import ConfigError
from release_tasks.tasks.program import ReleaseProgram
from release_tasks.tasks.project import load_project
from release_tasks.tasks.suite import suite

Answer = Callable[..., tuple[int, str, str]]
CONFIGURATION = {"release": {"root": "pipeline", "assets": {"state": {"file": "state.txt"}}}}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with an invoke.yaml; the home of the user has none."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in [name for name in os.environ if name.startswith("INVOKE_")]:
        monkeypatch.delenv(name)
    folder = tmp_path / "project"
    (folder / "src" / "deep").mkdir(parents=True)
    (folder / "invoke.yaml").write_text(json.dumps(CONFIGURATION))
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def typed_line(capsys: pytest.CaptureFixture[str]) -> Answer:
    """Return a function that runs ``release-tasks`` with these words, and returns exit code, stdout and stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        code = 0
        try:
            ReleaseProgram(suite(), "1").run(["release-tasks", *words])
        except SystemExit as ended:
            code = int(ended.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.mark.parametrize(
    "task",
    [
        "release.status",
        "release.verify",
        "release.audit",
        "release.diagnose",
        "release.recover",
        "pairing.list telegram",
    ],
)
def test_without_a_project_nothing_is_answered(project: Path, typed_line: Answer, task: str) -> None:
    """A green answer about a folder that is no project would be taken for one about the service."""
    code, out, err = typed_line(*task.split())
    assert (code, out) == (2, "")
    assert f"no invoke.yaml in {project.parent} or above" in err
    code, out, _ = typed_line(*task.split(), "--json")
    assert (code, json.loads(out)["exitCode"]) == (2, 2)
    assert sorted(os.listdir(project.parent)) == ["project"]


@pytest.mark.parametrize("words", ["--list", "--help", "--version", "--help release.rollback", "gate.run --help"])
def test_help_needs_no_project(project: Path, typed_line: Answer, words: str) -> None:
    """It is asked before there is one, also where a task takes a positional value."""
    code, out, err = typed_line(*words.split())
    assert (code, err) == (0, "")
    assert out


def test_the_nearest_project_above_is_used_and_named(
    project: Path, typed_line: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ``inv`` searches; in the folder of the project itself there is nothing to say."""
    monkeypatch.chdir(project / "src" / "deep")
    code, out, err = typed_line("release.recover", "--json")
    assert (code, json.loads(out)["status"]) == (0, "clean")
    assert err == f"Project: {project}\n"
    monkeypatch.chdir(project)
    assert typed_line("release.recover", "--json")[2] == ""


def test_a_project_can_be_named(project: Path, typed_line: Answer) -> None:
    """From anywhere, absolute or relative; a folder without invoke.yaml is refused."""
    for named in (str(project), "project"):
        code, out, err = typed_line("--project", named, "release.status", "--json")
        assert (code, err) == (0, "")
        assert json.loads(out)["root"] == str(project / "pipeline")
    code, _, err = typed_line("--project", "project/src", "release.status")
    assert (code, err) == (2, "--project: no invoke.yaml in 'project/src'\n")


def test_a_command_that_names_the_project_prints_commands_that_do(project: Path, typed_line: Answer) -> None:
    """Typed from the same folder, a command without ``--project`` would find no project."""
    assert "release-tasks --project project release.prepare" in typed_line("--project", "project", "release.status")[1]


def test_in_a_deleted_folder(project: Path, typed_line: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence; a named project is used."""
    gone = project / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    shutil.rmtree(gone)
    code, out, err = typed_line("release.status")
    assert (code, out) == (2, "")
    assert err.startswith("The working folder was deleted.")
    assert typed_line("--list")[0] == 0
    assert typed_line("--project", str(project), "release.recover", "--json")[0] == 0
    monkeypatch.chdir(project)


def test_a_file_of_config_may_be_the_only_source(project: Path, typed_line: Answer) -> None:
    """``-f`` with a section ``release`` is a project in the working folder."""
    (project.parent / "other.yaml").write_text(json.dumps(CONFIGURATION))
    assert typed_line("-f", "other.yaml", "release.recover", "--json")[0] == 0


def test_a_project_without_our_sections_is_refused(project: Path, typed_line: Answer) -> None:
    """An invoke.yaml of another tool: what to add is named, also to a program that uses the library."""
    (project / "invoke.yaml").write_text("run: {echo: true}\n")
    code, _, err = typed_line("--project", "project", "release.status")
    assert (code, "Add a section `release:`" in err) == (2, True)
    with pytest.raises(ConfigError, match="Add a section"):
        load_project(project)


@pytest.mark.parametrize("line", ["release.prepare --release-id=", "release.rollback --snapshot=", "release.diff r1"])
def test_an_empty_value_never_stands_for_the_default(project: Path, typed_line: Answer, line: str) -> None:
    """``--snapshot "$ID"`` with an unset variable would restore another snapshot."""
    code, out, err = typed_line("--project", "project", *line.split(), *([""] if line.endswith("r1") else []))
    assert (code, out, "the value is empty" in err) == (2, "", True)
