"""Fixtures that more than one room needs: a project with real state, a health endpoint, a busy writer."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.support.health import Health
from tests.support.project import Project
from tests.support.writer import WRITER

# A developer's run tries fewer examples of each property than CI does, and both try the same ones each time;
# ``pytest --hypothesis-profile=search`` is for looking for new ones.
hypothesis.settings.register_profile("quick", max_examples=20, derandomize=True)
hypothesis.settings.register_profile("ci", max_examples=50, derandomize=True)
hypothesis.settings.register_profile("search", max_examples=3000, derandomize=False)
hypothesis.settings.load_profile("ci" if "CI" in os.environ else "quick")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that may take longest, so that in the end no worker is alone with one."""

    def may_take(item: pytest.Item) -> float:
        marker = item.get_closest_marker("timeout")
        return float(marker.args[0]) if marker is not None else 0.0

    items.sort(key=may_take, reverse=True)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """List how many points each fault test has tried, and what the pages show that nobody can run here."""
    reports = terminalreporter.stats.get("passed", [])
    told = [(report.nodeid, n) for report in reports for name, n in report.user_properties if name == "points tried"]
    if told:
        terminalreporter.section("points tried")
        for nodeid, count in sorted(told):
            terminalreporter.write_line(f"{count:6} {nodeid}")
    documented = [
        line for report in reports for name, told in report.user_properties if name == "not run" for line in told
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
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Return a scratch project whose database is in WAL mode."""
    return Project(tmp_path)


@pytest.fixture
def make_project(tmp_path: Path) -> Callable[..., Project]:
    """Return a maker of scratch projects: ``make_project("name", journal_mode="delete")``."""

    def make(name: str, journal_mode: str = "wal") -> Project:
        folder = tmp_path / name
        folder.mkdir()
        return Project(folder, journal_mode)

    return make


@pytest.fixture
def project_at() -> Callable[..., Project]:
    """Return a maker of scratch projects in a folder of choice: ``project_at(folder, "delete")``."""
    return Project


@pytest.fixture
def health() -> Iterator[Health]:
    """Serve a health endpoint on a free loopback port: ``.url``, ``.status``, ``.body``, ``.requests``."""
    endpoint = Health()
    yield endpoint
    endpoint.close()


@pytest.fixture
def make_health() -> Iterator[Callable[[], Health]]:
    """Return a maker of further endpoints of this kind."""
    made: list[Health] = []

    def make() -> Health:
        made.append(Health())
        return made[-1]

    yield make
    for endpoint in made:
        endpoint.close()


@pytest.fixture
def start_writer() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Return a starter of writer processes that move money between accounts; the sum never changes.

    ``start_writer(database, journal_mode="wal", pause=0.001)`` returns once the first transfer is committed.
    """
    running: list[subprocess.Popen[str]] = []

    def start(database: Path, journal_mode: str = "wal", pause: float = 0.001) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(database), journal_mode, str(pause)],
            stdout=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "writing"
        return process

    yield start
    for process in running:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture
def install_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Install a distribution whose asset kind ``custom`` has the given functions; again to change it."""
    site = tmp_path / "site"
    info = site / "custom_kind-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: custom-kind\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(site))

    def make(
        capture: str = "open(copy, 'wb').write(open(source, 'rb').read())",
        check: str = "return []",
        form: str = "file",
        before: str = "",
        value: str = "custom_kind",
        restore: str = "",
    ) -> None:
        (info / "entry_points.txt").write_text(f"[release_tasks.assets]\ncustom = {value}\n")
        source = "import ctypes, os, shutil, socket, subprocess, sys, threading, time\n"
        source += f"from release_tasks.plugins import PluginError\n{before}\nform = {form!r}\n"
        source += "def capture(source, copy, context):\n" + textwrap.indent(capture, "    ")
        source += "\ndef check(copy, context):\n" + textwrap.indent(check, "    ") + "\n"
        if restore:
            source += "def restore(copy, live, context):\n" + textwrap.indent(restore, "    ") + "\n"
        (site / "custom_kind.py").write_text(source)

    return make
