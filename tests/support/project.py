"""A scratch project with real state: a database, a folder of keys, two config files."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any, Protocol

from release_tasks.archive.capture import CaptureRequest, capture_snapshot
from release_tasks.archive.parents import Parents
from release_tasks.archive.pipeline import Pipeline
from release_tasks.config.schema import Settings
from release_tasks.core.records import RollbackOutcome, SnapshotMetadata
from release_tasks.stages.rollback.engine import RollbackRequest, rollback
from release_tasks.tasks.project import load_settings

__all__ = ["ACCOUNTS", "BALANCE", "Ledger", "MakeProject", "Project"]

ACCOUNTS = 50
BALANCE = 100

Ledger = tuple[list[tuple[int, int]], list[tuple[int, int, int, int]]]  # rows of accounts, rows of ledger


class Project:
    """A scratch project: a database of constant sum, identity/, mcp.json and, absent at first, extra.json.

    With ``cache_settings`` the configuration is read once: a thousand readings take longer than a thousand rollbacks.
    """

    def __init__(self, folder: Path, journal_mode: str = "wal", *, cache_settings: bool = False) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.database = self.state / "app.db"
        self.identity = self.state / "identity"
        self.mcp = self.state / "mcp.json"
        self.extra = self.state / "extra.json"
        self.overrides: dict[str, Any] = {}
        self._caches_settings = cache_settings
        self._cached_settings: Settings | None = None
        self._write_state(journal_mode)

    def _write_state(self, journal_mode: str) -> None:
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
        if "RESTORE_BY_PAGE" in os.environ:  # the preview, for every test
            section["storage"] = {"restore_by_page": True}
        for path, value in self.overrides.items():
            target = section
            *parents, last = path.split(".")
            for part in parents:
                target = target.setdefault(part, {})
            target[last] = value
        return section

    @property
    def settings(self) -> Settings:
        """The checked configuration; set ``overrides["health.url"]`` and the like before the first use."""
        if self._cached_settings is not None:
            return self._cached_settings
        settings = load_settings({"release": self.raw}, self.folder)
        if self._caches_settings:
            self._cached_settings = settings
        return settings

    @property
    def pipeline(self) -> Pipeline:
        return Pipeline(self.settings.release.root)

    def capture(self, release_id: str = "v1") -> SnapshotMetadata:
        """Publish a release snapshot of the live state, without gates or manifest."""
        settings = self.settings
        request = CaptureRequest(
            snapshot_id=f"{release_id}_snapshot",
            release_id=release_id,
            kind="release",
            retention_limit=5,
            parents=Parents(settings.project, settings.release.assets).record(),
        )
        return capture_snapshot(self.pipeline.catalogue, settings.release.assets, request)

    def roll_back(self, snapshot_id: str | None = None, *, force: bool = False, wait: float = 0.0) -> RollbackOutcome:
        """Roll back to a snapshot, or to the latest one."""
        return rollback(self.settings, RollbackRequest(snapshot_id=snapshot_id, force=force, wait=wait))

    def damage(self) -> None:
        """Change every asset: rows, a key, a file removed, a file added that was absent."""
        self.damage_rows()
        (self.identity / "identity.json").write_text('{"id": "other"}')
        (self.identity / "intruder").write_text("x")
        self.mcp.unlink()
        self.extra.write_text("{}")

    def damage_rows(self) -> None:
        """Change every balance and add a row to the ledger."""
        database = sqlite3.connect(self.database, timeout=30)
        database.execute("UPDATE accounts SET balance = balance + 1")
        database.execute("INSERT INTO ledger(a, b, amount) VALUES (0, 0, 999999)")
        database.commit()
        database.close()

    def content(self, *, database_as_bytes: bool = False) -> dict[str, Any]:
        """Return all state that a restore brings back: the rows as SQLite reads them; bytes, modes and links of files.

        With ``database_as_bytes`` the bytes of the database file take the place of the rows: SQLite may not open it.
        """
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
        return {"rows": self.database.read_bytes() if database_as_bytes else self.rows(), "files": files}

    def rows(self) -> Ledger:
        """Return every row of accounts and ledger, read in one transaction."""
        database = sqlite3.connect(self.database, timeout=30, isolation_level=None)
        try:
            database.execute("BEGIN")
            return (
                database.execute("SELECT * FROM accounts ORDER BY id").fetchall(),
                database.execute("SELECT * FROM ledger ORDER BY id").fetchall(),
            )
        finally:
            database.close()

    def leftovers(self) -> list[str]:
        """Return the temporary files of crashed runs in the state folder and the pipeline."""
        found = [str(p) for p in self.state.rglob("*") if ".release-tasks" in p.name or p.name.endswith(".tmp")]
        root = self.settings.release.root
        if root.exists():
            hidden = (p for p in root.rglob("*") if p.name.startswith(".") and p != root / ".gitignore")
            found += map(str, {*hidden, *root.rglob("*.tmp")})
            statements = (root / "manifests").glob("*.intoto.jsonl")
            found += [str(p) for p in statements if not p.with_name(p.name.removesuffix(".intoto.jsonl")).exists()]
        return found


class MakeProject(Protocol):
    """The fixture ``make_project``: make a scratch project in a folder of this name."""

    def __call__(self, name: str, journal_mode: str = "wal", *, cache_settings: bool = False) -> Project: ...
