"""A project of root whose state belongs to another user, and a folder that only root may see."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import tempfile
import textwrap
from pathlib import Path
from typing import Any

from release_tasks.archive.pipeline import Pipeline
from release_tasks.config.schema import Settings
from release_tasks.tasks.project import load_settings
from tests.support.faults.scenario import run_command
from tests.support.faults.stages import passed_preflight, prepare
from tests.support.neighbours.neighbour import USER

__all__ = ["Street"]

_SECRET = b"only root may read this"
# Every kind of asset has a file with the setuid bit, which must never be on a file of root.
_MODES = {"ident/key": 0o600, "ident/tool": 0o4755, "conf.json": 0o6755, "app.db": 0o4755}
_DAMAGED_MODES = {"ident/key": 0o644, "ident/tool": 0o4711, "conf.json": 0o600, "app.db": 0o664}


class Street:
    """``state`` belongs to ``USER``, with the assets in ``state/data`` and baits in ``state/spare``.

    The ``vault`` is a folder of root (0700) that has the same names as ``state/data``; each of its files contains a
    secret. The database has the journal mode ``journal_mode``. The snapshot ``snapshot_id`` has the state ``new``; the
    live state was changed after it.
    """

    def __init__(self, world: Path, journal_mode: str = "delete") -> None:
        self.world, self._journal_mode = world, journal_mode
        self.project = world / "project"
        self.state = self.project / "state"
        self.data = self.state / "data"
        self.spare = self.state / "spare"
        self.vault = world / "vault"
        self.memory = self.project / "memory"
        self._templates = world.with_name(f"{world.name}-templates")
        self._templates.mkdir(0o700)
        for folder in (world, self.project, self.memory):
            folder.mkdir()
        self._build_state()
        self._build_vault()
        self.settings: Settings = load_settings({"release": self.raw}, self.project)
        self.new = self.content()
        assert prepare(self.settings, passed_preflight(), "v1").status == "ready"
        self.snapshot_id = Pipeline(self.settings.release.root).catalogue.latest().snapshot_id
        self._damage()
        self._lay_baits()
        self.old = self.content()
        self.templates: dict[str, Path] = {}
        self._mounted: Path | None = None
        self.save("damaged")
        self.templates["mounted"] = self.templates["damaged"]
        self._vault, self._outside = self._vault_now(), self._outside_now()

    @property
    def raw(self) -> dict[str, Any]:
        """The ``release`` section of the configuration."""
        return {
            "root": "memory/release-pipeline",
            "app": {"name": "demo", "version": "1.0"},
            "health": {"timeout": "2s", "deadline": "5s", "interval": "20ms"},
            "gates": {"always": {"command": "true"}},
            "assets": {
                "database": {"sqlite": "state/data/app.db"},
                "conf": {"file": "state/data/conf.json"},
                "ident": {"directory": "state/data/ident"},
            },
            "restart": {"settle": "300ms"},
        }

    def job(self, stage: str, **options: Any) -> dict[str, Any]:
        """Return the description of a stage for the driver; its result is a status and the sentences it said."""
        options = {"of": stage, **options}
        return {"stage": "said", "raw": self.raw, "folder": str(self.project), "options": options}

    def rollback_job(self) -> dict[str, Any]:
        """Return the rollback to the snapshot of the state ``new``."""
        return self.job("rollback", snapshot_id=self.snapshot_id, force=True)

    def save(self, name: str) -> None:
        """Save the present state of everything as a template of ``reset``."""
        self.templates[name] = self._save(name)

    def reset(self, template: str = "damaged") -> None:
        """Bring everything back to a template. In ``mounted``, the folder of an asset is a mount point."""
        self.unmount()
        shutil.rmtree(self.world)
        _copy(self.templates[template], self.world)
        if template == "mounted":
            ident = self.data / "ident"
            run_command(["mount", "--bind", str(ident), str(ident)])
            self._mounted = ident
        self._vault, self._outside = self._vault_now(), self._outside_now()

    def unmount(self) -> None:
        """Unmount what ``reset`` has mounted."""
        if self._mounted is not None:
            run_command(["umount", "-l", str(self._mounted)])
            self._mounted = None

    def content(self) -> dict[str, Any]:
        """Return rows, bytes, owners, modes and links of the assets."""
        found: dict[str, Any] = {}
        ident = self.data / "ident"
        for path in (self.data, self.data / "conf.json", ident, *sorted(ident.rglob("*"))):
            info = os.lstat(path)
            attributes = (info.st_uid, info.st_gid, oct(info.st_mode))
            found[str(path.relative_to(self.data))] = (attributes, _bytes_of(path, info))
        info = os.lstat(self.data / "app.db")
        found["app.db"] = ((info.st_uid, info.st_gid, oct(info.st_mode)), self._rows())
        return found

    def _rows(self) -> list[tuple[Any, ...]]:
        """Return the rows of the database; from a copy, because SQLite makes side files next to what it reads."""
        with tempfile.TemporaryDirectory(dir=self._templates) as scratch:
            for suffix in ("", "-wal", "-journal"):
                path = self.data / f"app.db{suffix}"
                if path.exists():
                    shutil.copyfile(path, Path(scratch, path.name))
            database = sqlite3.connect(Path(scratch, "app.db"), timeout=30)
            try:
                return database.execute("SELECT * FROM notes ORDER BY id").fetchall()
            finally:
                database.close()

    def damages(self, *, has_hard_links: bool = False) -> list[str]:
        """Return what root did for the other user and must not do; empty when nothing happened.

        ``has_hard_links``: names of the other user lead to files of the vault itself. A copy of them may be in a
        snapshot, and keeps their owner and mode wherever it is.
        """
        found = _differences("vault", self._vault, self._vault_now())
        found += _differences("outside", self._outside, self._outside_now())
        own = {(info.st_dev, info.st_ino) for info in map(os.lstat, self.vault.rglob("*"))}
        for path in _files_below(self.state):
            info = os.lstat(path)
            if info.st_mode & (stat.S_ISUID | stat.S_ISGID) and info.st_uid != USER:
                found.append(f"{path.relative_to(self.world)} has mode {info.st_mode:o} and the owner {info.st_uid}")
            if (info.st_dev, info.st_ino) not in own and _can_read(info) and _SECRET in path.read_bytes():
                found.append(f"{path.relative_to(self.world)} contains a secret of root")
        if not has_hard_links:
            found += [
                f"{path.relative_to(self.world)} contains a secret of root"
                for path in _files_below(self.memory)
                if _SECRET in path.read_bytes()
            ]
        return found

    def _build_state(self) -> None:
        ident = self.data / "ident"
        (ident / "sub" / "deep").mkdir(parents=True)
        (ident / "key").write_text("first key")
        (ident / "tool").write_text("#!/bin/sh\nid\n")
        (ident / "sub" / "deep" / "file").write_text("first file")
        (ident / "current").symlink_to("sub/deep/file")
        (self.data / "conf.json").write_text('{"first": true}')
        _write_rows(self.data / "app.db", "first", self._journal_mode)
        self._give_away(_MODES)

    def _give_away(self, modes: dict[str, int]) -> None:
        """Give everything below the state to the other user, and the assets these modes."""
        for path in (self.state, *self.state.rglob("*")):
            os.lchown(path, USER, USER)
        for name, mode in modes.items():
            os.chmod(self.data / name, mode)

    def _damage(self) -> None:
        ident = self.data / "ident"
        (ident / "key").write_text("second key")
        (ident / "tool").write_text("#!/bin/sh\nid -u\n")
        (ident / "sub" / "deep" / "other").write_text("second file")
        (ident / "current").unlink()
        (self.data / "conf.json").write_text('{"second": true}')
        _write_rows(self.data / "app.db", "second", self._journal_mode)
        self._give_away(_DAMAGED_MODES)
        os.chmod(self.data, 0o750)

    def _build_vault(self) -> None:
        ident = self.vault / "ident"
        (ident / "sub" / "deep").mkdir(parents=True)
        for name in ("shadow", "conf.json", "ident/key", "ident/tool", "ident/sub/deep/file", "ident/sub/deep/other"):
            (self.vault / name).write_bytes(_SECRET + b": " + name.encode())
            os.chmod(self.vault / name, 0o600)
        os.chmod(ident / "tool", 0o755)
        (ident / "current").symlink_to("sub/deep/file")
        _write_rows(self.vault / "app.db", _SECRET.decode(), self._journal_mode)
        os.chmod(self.vault / "app.db", 0o600)
        os.chmod(self.vault, 0o700)

    def _lay_baits(self) -> None:
        """Prepare what the other user puts in the place of a name. As root, because of the hard links."""
        spare, vault = self.spare, self.vault
        spare.mkdir()
        for name in ("app.db", "conf.json", "ident", "ident/sub", "shadow"):
            (spare / f"link-{name.replace('/', '-')}").symlink_to(vault / name)
        (spare / "link-vault").symlink_to(vault)
        for name in ("app.db", "conf.json", "shadow"):
            os.link(vault / name, spare / f"hard-{name}")
        (spare / "root-link").symlink_to(vault)  # as if root had made it for the service
        os.mkfifo(spare / "pipe", 0o666)
        (spare / "file").write_text("a file in place of a folder")
        (spare / "folder").mkdir()
        _fill_with_links(spare / "links-data", self.data, vault)
        _fill_with_links(spare / "links-ident", self.data / "ident", vault / "ident")
        _copy(self.data, spare / "twin")
        for path in (spare, *spare.rglob("*")):
            if not path.name.startswith(("hard-", "root-")):
                os.lchown(path, USER, USER)
        os.chmod(spare / "twin" / "ident" / "tool", 0o4755)

    def _save(self, name: str) -> Path:
        template = self._templates / name
        _copy(self.world, template)
        return template

    def _vault_now(self) -> dict[str, Any]:
        return {str(path.relative_to(self.vault)): _seen(path) for path in (self.vault, *self.vault.rglob("*"))}

    def _outside_now(self) -> dict[str, Any]:
        """Return what is outside the vault and the two folders of the project that a stage may change."""
        found: dict[str, Any] = {
            str(path): _seen(path) for path in (self.project, *self.world.iterdir()) if path != self.vault
        }
        found[str(self.project)] = sorted(os.listdir(self.project))
        found[str(self.state)] = sorted({*os.listdir(self.state), self.data.name})
        found[str(self.memory)] = sorted(os.listdir(self.memory))
        return found


def _write_rows(path: Path, text: str, journal_mode: str = "delete") -> None:
    database = sqlite3.connect(path)
    database.execute(f"PRAGMA journal_mode = {journal_mode}")
    database.execute("CREATE TABLE IF NOT EXISTS notes(id INTEGER PRIMARY KEY, text TEXT)")
    database.execute("DELETE FROM notes")
    database.executemany("INSERT INTO notes(text) VALUES (?)", [(f"{text} {number}",) for number in range(50)])
    database.commit()
    database.close()


def _fill_with_links(folder: Path, like: Path, target: Path) -> None:
    """Make a folder with the names of another one, each a link to the same name in ``target``."""
    folder.mkdir()
    for path in like.iterdir():
        (folder / path.name).symlink_to(target / path.name)


def _copy(source: Path, destination: Path) -> None:
    """Copy with owners, modes, times and hard links."""
    subprocess.run(["cp", "-a", str(source), str(destination)], check=True)


def _seen(path: Path) -> tuple[Any, ...]:
    info = os.lstat(path)
    return oct(info.st_mode), info.st_ino, info.st_uid, info.st_gid, info.st_mtime_ns, _bytes_of(path, info)


def _bytes_of(path: Path, info: os.stat_result) -> bytes | str | None:
    if stat.S_ISREG(info.st_mode):
        return path.read_bytes()
    return os.readlink(path) if stat.S_ISLNK(info.st_mode) else None


def _files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if stat.S_ISREG(os.lstat(path).st_mode)]


def _can_read(info: os.stat_result) -> bool:
    """Return whether the other user may read the file, or may give the right to it."""
    return info.st_uid == USER or bool(info.st_mode & 0o004) or (info.st_gid == USER and bool(info.st_mode & 0o040))


def _differences(where: str, before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    names = sorted({*before, *now})
    changed = [name for name in names if before.get(name) != now.get(name)]
    return [f"{where}: {name} was {_short(before.get(name))} and is {_short(now.get(name))}" for name in changed]


def _short(seen: object) -> str:
    return textwrap.shorten(str(seen), 120)
