"""A damaged project with a snapshot to restore, reset for each point, and the checks of what must hold afterwards."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from release_tasks.assets.sqlite.image import stored_image, write_image
from release_tasks.core.records import AssetRecord
from release_tasks.stages.rollback.engine import RollbackRequest, rollback
from release_tasks.stages.rollback.recovery import recover
from release_tasks.stages.verify import verify_snapshots
from release_tasks.tasks.flags import with_flags
from tests.support.faults.ledger import generation
from tests.support.faults.service import Service
from tests.support.faults.stages import passed_preflight, prepare
from tests.support.faults.tracing import Driver
from tests.support.project import Project

__all__ = [
    "BlockedScenario",
    "DeltaScenario",
    "MakeScenarioProject",
    "OverlayScenario",
    "Scenario",
    "change_config",
    "damage_header",
    "run_command",
]

Rows = tuple[list[tuple[int, int]], list[tuple[int, ...]]]


class MakeScenarioProject(Protocol):
    """The fixture ``make_scenario_project``: make a project in memory, its database in this journal mode."""

    def __call__(self, journal_mode: str) -> Project: ...


class Scenario:
    """``old`` is the damaged state, ``new`` the snapshot's state; ``reset`` brings ``old`` back for the next point.

    A service goes on changing rows. The state of the rows is then found by the marker in the ledger, and the ledger
    must explain the balances. ``releases`` are prepared before the damage; without any there is one snapshot.
    """

    outcomes: tuple[str, ...] = ("restored", "noop")  # how a rollback of this scenario may end

    def __init__(
        self,
        project: Project,
        driver: Driver | None = None,
        *,
        service: Service | None = None,
        damage: Callable[[Project], None] | None = None,
        releases: Iterable[str] = (),
    ) -> None:
        self.project, self.service = project, service
        self._driver = driver
        self.template = project.folder.with_name(project.folder.name + "-template")
        self._mounted: Path | None = None
        new = project.content()
        for release in releases:
            self.before_release(release)
            assert self._prepare(release) == "ready"
            # Judged, so that the next prepare removes the oldest one.
            project.pipeline.audit.append("watch.finished", status="healthy", release_id=release)
        if not releases:
            project.capture()
        project.damage()
        if damage is not None:
            damage(project)
        shutil.copytree(project.folder, self.template, symlinks=True)  # before a reader merges the WAL
        self.old, self.new = self._comparable(self._content()), self._comparable(new)

    @property
    def driver(self) -> Driver:
        """The process that runs the stages."""
        assert self._driver is not None, "this scenario was made without a driver"
        return self._driver

    @property
    def folders(self) -> list[Path]:
        """The folders in which a system call counts as a point."""
        return [self.project.folder]

    def before_release(self, release_id: str) -> None:
        """Change the live state before one of ``releases`` is prepared."""

    def reset(self) -> None:
        """Bring the old state back, with the service writing to it."""
        if self.service is not None:
            self.service.close_database()
        self.restore_files()
        if self.service is not None:
            self.service.open(self.project.database)

    def restore_files(self) -> None:
        """Bring the old state back."""
        shutil.rmtree(self.project.folder, ignore_errors=True)
        shutil.copytree(self.template, self.project.folder, symlinks=True)

    def close(self) -> None:
        """Unmount what is mounted."""
        if self._mounted is not None:
            run_command(["umount", "-l", str(self._mounted)])
            self._mounted = None

    def mount(self, target: Path, *options: str) -> None:
        """Mount something at ``target`` until ``close``."""
        run_command(["mount", *options, str(target)])
        self._mounted = target

    def job(self, stage: str, *, mutant: str | None = None, **options: Any) -> dict[str, Any]:
        """Return the description of a stage for the driver."""
        folder = str(self.project.folder)
        return {"stage": stage, "raw": self.project.raw, "folder": folder, "options": options, "mutant": mutant}

    def state(self) -> str:
        """Return ``old``, ``new`` or a description of the mix."""
        now = self._comparable(self._content())
        if now == self.old:
            return "old"
        return "new" if now == self.new else f"MIXED: {_differences(now, self.old, self.new)}"

    def check_in_turn(self, number: int, point: object) -> str:
        """Check one of three next commands: a recover, a rollback, or a recover after the snapshot is lost."""
        if number % 3 == 1:
            return self.check_undone(point)
        return self.check_rollback(point, directly=number % 3 == 2)

    def check_rollback(self, point: object, *, directly: bool = False) -> str:
        """Check all promises after an interrupted rollback or recovery; returns the state found.

        The next command is ``recover``, or with ``directly`` the next rollback.
        """
        settings = self.project.settings
        found = "" if directly else self.check_recovered(point)
        outcome = rollback(settings, RollbackRequest())
        assert outcome.status in self.outcomes, (point, outcome)
        # A second restore would lose the rows that the service has written since the first one.
        assert outcome.status == "noop" or found != "new", (point, outcome)
        expected = "old" if outcome.status == "failed" else "new"
        assert self.state() == expected, (point, self.state())
        self.assert_pipeline_intact(point)
        return found or expected

    def check_undone(self, point: object) -> str:
        """Check that recover undoes an interrupted rollback after its snapshot is lost; returns the state found."""
        pipeline, settings = self.project.pipeline, self.project.settings
        has_journal = pipeline.journal_path.exists()
        target = pipeline.catalogue.latest()
        record = target.asset("mcp")
        assert record is not None
        (pipeline.catalogue.path(target.snapshot_id) / record.relative_path).write_bytes(b"lost")
        recover(settings)
        found = self.state()
        assert found == "old" or (found == "new" and not has_journal), (point, found)
        assert recover(settings).status == "clean", point
        verdict = pipeline.audit.verify(pipeline.anchors())
        leftovers = self.project.leftovers()
        assert verdict.intact and leftovers == [], (point, verdict.problems, leftovers)
        return found

    def check_recovered(self, point: object) -> str:
        """Check that ``recover`` ends in all old or all new and leaves nothing to recover; returns the state."""
        settings = self.project.settings
        recover(settings)
        found = self.state()
        assert found in ("old", "new"), (point, found)
        assert recover(settings).status == "clean", point
        self.assert_pipeline_intact(point)
        return found

    def check_prepare(self, point: object) -> None:
        """Check all promises after an interrupted prepare: the release is complete or absent, the state unchanged."""
        settings = self.project.settings
        recover(settings)
        assert self.state() == "old", (point, self.state())
        self.assert_pipeline_intact(point)
        assert self._prepare("later") == "ready", point
        self.assert_pipeline_intact(point)
        latest = self.project.pipeline.latest_ready()
        assert latest is not None and latest.release_id == "later", point
        outcome = rollback(settings, RollbackRequest())
        assert outcome.status in ("restored", "noop"), (point, outcome)
        assert self.state() == "old", (point, self.state())

    def reported(self) -> dict[str, bytes]:
        """Return all records that a finished command has written: log, state, manifests, names of snapshots."""
        pipeline = self.project.pipeline
        files = [pipeline.audit.path, pipeline.state_path, pipeline.journal_path, *pipeline.manifests.glob("*.json")]
        records = {str(path): path.read_bytes() for path in files if path.exists()}
        published = [snapshot.snapshot_id.encode() for snapshot in pipeline.catalogue.published()[0]]
        return {**records, "snapshots": b" ".join(published)}

    def assert_pipeline_intact(self, point: object) -> None:
        """Fail unless the chain is intact, all snapshots verify, releases are complete and no leftovers exist."""
        pipeline = self.project.pipeline
        assert not pipeline.journal_path.exists(), point
        verdict = pipeline.audit.verify(pipeline.anchors())
        assert verdict.intact, (point, verdict.problems)
        found = verify_snapshots(self.project.settings)
        verdicts = found.snapshots
        # A kill during retention leaves snapshots that the log calls removed; the next retention removes them.
        problems = [line for each in verdicts for line in map(str, each.findings) if "retention removed it" not in line]
        assert problems == [], (point, problems)
        manifests = pipeline.read_manifests()
        assert all(file.manifest for file in manifests), (point, manifests)
        assert {each.status for each in found.attestations} <= {"unsigned"}, (point, found.attestations)
        latest = pipeline.latest_ready()
        known = {each.snapshot_id for each in verdicts}
        if latest is not None:
            assert latest.snapshot is not None and latest.snapshot.snapshot_id in known, (point, latest, known)
        self._assert_databases_sound(point)
        assert self.project.leftovers() == [], point

    def _assert_databases_sound(self, point: object) -> None:
        """Fail unless the live database is sound and every captured one contains all rows of one moment."""
        catalogue = self.project.pipeline.catalogue
        with tempfile.TemporaryDirectory(dir=self.template.parent) as scratch:
            copies = [
                _plain(catalogue.path(snapshot.snapshot_id) / record.relative_path, record, Path(scratch))
                for snapshot in catalogue.published()[0]
                if (record := snapshot.asset("database")) is not None and record.exists and not record.damaged
            ]
            self._assert_sound([self.project.database, *copies], point)

    def _assert_sound(self, databases: list[Path], point: object) -> None:
        for path in databases:
            if not _starts_like_a_database(path):
                assert self._content() == self.old, (point, path)  # it was damaged before
                continue
            assert _is_sound(path), (point, path)
            is_readable = not isinstance(self.old["rows"], bytes)
            found = generation(*_rows_of(path))
            assert found in ("old", "new") or not is_readable, (point, path, found)

    def _prepare(self, release_id: str) -> str:
        return prepare(with_flags(self.project.settings, retention=2), passed_preflight(), release_id).status

    def _content(self) -> dict[str, Any]:
        return self.project.content(database_as_bytes=not _starts_like_a_database(self.project.database))

    def _comparable(self, content: dict[str, Any]) -> dict[str, Any]:
        if self.service is None or isinstance(content["rows"], bytes):
            return content
        return {**content, "rows": generation(*content["rows"])}


class DeltaScenario(Scenario):
    """Releases of a database that is large enough for deltas: v2 is a delta of v1, v3 is stored whole.

    The next release is a delta of v3, and its retention removes v2 and with it the base of v1.
    """

    def __init__(self, project: Project, driver: Driver | None = None) -> None:
        project.overrides["storage.deltas_above"] = "64KiB"
        _fill(project)
        super().__init__(project, driver, damage=change_config, releases=("v1", "v2", "v3"))

    def before_release(self, release_id: str) -> None:
        """Replace most of the database before v3."""
        if release_id == "v3":
            _fill(self.project)

    def check_prepare(self, point: object) -> None:
        """Also check that the bases are those that a delta needs."""
        super().check_prepare(point)
        self.check_deltas(point)

    def check_deltas(self, point: object) -> None:
        """Fail unless there are deltas, and exactly the bases that they need."""
        snapshots = self.project.pipeline.catalogue.published()[0]
        assert any(asset.delta for snapshot in snapshots for asset in snapshot.assets), point
        assert self.project.pipeline.catalogue.bases.unneeded(snapshots) == set(), point


def _fill(project: Project) -> None:
    """Put new random bytes into a table of its own."""
    with contextlib.closing(sqlite3.connect(project.database)) as database:
        database.execute("CREATE TABLE IF NOT EXISTS filler(id INTEGER PRIMARY KEY, v BLOB)")
        database.executemany(
            "INSERT OR REPLACE INTO filler VALUES (?, ?)", [(number, os.urandom(3000)) for number in range(60)]
        )
        database.commit()


class OverlayScenario(Scenario):
    """The state is an overlay's lower layer, as in a container: its folders cannot be renamed, only overwritten."""

    def restore_files(self) -> None:
        self.close()
        super().restore_files()
        state = self.project.state
        lower = state.with_name("lower")
        state.rename(lower)
        for folder in (state, state.with_name("upper"), state.with_name("work")):
            folder.mkdir()
        layers = f"lowerdir={lower},upperdir={state.with_name('upper')},workdir={state.with_name('work')}"
        self.mount(state, "-t", "overlay", "overlay", "-o", layers)


