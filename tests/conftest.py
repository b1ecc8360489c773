"""Fixtures that more than one room needs: a project with real state, a health endpoint, a busy writer."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from release_tasks.archive.capture import CaptureRequest, capture_snapshot
from release_tasks.archive.pipeline import Pipeline
from release_tasks.config.schema import Settings
from release_tasks.core.records import SnapshotMetadata
from release_tasks.tasks.project import load_settings

# A developer's run tries fewer examples of each property than CI does, and both try the same ones each time;
# ``pytest --hypothesis-profile=search`` is for looking for new ones.
hypothesis.settings.register_profile("quick", max_examples=20, derandomize=True)
hypothesis.settings.register_profile("ci", max_examples=50, derandomize=True)
hypothesis.settings.register_profile("search", max_examples=3000, derandomize=False)
hypothesis.settings.load_profile("ci" if "CI" in os.environ else "quick")

ACCOUNTS = 50
BALANCE = 100

WRITER = """
import random, signal, sqlite3, sys, time
path, journal_mode, pause = sys.argv[1], sys.argv[2], float(sys.argv[3])
stop = False
def end(*_):
    global stop
    stop = True
signal.signal(signal.SIGTERM, end)
db = sqlite3.connect(path, timeout=60, isolation_level=None)
db.execute(f"PRAGMA journal_mode = {journal_mode}")
done = 0
while not stop:
    a, b = random.sample(range(50), 2)  # the accounts that Project makes
    amount = random.randint(1, 5)
    db.execute("BEGIN IMMEDIATE")
    db.execute("UPDATE accounts SET balance = balance - ? WHERE id = ?", (amount, a))
    db.execute("UPDATE accounts SET balance = balance + ? WHERE id = ?", (amount, b))
    db.execute("INSERT INTO ledger(a, b, amount) VALUES (?, ?, ?)", (a, b, amount))
    db.execute("COMMIT")
    done += 1
    if done == 1:
        print("writing", flush=True)
    time.sleep(pause)
