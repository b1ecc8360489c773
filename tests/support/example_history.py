"""A service with nine days of releases, made by the real stages on scratch data, for pages in tests and screenshots."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from release_tasks.archive.pipeline import Pipeline
from release_tasks.config.schema import Settings
from release_tasks.core import clock
from release_tasks.core.records import Manifest, RollbackOutcome
from release_tasks.stages.drill.engine import run_drill
from release_tasks.stages.preflight.engine import run_preflight
from release_tasks.stages.rollback.engine import RollbackRequest, rollback
from release_tasks.stages.watch.watching import watch_release
from release_tasks.tasks.project import load_settings
from tests.support.faults.stages import prepare

__all__ = ["ExampleHistory", "example_history"]

_BUILD = """printf '%s\\n' '> gateway@1.7.0 build' '> tsc -p . && vite build' '' 'transforming 214 modules' \
    'dist/index.html   0.46 kB' 'dist/assets/index-4f2a.js   188.20 kB' 'built in 0.31s'; sleep 0.35"""
_TESTS = """for i in 1 2 3 4 5 6 7 8; do echo "ok $i - suite $i"; done; sleep 0.8; echo '# pass 214'"""
_LICENCES = """printf '%s\\n' 'checking 412 packages' 'left-pad@1.3.0: WTFPL is not on the list of licences' \
    'colour-map@2.0.1: no licence named' '2 of 412 packages need a look'; sleep 0.15; exit 3"""


class ExampleHistory:
    """A service in ``folder`` and its releases; ``at`` sets the clock of its records."""

    def __init__(self, folder: Path, url: str, answers: list[tuple[int, dict[str, Any]]]) -> None:
        self.folder = folder
        self.url = url
        self.answers = answers
        self.version = "1.3.0"
        self.gates: dict[str, Any] = {
            "build": {"command": _BUILD},
            "tests": {"command": _TESTS, "needs": ["build"]},
            "licences": {"command": _LICENCES, "subsystem": "policy", "advisory": True},
            "api-health": {"http": "health"},
            "mcp-config": {"mcp": "state/mcp-servers.json", "subsystem": "interfaces"},
        }
        (folder / "state" / "identity").mkdir(parents=True)
        (folder / "state" / "identity" / "identity.json").write_text('{"id": "gateway-eu-1"}')
        (folder / "state" / "identity" / "key.pem").write_text("key material")
        self.servers: dict[str, Any] = {"files": {"command": "cat", "env": {"ROOT": "/srv/files"}}}
        self.write_servers()
        self.sql("CREATE TABLE messages(id INTEGER PRIMARY KEY, body TEXT)")
        self.write_messages(40)

    @property
    def settings(self) -> Settings:
        """Return the current checked configuration."""
        release = {
            "root": "pipeline",
            "app": {"name": "gateway", "version": self.version},
            "health": {"url": self.url, "timeout": "2s", "deadline": "10s", "interval": "40ms"},
            "gates": self.gates,
            "assets": {
                "database": {"sqlite": "state/gateway.db"},
                "identity": {"directory": "state/identity"},
                "mcp": {"file": "state/mcp-servers.json"},
                "settings": {"file": "state/gateway.json", "required": False},
            },
            "watch": {"for": "5s", "interval": "60ms", "rollback": True},
        }
        return load_settings({"release": release}, self.folder)

    @property
    def pipeline(self) -> Pipeline:
        """Return the pipeline folder of the service."""
        return Pipeline(self.settings.release.root)

    @contextlib.contextmanager
    def at(self, **ago: float) -> Iterator[None]:
        """Stamp records as if it were this long ago: ``at(hours=3)``."""
        real, before = clock.now, timedelta(**ago)
        clock.now = lambda: datetime.now(timezone.utc) - before
        try:
            yield
        finally:
            clock.now = real

    def sql(self, statement: str, rows: list[tuple[Any, ...]] | None = None) -> None:
        """Change the service's database."""
        with contextlib.closing(sqlite3.connect(self.folder / "state" / "gateway.db")) as database, database:
            database.executemany(statement, rows) if rows is not None else database.execute(statement)

    def write_messages(self, count: int) -> None:
        """Add rows to the service's database."""
        self.sql("INSERT INTO messages(body) VALUES (?)", [(f"message {n} " * 20,) for n in range(count)])

    def write_servers(self) -> None:
        """Write ``servers`` to the MCP configuration."""
        (self.folder / "state" / "mcp-servers.json").write_text(json.dumps({"mcpServers": self.servers}))

    def prepare(self, release_id: str) -> Manifest:
        """Run the gates and prepare a release called ``release_id``."""
        self.version = release_id
        run = run_preflight(self.settings, release_id=release_id)
        return prepare(self.settings, run.report, release_id)

    def answer(self, *statuses: int) -> None:
        """Answer the next health requests with ``statuses``; afterwards the service is healthy."""
        self.answers += [(status, _UNWELL if status == 503 else _DEGRADED) for status in statuses]

    def roll_back(self, snapshot_id: str | None = None) -> RollbackOutcome:
        """Roll back to a snapshot, by default the latest one."""
        return rollback(self.settings, RollbackRequest(snapshot_id=snapshot_id, force=True))

    def drill(self) -> str:
        """Rehearse the latest snapshot; return the result."""
        return run_drill(self.settings).status

    def watch(self) -> str:
        """Watch the latest release, with a rollback when it is degraded; return the verdict."""
        return watch_release(self.settings).status

    def add_past_releases(self) -> None:
        """Make nine days of releases: ready ones, a blocked one, one that was rolled back."""
        with self.at(days=9, hours=4):
            self.prepare("1.3.0")
        self.gates["tests"] = {"command": "echo 'not ok 31 - keeps the order'; exit 1", "needs": ["build"]}
        with self.at(days=8, hours=6):
            self.prepare("1.4.0")
        self.gates["tests"] = {"command": _TESTS, "needs": ["build"]}
        with self.at(days=8, hours=2):
            self.prepare("1.4.1")
        self.write_messages(5)
        with self.at(days=8, hours=1):
            self.answer(503, 503)
            self.roll_back()
        for release_id, days in (("1.5.0", 5), ("1.6.0", 2)):
            self.write_messages(30)
            with self.at(days=days, hours=3):
                self.prepare(release_id)

    def add_bad_release(self) -> Manifest:
        """Prepare 1.7.0, drill it, deploy it with a fault, and let the watch roll it back."""
        self.sql("CREATE TABLE receipts(id INTEGER PRIMARY KEY, at TEXT)")
        self.write_messages(12)
        self.servers["search"] = {
            "command": "cat",
            "args": ["--index", "/srv/index"],
            "env": {"SEARCH_TOKEN": "s3cret-one"},
        }
        self.write_servers()
        (self.folder / "state" / "gateway.json").write_text('{"version": "1.6.0", "retries": 3}')
        with self.at(hours=3):
            manifest = self.prepare("1.7.0")
        with self.at(hours=2, minutes=48):
            self.drill()
        self.write_messages(3)
        with self.at(hours=2, minutes=31):
            self.answer(200, 200, 503, 503, 503, 503, 503, 503)
            self.watch()
        return manifest


_WELL = {"ok": True, "data": {"status": "ok"}}
_DEGRADED = {"ok": True, "data": {"status": "degraded", "problems": ["mcpServers.search: in error"]}}
_UNWELL = {"ok": False, "error": {"message": "migrating: receipts"}}


@contextlib.contextmanager
def example_history(folder: Path) -> Iterator[ExampleHistory]:
    """Serve the health endpoint of a scratch service in ``folder`` and yield its history, which is still empty."""
    answers: list[tuple[int, dict[str, Any]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers.pop(0) if answers else (200, _WELL)
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield ExampleHistory(folder, f"http://127.0.0.1:{server.server_address[1]}/health", answers)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
