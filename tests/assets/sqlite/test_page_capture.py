"""A capture by page has the same bytes as one by the backup API, whole or as what differs from a base."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from attrs import evolve, frozen

from release_tasks.assets.base import Base
from release_tasks.assets.sqlite import page_capture
from release_tasks.assets.sqlite.database import Copied, capture_database
from release_tasks.assets.sqlite.image import image_digest, opened_image, write_image
from release_tasks.assets.sqlite.page_capture import capture_pages
from release_tasks.assets.sqlite.pages import copies
from release_tasks.assets.sqlite.pages.engine import Engine, find_engine
from release_tasks.assets.waiting import LockWait
from release_tasks.core.digests import sha256_file
from release_tasks.core.errors import StageFailed
from release_tasks.core.place import trusted
from release_tasks.core.records import StoredDelta
from tests.support.faults.disks import Disk, why_not
from tests.support.project import ACCOUNTS, BALANCE, Project
from tests.support.writer import StartWriter


@pytest.fixture
def engine() -> Engine:
    """The engine that reads pages."""
    found = find_engine()
    if found is None:
        pytest.skip("NOT TESTED: the extra `fast` is not installed")
    return found


@frozen
class Archive:
    """A pipeline folder for copies of one database, and the capture of it."""

    engine: Engine
    root: Path
    live: Path

    def place(self, snapshot_id: str) -> Path:
        """Return the new path of a copy in a snapshot."""
        folder = self.root / "snapshots" / snapshot_id / "assets" / "database"
        folder.mkdir(parents=True)
        return folder / "app.db"

    def capture(
        self, snapshot_id: str, base: Base | None = None, note: Callable[[str], object] = lambda text: pytest.fail(text)
    ) -> Copied:
        """Capture the live database."""
        copy = self.place(snapshot_id)
        return capture_pages(self.engine, trusted(self.live), copy, LockWait(5), base=base, note=note)

    def path(self, snapshot_id: str) -> Path:
        """Return the path of a copy: of a delta, if that is what there is."""
        plain = self.root / "snapshots" / snapshot_id / "assets" / "database" / "app.db"
        delta = plain.with_name("app.db.rtd1")
        return delta if delta.exists() else plain

    def base(self, snapshot_id: str) -> Base:
        """Return a plain copy as a base."""
        copy, digest = self.path(snapshot_id), sha256_file(self.path(snapshot_id))

        def keep() -> None:
            (self.root / "bases").mkdir(exist_ok=True)
            with contextlib.suppress(FileExistsError):
                os.link(copy, self.root / "bases" / f"{digest}.db")

        return Base(path=copy, sha256=digest, snapshot_id=snapshot_id, keep=keep)

    def decoded(self, snapshot_id: str) -> str:
        """Return the digest of the database that a copy stands for, as a reader decodes it."""
        with opened_image(self.path(snapshot_id)) as image:
            return image_digest(image)

    def plain_digest(self) -> str:
        """Return the digest of a copy by the backup API."""
        copy = self.root / "plain.db"
        copy.unlink(missing_ok=True)
        return capture_database(trusted(self.live), copy).sha256


@pytest.fixture
def archive(engine: Engine, tmp_path: Path) -> Archive:
    """A pipeline folder, and a live database of about 2 MiB."""
    made = Archive(engine, tmp_path / "pipeline", tmp_path / "live.db")
    made.root.mkdir()
    change(made.live, lambda database: create(database, 2000))
    return made


def change(live: Path, work: Callable[[sqlite3.Connection], object]) -> None:
    with contextlib.closing(sqlite3.connect(live, isolation_level=None)) as database:
        work(database)


def create(database: sqlite3.Connection, rows: int) -> None:
    database.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, n INTEGER, v BLOB)")
    add(database, rows)


def add(database: sqlite3.Connection, rows: int) -> None:
    database.execute("BEGIN")
    database.executemany("INSERT INTO t(n, v) VALUES (0, ?)", [(os.urandom(900),) for _ in range(rows)])
    database.execute("COMMIT")


CHANGES: dict[str, Callable[[sqlite3.Connection], object]] = {
    "nothing": lambda database: database.execute("SELECT 1"),
    "a row": lambda database: database.execute("UPDATE t SET n = n + 1 WHERE id = 7"),
    "more rows": lambda database: add(database, 100),
    "fewer rows": lambda database: database.execute("DELETE FROM t WHERE id > 1900"),
    "schema": lambda database: database.execute("CREATE INDEX i ON t(n)"),
    "cut": lambda database: database.executescript("DELETE FROM t WHERE id > 1950; VACUUM"),
}


@pytest.mark.parametrize("page_size", [512, 4096, 65536])
@pytest.mark.parametrize("journal_mode", ["wal", "delete"])
@pytest.mark.parametrize("name", CHANGES)
def test_a_delta_stands_for_the_bytes_of_a_plain_copy(
    archive: Archive, page_size: int, journal_mode: str, name: str
) -> None:
    """Equal state gives an equal digest, however it is stored; a delta is small and has passed its checks."""
    change(
        archive.live,
        lambda database: database.executescript(
            f"PRAGMA page_size = {page_size}; VACUUM; PRAGMA journal_mode = {journal_mode}"
        ),
    )
    first = archive.capture("a")
    assert first.delta is None and first.sha256 == archive.plain_digest() == sha256_file(archive.path("a"))
    change(archive.live, CHANGES[name])
    found = archive.capture("b", archive.base("a"))
    assert found.sha256 == archive.plain_digest() == archive.decoded("b")
    assert isinstance(found.delta, StoredDelta) and found.delta.base_sha256 == first.sha256
    assert archive.path("b").stat().st_size == found.delta.size < first.size // 4
    assert found.delta.sha256 == sha256_file(archive.path("b"))
    assert (found.size, found.journal_mode) == ((archive.root / "plain.db").stat().st_size, journal_mode)
    assert name != "nothing" or found.sha256 == first.sha256


def test_random_changes_are_in_the_delta(archive: Archive) -> None:
    """Several captures against one base, with changes in every part of the file."""
    archive.capture("base")
    base, chance = archive.base("base"), random.Random(1)
    for number in range(12):
        ids = [(chance.randrange(2000),) for _ in range(chance.randrange(1, 40))]
        change(archive.live, lambda database, ids=ids: database.executemany("UPDATE t SET n = n + 1 WHERE id = ?", ids))  # type: ignore[misc]
        if number % 3 == 0:
            change(archive.live, CHANGES[chance.choice([name for name in CHANGES if name != "schema"])])
        found = archive.capture(f"s{number}", base)
        assert found.sha256 == archive.plain_digest() == archive.decoded(f"s{number}")


def test_what_differs_too_much_is_stored_whole(archive: Archive) -> None:
    """More than a quarter of the base, another page size, and a database that has become small."""
    archive.capture("a")
    change(archive.live, lambda database: database.execute("UPDATE t SET v = randomblob(900) WHERE id % 2"))
    found = archive.capture("b", archive.base("a"))
    assert found.delta is None and found.sha256 == archive.plain_digest() == sha256_file(archive.path("b"))
    change(archive.live, lambda database: database.executescript("PRAGMA page_size = 8192; VACUUM"))
    assert archive.capture("c", archive.base("b")).delta is None
    copy = archive.place("d")
    found = capture_pages(
        archive.engine, trusted(archive.live), copy, LockWait(5), base=archive.base("c"), least=1 << 30
    )
    assert found.delta is None and found.sha256 == archive.plain_digest()


def test_an_altered_base_is_found_and_not_used(archive: Archive) -> None:
    """Otherwise each later snapshot would fall with it. A note names the base and its snapshot."""
    archive.capture("a")
    base = archive.base("a")
    with archive.path("a").open("r+b") as file:
        file.seek(100_000)
        file.write(b"x" * 10)
    notes: list[str] = []
    found = archive.capture("b", base, notes.append)
    assert found.delta is None and found.sha256 == archive.plain_digest() == sha256_file(archive.path("b"))
    (note,) = notes
    assert str(base.path) in note and "in snapshot a" in note and "release.verify" in note


@pytest.mark.parametrize("what", ["missing", "empty", "no database", "link"])
def test_what_is_no_base_is_not_used(archive: Archive, what: str) -> None:
    """The database is stored whole."""
    archive.capture("a")
    base = archive.base("a")
    base.path.unlink()
    if what == "link":
        base.path.symlink_to(archive.live)
    elif what != "missing":
        base.path.write_bytes(b"" if what == "empty" else b"x" * 1000)
    assert archive.capture("b", base).delta is None


def test_without_hard_links_the_database_is_stored_whole(archive: Archive) -> None:
    """A note says why; no file stays in the folder of the bases."""

    def refuse() -> None:
        raise PermissionError(1, "Operation not permitted", str(archive.root / "bases"))

    archive.capture("a")
    notes: list[str] = []
    found = archive.capture("b", evolve(archive.base("a"), keep=refuse), notes.append)
    assert found.delta is None and found.sha256 == archive.plain_digest()
    assert len(notes) == 1 and "snapshot a cannot become the base" in notes[0] and "not permitted" in notes[0]


def test_a_delta_that_cannot_be_decoded_is_no_capture(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every page is decoded again before the capture counts."""
    written = copies.delta_copy

    @contextlib.contextmanager
    def alter(path: Path, *arguments: object) -> Iterator[object]:
        with written(path, *arguments) as copy:  # type: ignore[arg-type]
            yield copy
        with path.open("r+b") as file:
            file.seek(path.stat().st_size // 2)
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 1]))

    archive.capture("a")
    change(archive.live, CHANGES["more rows"])
    monkeypatch.setattr(page_capture, "delta_copy", alter)
    with pytest.raises(StageFailed, match="is damaged"):
        archive.capture("b", archive.base("a"))