class BlockedScenario(Scenario):
    """A file that must be removed becomes a mount point after the check: every rollback fails and is undone."""

    outcomes = ("failed",)

    def job(self, stage: str, *, mutant: str | None = None, **options: Any) -> dict[str, Any]:
        """Return a job without the check for mount points, which runs before the mount appears."""
        return {**super().job(stage, mutant=mutant, **options), "is_unforeseen": True}

    def restore_files(self) -> None:
        self.close()
        super().restore_files()
        self.mount(self.project.extra, "--bind", str(self.project.extra))


def change_config(project: Project) -> None:
    """Write another config where the damage removed it, so that a release of the old state can be prepared."""
    project.mcp.write_text('{"mcpServers": {"other": {}}}')


def damage_header(project: Project) -> None:
    """Zero the header of the live database and put the WAL of another database next to it."""
    other = project.folder / "other.db"
    database = sqlite3.connect(other)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("CREATE TABLE strange(x)")
    database.execute("INSERT INTO strange VALUES (1)")
    database.commit()
    shutil.copy(f"{other}-wal", f"{project.database}-wal")
    database.close()
    other.unlink()
    with project.database.open("r+b") as file:
        file.write(bytes(100))


def run_command(command: list[str]) -> None:
    """Run a command that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"


def _starts_like_a_database(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(6) == b"SQLite"


def _plain(stored: Path, record: AssetRecord, scratch: Path) -> Path:
    """Return the path of a stored database as a plain file, for a delta a new one in ``scratch``."""
    if record.delta is None:
        return stored
    plain = scratch / f"{stored.parents[2].name}.db"
    with stored_image(stored, record) as image, plain.open("wb") as file:
        assert write_image(image, file.fileno()) == record.sha256
    return plain


def _is_sound(path: Path) -> bool:
    database = sqlite3.connect(path, timeout=30)
    try:
        return bool(database.execute("PRAGMA integrity_check").fetchone() == ("ok",))
    finally:
        database.close()


def _rows_of(path: Path) -> Rows:
    database = sqlite3.connect(path, timeout=30, isolation_level=None)
    try:
        database.execute("BEGIN")
        return (
            database.execute("SELECT id, balance FROM accounts").fetchall(),
            database.execute("SELECT id, a, b, amount FROM ledger").fetchall(),
        )
    finally:
        database.close()


def _differences(now: dict[str, Any], old: dict[str, Any], new: dict[str, Any]) -> str:
    """Return for each part whether it is old, new or neither."""
    parts = [f"rows {_which(now['rows'], old['rows'], new['rows'])}"]
    for path in sorted({*old["files"], *new["files"], *now["files"]}):
        states = [each["files"].get(path) for each in (now, old, new)]
        if states[1] != states[2] or states[0] != states[1]:
            parts.append(f"{path} {_which(*states)}")
    return ", ".join(parts)


def _which(now: object, old: object, new: object) -> str:
    return "old" if now == old else "new" if now == new else "neither"
