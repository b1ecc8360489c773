"""The package as a library: every stage is a function, typed, light to import, and the code of the tasks."""

from __future__ import annotations

import json
import os
import pkgutil
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import release_tasks
from release_tasks import (
    ConfigError,
    Interrupted,
    LockHeld,
    StageFailed,
    UsageError,
    api,
    interruptible,
    load_project,
    prepare_release,
    recover,
    release_status,
    roll_back,
    run_drill,
    verify_audit,
    verify_snapshots,
)
from release_tasks.core.lock import run_lock
from tests.support.health import Health
from tests.support.project import Project

PAGE = Path(__file__).parents[2] / "docs" / "library.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture
def folder(project: Project) -> Path:
    """Return the folder of a project with an invoke.yaml."""
    (project.folder / "invoke.yaml").write_text(json.dumps({"release": project.raw}))
    root: Path = project.folder
    return root


def test_every_exported_name_exists() -> None:
    """``__all__``, ``dir()`` and the importable names are the same."""
    for name in release_tasks.__all__:
        assert getattr(release_tasks, name) is not None
        assert name in dir(release_tasks)
    with pytest.raises(AttributeError, match="no attribute 'rolback'"):
        _ = release_tasks.rolback


def test_no_module_hides_a_function() -> None:
    """An imported module becomes an attribute of its package, and would hide a lazy name."""
    modules = {module.name for module in pkgutil.iter_modules(release_tasks.__path__)}
    assert not modules & set(release_tasks.__all__)


def test_each_name_is_listed_once() -> None:
    """``api`` is a list of imports, and the package exports exactly these names."""
    listed = re.findall(
        r"^from release_tasks[\w.]* import (\w+) as (\w+)$", Path(api.__file__).read_text(), re.MULTILINE
    )
    assert all(name == offered for name, offered in listed)
    assert sorted([*(name for name, _ in listed), "ns", "__version__"]) == release_tasks.__all__


@pytest.mark.slow
def test_every_name_is_typed(tmp_path: Path) -> None:
    """A type checker finds each name in the package and knows its type."""
    pytest.importorskip("mypy", reason="types are checked with the extra dev: pip install -e '.[dev]'")
    revealed = "".join(f"reveal_type(release_tasks.{name})\n" for name in release_tasks.__all__)
    output = checked(tmp_path, f"import release_tasks\nfrom release_tasks import *\n{revealed}")
    types = re.findall(r'Revealed type is "(.+)"', output)
    assert len(types) == len(release_tasks.__all__), output
    assert "Any" not in types and "error:" not in output, output