@pytest.mark.parametrize("has_wal", [True, False])
def test_the_live_files_stay_as_they_are(archive: Archive, has_wal: bool) -> None:
    """A WAL that a service left stays with its bytes; without one, none is left."""
    change(archive.live, lambda database: database.execute("PRAGMA journal_mode = wal"))
    if has_wal:
        with contextlib.closing(sqlite3.connect(archive.live)) as database:
            database.execute("UPDATE t SET n = 5")
            database.commit()
            wal = archive.live.with_name("live.db-wal")
            content, kept = archive.live.read_bytes(), wal.read_bytes()
        archive.live.write_bytes(content)  # as after a kill: the close of the service folded its WAL in
        wal.write_bytes(kept)
    before = {path.name: path.read_bytes() for path in archive.live.parent.glob("live.db*") if path.suffix != ".db-shm"}
    archive.capture("a")
    archive.capture("b", archive.base("a"))
    after = {path.name: path.read_bytes() for path in archive.live.parent.glob("live.db*") if path.suffix != ".db-shm"}
    assert after == before and ("live.db-wal" in after) == has_wal


def test_a_capture_is_of_one_moment_while_others_write(
    project: Project, engine: Engine, start_writer: StartWriter
) -> None:
    """Each delta has exactly the rows of one moment: the ledger explains the balances."""
    archive = Archive(engine, project.folder / "copies", project.database)
    archive.root.mkdir()
    with contextlib.closing(sqlite3.connect(project.database)) as database:
        database.execute("CREATE TABLE filler(v BLOB)")
        database.executemany("INSERT INTO filler VALUES (?)", [(os.urandom(4000),) for _ in range(1000)])
        database.commit()
    archive.capture("a")
    base = archive.base("a")
    writer = start_writer(project.database)
    before = 0
    for number in range(8):
        found = archive.capture(f"s{number}", base)
        assert found.delta is not None
        plain = archive.root / f"s{number}.db"
        with opened_image(archive.path(f"s{number}")) as image, plain.open("wb") as file:
            assert write_image(image, file.fileno()) == found.sha256
        count, total, difference = read_ledger(plain)
        assert (total, difference) == (ACCOUNTS * BALANCE, 0) and count >= before
        before = count
    writer.terminate()
    assert writer.wait() == 0 and before > 0