print(done, flush=True)
"""


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
    for name in list(os.environ):
        if name.startswith(("INVOKE_", "GITHUB_", "GITLAB_", "CI_")) or name in ("API_SECRET", "NO_COLOR"):
            monkeypatch.delenv(name)


@pytest.fixture
def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Project:
    """A scratch project: a database of constant sum, identity/, mcp.json and, absent at first, extra.json."""

    def __init__(self, folder: Path, journal_mode: str = "wal") -> None:
        self.folder = folder
        self.state = folder / "state"
        self.database = self.state / "app.db"
        self.identity = self.state / "identity"
        self.mcp = self.state / "mcp.json"
        self.extra = self.state / "extra.json"
        self.overrides: dict[str, Any] = {}
        self._fill(journal_mode)

    def _fill(self, journal_mode: str) -> None:
        (self.identity / "keys" / "empty").mkdir(parents=True)
        (self.identity / "identity.json").write_text('{"id": "one"}')
        (self.identity / "keys" / "private.pem").write_text("key material")
        os.chmod(self.identity / "keys" / "private.pem", 0o600)
        os.symlink("keys/private.pem", self.identity / "current")
        self.mcp.write_text('{"mcpServers": {}}')
        database = sqlite3.connect(self.database)
        database.execute(f"PRAGMA journal_mode = {journal_mode}")
        database.execute("CREATE TABLE accounts(id INTEGER PRIMARY KEY, balance INTEGER)")
        database.execute("CREATE TABLE ledger(id INTEGER PRIMARY KEY, a INTEGER, b INTEGER, amount INTEGER)")
        database.executemany("INSERT INTO accounts VALUES (?, ?)", [(i, BALANCE) for i in range(ACCOUNTS)])
        database.commit()
        database.close()

    @property
    def raw(self) -> dict[str, Any]:
        """The ``release`` section of the configuration, with this project's overrides."""
        section: dict[str, Any] = {
            "root": "pipeline",
            "app": {"name": "demo", "version": "1.0"},
            "health": {"timeout": "2s", "deadline": "5s", "interval": "20ms"},
            "gates": {"always": {"command": "true"}},
            "assets": {
                "database": {"sqlite": "state/app.db"},
                "identity": {"directory": "state/identity"},
                "mcp": {"file": "state/mcp.json"},
                "extra": {"file": "state/extra.json", "required": False},
            },
            "restart": {"settle": "300ms"},
        }
        for path, value in self.overrides.items():
            place = section
            *above, last = path.split(".")
            for part in above:
                place = place.setdefault(part, {})
            place[last] = value
        return section

    @property
    def settings(self) -> Settings:
        """The checked configuration; set ``overrides["health.url"]`` and the like before."""
        return load_settings({"release": self.raw}, self.folder)

    @property
    def pipeline(self) -> Pipeline:
        return Pipeline(self.settings.release.root)

    def capture(self, release_id: str = "v1") -> SnapshotMetadata:
        """Publish a release snapshot of the state as it is, without gates or manifest."""
        settings = self.settings
        request = CaptureRequest(
            snapshot_id=f"{release_id}_snapshot", release_id=release_id, kind="release", retention_limit=5
        )
        return capture_snapshot(self.pipeline.catalogue, settings.release.assets, request)

    def damage(self) -> None:
        """Change every asset: rows, a key, a file removed, a file added that was absent."""
        database = sqlite3.connect(self.database, timeout=30)
        database.execute("UPDATE accounts SET balance = balance + 1")
        database.execute("INSERT INTO ledger(a, b, amount) VALUES (0, 0, 999999)")
        database.commit()
        database.close()
        (self.identity / "identity.json").write_text('{"id": "other"}')
        (self.identity / "intruder").write_text("x")
        self.mcp.unlink()
        self.extra.write_text("{}")

    def content(self) -> dict[str, Any]:
        """Everything that a restore is about: rows as SQLite reads them, and bytes, modes and links of the files."""
        files: dict[str, Any] = {}
        for root in (self.identity, self.mcp, self.extra):
            paths = [root, *sorted(root.rglob("*"))] if root.is_dir() else [root]
            for path in paths:
                if not os.path.lexists(path):
                    continue
                mode = oct(os.lstat(path).st_mode)
                if path.is_symlink():
                    files[str(path.relative_to(self.state))] = ("link", os.readlink(path))
                elif path.is_dir():
                    files[str(path.relative_to(self.state))] = ("folder", mode)
                else:
                    files[str(path.relative_to(self.state))] = (path.read_bytes(), mode)
        return {"rows": self.rows(), "files": files}

    def rows(self) -> Any:
        """Every account and ledger row, as they stand at one moment."""
        database = sqlite3.connect(self.database, timeout=30, isolation_level=None)
        try:
            database.execute("BEGIN")
            return (
                database.execute("SELECT * FROM accounts ORDER BY id").fetchall(),
                database.execute("SELECT * FROM ledger ORDER BY id").fetchall(),
            )
        finally:
            database.close()

    def strays(self) -> list[str]:
        """Names in the state folder and the catalogue that nobody but a crashed run could have left."""
        found = [str(p) for p in self.state.rglob("*") if ".release-tasks" in p.name or p.name.endswith(".tmp")]
        root = self.settings.release.root
        if root.exists():
            found += [str(p) for p in root.rglob("*") if p.name.startswith(".") or p.name.endswith(".tmp")]
            statements = (root / "manifests").glob("*.intoto.jsonl")
            found += [str(p) for p in statements if not p.with_name(p.name.removesuffix(".intoto.jsonl")).exists()]
        return found


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


class Health:
    """A real health endpoint whose answer a test may change at any time."""

    def __init__(self) -> None:
        self.status = 200
        self.body: Any = {"ok": True, "data": {"status": "ok"}}
        self.requests = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests += 1
                body = outer.body if isinstance(outer.body, bytes) else json.dumps(outer.body).encode()
                self.send_response(outer.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/health"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


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
