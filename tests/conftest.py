"""Fixtures that several test folders use: a project with real state, a health endpoint, a writer process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.support.asset_kind import InstallKind, install_kind_in
from tests.support.health import Health, MakeHealth
from tests.support.project import MakeProject, Project
from tests.support.writer import StartWriter, start_writer_process

# A developer's run tries fewer examples of each property than CI. Both try the same examples in every run.
# ``pytest --hypothesis-profile=search`` looks for new ones.
hypothesis.settings.register_profile("quick", max_examples=20, derandomize=True)
hypothesis.settings.register_profile("ci", max_examples=50, derandomize=True)
hypothesis.settings.register_profile("search", max_examples=3000, derandomize=False)
hypothesis.settings.load_profile("ci" if "CI" in os.environ else "quick")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the tests with the longest timeouts first, so that no worker runs alone at the end."""

    def timeout_of(item: pytest.Item) -> float:
        marker = item.get_closest_marker("timeout")
        return float(marker.args[0]) if marker is not None else 0.0

    items.sort(key=timeout_of, reverse=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List the number of points of each fault test, and the documented commands that cannot run here."""
    reports = [report for report in terminalreporter.stats.get("passed", []) if isinstance(report, pytest.TestReport)]
    properties = [(report.nodeid, name, value) for report in reports for name, value in report.user_properties]
    points = [(nodeid, value) for nodeid, name, value in properties if name == "points tried"]
    if points:
        terminalreporter.section("points tried")
        for nodeid, count in sorted(points):
            terminalreporter.write_line(f"{count:6} {nodeid}")
    documented = [
        line for _, name, lines in properties if name == "not run" and isinstance(lines, list) for line in lines
    ]
    if documented:
        terminalreporter.section("documented, and not run")
        for line in documented:
            terminalreporter.write_line(line)


@pytest.fixture(autouse=True)
def _no_configuration_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Hide the developer's own ~/.invoke.yaml, INVOKE_* variables and the host of CI from every test."""
    monkeypatch.setenv("HOME", str(tmp_path_factory.getbasetemp()))
    hidden = ("INVOKE_", "GITHUB_", "GITLAB_", "CI_", "API_SECRET", "NO_COLOR", "PYTEST_ADDOPTS")
    for name in list(os.environ):
        if name.startswith(hidden):
            monkeypatch.delenv(name)


@pytest.fixture
def free_port() -> int:
    """Return a port with no listener."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Return a scratch project with a database in WAL mode."""
    return Project(tmp_path)


@pytest.fixture
def make_project(tmp_path: Path) -> MakeProject:
    """Return a maker of scratch projects: ``make_project("name", journal_mode="delete")``."""

    def make(name: str, journal_mode: str = "wal", *, cache_settings: bool = False) -> Project:
        folder = tmp_path / name
        folder.mkdir()
        return Project(folder, journal_mode, cache_settings=cache_settings)

    return make


@pytest.fixture
def health() -> Iterator[Health]:
    """Serve a health endpoint on a free loopback port: ``.url``, ``.status``, ``.body``, ``.requests``."""
    endpoint = Health()
    yield endpoint
    endpoint.close()


@pytest.fixture
def make_health() -> Iterator[MakeHealth]:
    """Return a starter of more such endpoints."""
    started: list[Health] = []

    def make() -> Health:
        started.append(Health())
        return started[-1]

    yield make
    for endpoint in started:
        endpoint.close()


@pytest.fixture
def start_writer() -> Iterator[StartWriter]:
    """Return a starter of processes that write to a project's database until the end of the test."""
    running: list[subprocess.Popen[str]] = []

    def start(database: Path, journal_mode: str = "wal", pause: float = 0.001) -> subprocess.Popen[str]:
        running.append(start_writer_process(database, "--journal-mode", journal_mode, "--pause", str(pause)))
        return running[-1]

    yield start
    for process in running:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture
def install_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> InstallKind:
    """Return the function that installs a distribution with the asset kind ``custom``, and changes it later."""
    site = tmp_path / "site"
    install = install_kind_in(site)
    monkeypatch.syspath_prepend(str(site))
    return install