def read_ledger(plain: Path) -> tuple[int, int, int]:
    """Return the number of transfers, the sum of all balances, and the sum of what the ledger does not explain."""
    with contextlib.closing(sqlite3.connect(f"file:{plain}?immutable=1", uri=True)) as database:
        ledger = "SELECT sum(CASE id WHEN b THEN amount ELSE -amount END) FROM ledger WHERE accounts.id IN (a, b)"
        ledger = ledger.replace("id WHEN", "accounts.id WHEN")
        rows = database.execute(f"SELECT balance, ({ledger}) FROM accounts").fetchall()
        count = database.execute("SELECT count(*) FROM ledger").fetchone()[0]
    return count, sum(row[0] for row in rows), sum(abs(row[0] - BALANCE - (row[1] or 0)) for row in rows)


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.skipif(why_not("xfs") is not None, reason=f"NOT TESTED: clones: {why_not('xfs')}")
def test_a_filesystem_that_shares_blocks_has_plain_copies(engine: Engine, tmp_path: Path) -> None:
    """A clone of the base with the pages that differ over it: plain, and nearly without space of its own."""
    folder = tmp_path / "mounted"
    folder.mkdir()
    disk = Disk("xfs", tmp_path / "image", folder)
    disk.mount()
    try:
        archive = Archive(engine, folder / "pipeline", tmp_path / "live.db")
        archive.root.mkdir()
        change(archive.live, lambda database: create(database, 20_000))
        archive.capture("a")
        free = os.statvfs(folder).f_bfree
        for name in ("a row", "more rows", "cut"):
            change(archive.live, CHANGES[name])
            found = archive.capture(name, archive.base("a"))
            assert found.delta is None
            assert found.sha256 == sha256_file(archive.path(name)) == archive.plain_digest()
            (archive.root / "plain.db").unlink()
        used = (free - os.statvfs(folder).f_bfree) * os.statvfs(folder).f_frsize
        assert not (archive.root / "bases").exists()
        assert used < archive.path("a").stat().st_size
    finally:
        disk.unmount()