def checked(folder: Path, source: str) -> str:
    """Return the output of mypy --strict for a program that uses the installed package."""
    (folder / "page.py").write_text(source)
    options = ["--strict", "--follow-imports=silent", "--cache-dir", str(folder / "cache")]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, "page.py"],
        cwd=folder,
        env={**os.environ, "MYPYPATH": str(Path(release_tasks.__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    return done.stdout


def test_every_stage_documents_results_and_errors() -> None:
    """``help()`` is the reference of the library."""
    for name in release_tasks.__all__:
        offered = getattr(release_tasks, name)
        if callable(offered) and name.islower() and name != "ns":
            assert len(offered.__doc__.split()) > 10, name
            assert "return" in offered.__annotations__ or name == "interruptible", name
            assert f"`{name}" in PAGE.read_text() or name in PAGE.read_text(), name


@pytest.mark.slow
def test_the_import_alone_is_light() -> None:
    """Neither Invoke nor another library is loaded before it is used."""
    code = "import release_tasks, sys; print(*[m for m in sys.modules if not m.startswith('_')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"invoke", "attrs", "attr", "cattrs", "requests", "rich", "apsw", "jinja2"}


@pytest.mark.slow
def test_the_page_runs(
    folder: Path, health: Health, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The blocks run one after the other, in a project."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("INVOKE_RELEASE_HEALTH_URL", health.url)
    assert len(BLOCKS) == 5
    namespace: dict[str, Any] = {}
    for block in BLOCKS:
        exec(compile(block, str(PAGE), "exec"), namespace)  # the page is ours
    reported = capsys.readouterr().out
    assert "v1 is ready: v1_snapshot_" in reported
    assert "restored" in reported and "noop" in reported and "always passed" in reported and "healthy" in reported


@pytest.mark.slow
def test_the_page_is_typed(tmp_path: Path) -> None:
    """mypy --strict finds no error in it, knows the types of results, and finds a mistake."""
    pytest.importorskip("mypy", reason="types are checked with the extra dev: pip install -e '.[dev]'")
    revealed = """
reveal_type(prepare_release(settings))
reveal_type(roll_back(settings))
reveal_type(release_tasks.recover(settings))
reveal_type(release_tasks.verify_audit(settings))
reveal_type(release_tasks.ns)
roll_back(settings, wait="soon")
"""
    output = checked(tmp_path, "import release_tasks\n" + "\n".join(BLOCKS) + revealed)
    types = re.findall(r'Revealed type is "([\w.]+)"', output)
    assert types == [
        "release_tasks.core.records.PreparedRelease",
        "release_tasks.core.records.RollbackOutcome",
        "release_tasks.stages.rollback.recovery.RecoveryReport",
        "release_tasks.core.audit.AuditVerdict",
        "invoke.collection.Collection",
    ], output
    (mistake,) = [line for line in output.splitlines() if "error:" in line]
    assert 'Argument "wait" to "roll_back" has incompatible type "str"' in mistake


def test_a_project_is_read_as_inv_reads_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """File, then overrides, then the environment; paths are relative to the folder."""
    monkeypatch.chdir("/")
    settings = load_project(folder, {"release": {"retention": 3, "app": {"name": "other"}}})
    assert (settings.project, settings.release.root) == (folder, folder / "pipeline")
    assert (settings.release.retention, settings.release.app.name) == (3, "other")
    assert settings.release.app.version is not None and settings.release.app.version.text == "1.0"
    monkeypatch.setenv("INVOKE_RELEASE_RETENTION", "7")
    assert load_project(folder, {"release": {"retention": 3}}).release.retention == 7
    assert load_project(str(folder)).release.gates.keys() == {"always"}


def test_a_project_may_use_json_or_python(tmp_path: Path) -> None:
    """Every format of Invoke is read."""
    (tmp_path / "invoke.json").write_text('{"release": {"retention": 2}}')
    assert load_project(tmp_path).release.retention == 2
    (tmp_path / "invoke.json").unlink()
    (tmp_path / "invoke.py").write_text("release = {'retention': 4}\n")
    assert load_project(tmp_path).release.retention == 4


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("invoke.yaml", "release: {retention: none}", "invoke.yaml:1: release.retention: expected a whole number"),
        ("invoke.yaml", "release: [", "invoke.yaml:1: "),
        ("invoke.json", "{", "invoke.json:1: not valid JSON: "),
        ("invoke.py", "raise SystemError('x')", "invoke.py:1: cannot be used: x"),
        ("invoke.yaml", "release: {notices: {p: {command: x, on: [failed]}}}", "True: unknown key"),
        ("invoke.yaml", "", "nothing is configured for release-tasks in this project"),
        ("invoke.yaml", "mine: {1: a}\nreleases: [a]\n", "nothing is configured for release-tasks in this project"),
    ],
)
def test_a_project_that_cannot_be_loaded(tmp_path: Path, name: str, text: str, message: str) -> None:
    """The message names the file, and no other exception is raised."""
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_project(tmp_path)


def test_overrides_are_named_in_their_mistakes(folder: Path) -> None:
    """The message does not blame the file."""
    with pytest.raises(ConfigError, match=r"^overrides: release\.retention: "):
        load_project(folder, {"release": {"retention": "many"}})


def test_a_missing_project_is_an_error(tmp_path: Path) -> None:
    """A mistyped folder is not an empty project."""
    with pytest.raises(UsageError, match="is not a directory"):
        load_project(tmp_path / "projct")


@pytest.mark.slow
def test_a_release_and_a_rollback(project: Project, folder: Path) -> None:
    """The complete runbook in a program."""
    settings = load_project(folder)
    before = project.content()
    manifest = prepare_release(settings, release_id="v1")
    assert (manifest.status, [check.status for check in manifest.preflight.checks]) == ("ready", ["passed"])
    with pytest.raises(UsageError, match="'v1' was prepared already"):
        prepare_release(settings, release_id="v1")
    project.damage()
    outcome = roll_back(settings)
    assert outcome.status == "restored" and project.content() == before
    assert roll_back(settings).status == "noop"
    assert recover(settings).status == "clean"
    assert verify_snapshots(settings).is_good and verify_audit(settings).intact
    assert run_drill(settings).status == "passed"
    status = release_status(settings)
    assert status.current is not None and status.current.release_id == "v1"
    assert status.rollback is not None and status.rollback.status == "success"
    assert manifest.snapshot is not None and manifest.snapshot.snapshot_id in status.restore_tests.by_snapshot


def test_a_release_runs_its_own_gates(project: Project, folder: Path) -> None:
    """Without a given preflight the gates are run, and their verdict decides."""
    settings = load_project(folder, {"release": {"gates": {"always": {"command": None, "path": "not-there"}}}})
    manifest = prepare_release(settings)
    assert manifest.status == "blocked" and manifest.snapshot is None
    assert manifest.release_id.startswith("1.0-")


def test_a_held_lock_is_its_own_error(project: Project, folder: Path) -> None:
    """The caller can wait and retry."""
    settings = load_project(folder)
    with run_lock(settings.release.root, "another run"), pytest.raises(LockHeld, match="another run"):
        prepare_release(settings)


@pytest.mark.slow
def test_notifications_are_sent_from_a_program_too(project: Project, folder: Path) -> None:
    """Once, also for a stage that contains others; a stage that raises is notified as failed."""
    reported = {"pager": {"command": "cat >> received; echo >> received"}}
    settings = load_project(folder, {"release": {"notices": reported}})
    prepare_release(settings, release_id="v1")
    (settings.release.root / "rollback-journal.json").write_text("{}")
    with pytest.raises(StageFailed):
        prepare_release(settings, release_id="v2")
    with pytest.raises(StageFailed):
        recover(settings)
    printed = [json.loads(line) for line in (folder / "received").read_text().splitlines()]
    assert [(each["occasion"], each["stage"]) for each in printed] == [
        ("prepared", "release.prepare"),
        ("failed", "release.prepare"),
        ("failed", "release.recover"),
    ]


@pytest.mark.slow
def test_no_signal_handler_is_left(project: Project, folder: Path) -> None:
    """The signal handlers of a program are the same before, during and after a stage."""
    settings = load_project(folder)
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        seen = []
        prepare_release(settings, emit=lambda event: seen.append(signal.getsignal(signal.SIGTERM)))
        mine = signal.getsignal(signal.SIGTERM)
        assert set(seen) == {mine}
        roll_back(settings)
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.slow
def test_interruptible_ends_a_stage_in_order(project: Project, folder: Path) -> None:
    """SIGTERM ends a gate of a minute, and no manifest is written."""
    gates = {"always": {"command": "touch begun; sleep 60"}}
    settings = load_project(folder, {"release": {"gates": gates}})

    def stop() -> None:
        while not (folder / "begun").exists():
            threading.Event().wait(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop).start()
    with pytest.raises(Interrupted) as stopped, interruptible():
        prepare_release(settings)
    assert stopped.value.exit_code == 143
    assert release_status(settings).manifests == []
