"""Another user moves files and folders of root, or of a third user, to names where root expects those of the service.

A user can rename a file of any user out of a folder that this user may write, and needs no right on the file for it.
"""

from __future__ import annotations

import os
import sqlite3
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from attrs import frozen

from release_tasks.assets.files import keep_attributes_of_new_link
from release_tasks.assets.overwrite import overwrite_tree
from release_tasks.assets.placing import discard_staged, inode_at, leftovers
from release_tasks.assets.sqlite.restore import locked_database
from release_tasks.assets.waiting import LockWait
from release_tasks.config.schema import Settings
from release_tasks.core.errors import StageFailed
from release_tasks.core.events import Event
from release_tasks.core.place import found
from release_tasks.core.records import AssetEntry, AssetRecord, Inode, PreparedRelease, RollbackOutcome
from release_tasks.stages.rollback.engine import RollbackRequest, rollback
from release_tasks.tasks.project import load_settings
from tests.support.faults.stages import passed_preflight, prepare
from tests.support.neighbours.neighbour import NEEDS_NEIGHBOUR, USER

pytestmark = [pytest.mark.root, NEEDS_NEIGHBOUR]

THIRD = 4711
SECRET = "only its owner may read this"
NO_ID = 0xFFFFFFFF
ROLLBACK = "20260101000000-abcdef"


@frozen
class Estate:
    """A project of root in ``folder``, whose ``state`` belongs to the user of the service."""

    folder: Path
    settings: Settings

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def database(self) -> Path:
        return self.state / "db" / "app.db"

    def as_service(self, *words: str, succeeds: bool = True) -> str:
        """Run a command in the state folder with the rights of the service; return its output."""
        account = ["setpriv", "--reuid", str(USER), "--regid", str(USER), "--clear-groups"]
        done = subprocess.run([*account, *words], cwd=self.state, capture_output=True, text=True, check=False)
        assert (done.returncode == 0) is succeeds, done
        return done.stdout

    def keep_secret(self, name: str, owner: int = 0, *, is_folder: bool = False) -> Path:
        """Make a file, or a folder with a file, that only its owner may read, in the folder of the service."""
        path = self.state / name
        if is_folder:
            path.mkdir()
            (path / "dump").write_text(SECRET)
        else:
            path.write_text(SECRET)
        os.chmod(path, 0o700 if is_folder else 0o600)
        os.chown(path, owner, owner)
        return path

    def readable(self) -> set[str]:
        """Return the paths of the files below the state that have the secret and that the service can read."""
        return set(self.as_service("sh", "-c", f"grep -rls '{SECRET}' . || true").split())

    def add_row(self) -> None:
        """Write a row as the service does."""
        database = "d = sqlite3.connect('db/app.db')"
        self.as_service(
            sys.executable,
            "-I",
            "-S",
            "-c",
            f"import sqlite3; {database}; d.execute('INSERT INTO t VALUES (2)'); d.commit()",
        )

    def rows(self) -> list[tuple[int]]:
        database = sqlite3.connect(self.database)
        try:
            return database.execute("SELECT * FROM t").fetchall()
        finally:
            database.close()

    def roll_back(self) -> RollbackOutcome:
        return rollback(self.settings, RollbackRequest(force=True))

    def prepare(self, release_id: str = "v2") -> PreparedRelease:
        return prepare(self.settings, passed_preflight(), release_id)


def estate(ground: Path, journal_mode: str = "delete", *, folder: tuple[int, int] = (USER, 0o755)) -> Estate:
    """Return an estate with a snapshot; ``folder`` has the owner and the mode of the folder of the database."""
    raw = {
        "root": "memory/pipeline",
        "app": {"name": "demo", "version": "1"},
        "gates": {"always": {"command": "true"}},
        "assets": {
            "database": {"sqlite": "state/db/app.db"},
            "ident": {"directory": "state/ident"},
            "conf": {"file": "state/conf.json"},
        },
    }
    state = ground / "state"
    (state / "db").mkdir(parents=True)
    (state / "ident" / "sub").mkdir(parents=True)
    (state / "conf.json").write_text(SECRET)
    for name in ("key", "sub/root.key"):
        (state / "ident" / name).write_text(SECRET)
    database = sqlite3.connect(state / "db" / "app.db")
    database.execute(f"PRAGMA journal_mode = {journal_mode}")
    database.execute("CREATE TABLE t(x)")
    database.execute("INSERT INTO t VALUES (1)")
    database.commit()
    database.close()
    for path in (state, *state.rglob("*")):
        os.chown(path, USER, USER)
    os.chown(state / "db", folder[0], USER)
    os.chmod(state / "db", folder[1])
    for path in (state / "conf.json", state / "ident" / "sub" / "root.key"):
        os.chown(path, 0, 0)
        os.chmod(path, 0o640)
    os.chmod(state / "ident" / "key", 0o600)
    made = Estate(ground, load_settings({"release": raw}, ground))
    assert prepare(made.settings, passed_preflight(), "v1").status == "ready"
    return made


@pytest.mark.parametrize("owner", [0, THIRD])
@pytest.mark.parametrize(
    ("suffix", "journal_mode", "folder"),
    [
        ("-shm", "delete", (USER, 0o755)),
        ("-wal", "wal", (USER, 0o755)),
        ("-journal", "delete", (0, 0o770)),
    ],
)
def test_no_side_file_of_another_user_is_used_or_given_away(
    ground: Path, owner: int, suffix: str, journal_mode: str, folder: tuple[int, int]
) -> None:
    """A release is blocked and names it; a rollback replaces the database as a file."""
    made = estate(ground, journal_mode, folder=folder)
    made.add_row()
    secret, before = made.keep_secret("secret", owner), made.readable()
    inode = inode_at(secret)
    made.as_service("mv", "secret", f"db/app.db{suffix}")
    blocked = made.prepare()
    assert blocked.status == "blocked"
    assert any(f"app.db{suffix} belongs to " in line for line in blocked.diagnostics)
    side_file = Path(f"{made.database}{suffix}")
    assert (inode_at(side_file), side_file.lstat().st_uid, side_file.lstat().st_mode & 0o777) == (inode, owner, 0o600)
    outcome = made.roll_back()
    assert outcome.status == "restored", outcome.diagnostics
    assert made.rows() == [(1,)]
    assert made.readable() == before


def test_a_database_of_root_shares_no_side_file_with_other_files_of_root(ground: Path) -> None:
    """The owner alone proves nothing where the service may write a database of root by its group."""
    made = estate(ground, folder=(0, 0o770))
    os.chown(made.database, 0, USER)
    os.chmod(made.database, 0o660)
    assert made.prepare().status == "ready"
    made.keep_secret("secret")
    before = made.readable()
    made.as_service("mv", "secret", "db/app.db-wal")
    assert made.roll_back().status == "restored"
    assert (made.rows(), made.readable()) == ([(1,)], before)
    info = made.database.lstat()
    assert (info.st_uid, info.st_gid, info.st_mode & 0o777) == (0, USER, 0o660)


def test_side_files_that_a_group_shares_are_used(ground: Path) -> None:
    """A WAL of a member has the group and the mode of the database."""
    made = estate(ground, "wal", folder=(0, 0o770))
    made.add_row()
    for number, (mode, status) in enumerate([(0o660, "ready"), (0o640, "blocked")]):
        os.chmod(made.database, mode)
        for suffix in ("-wal", "-shm"):
            side_file = Path(f"{made.database}{suffix}")
            side_file.touch()
            os.chown(side_file, THIRD, USER)
            os.chmod(side_file, 0o660)
        assert made.prepare(f"w{number}").status == status


def test_a_database_that_was_moved_in_is_exchanged_and_not_written(ground: Path) -> None:
    """Neither its content nor its rights change; the restored one is a new file."""
    made = estate(ground)
    vault = made.state / "vault.db"
    database = sqlite3.connect(vault)
    database.execute("CREATE TABLE t(x)")
    database.execute("INSERT INTO t VALUES (?)", (SECRET,))
    database.commit()
    database.close()
    os.chmod(vault, 0o600)
    before, watched = made.readable(), vault.open("rb")
    made.as_service("mv", "vault.db", "db/app.db")
    with watched:
        assert made.roll_back().status == "restored"
        info = os.fstat(watched.fileno())
        assert (info.st_uid, info.st_mode & 0o777, SECRET.encode() in watched.read()) == (0, 0o600, True)
    assert (made.rows(), made.readable(), made.database.lstat().st_uid) == ([(1,)], before, USER)


def test_a_second_name_of_the_database_does_not_prevent_the_rollback(ground: Path) -> None:
    """A new file takes its place; the file with the other name stays as it is."""
    made = estate(ground, folder=(0, 0o770))
    made.add_row()
    made.as_service("ln", "db/app.db", "db/other")
    before = (made.database.parent / "other").read_bytes()
    outcome = made.roll_back()
    assert outcome.status == "restored", outcome.diagnostics
    assert (made.rows(), (made.database.parent / "other").read_bytes()) == ([(1,)], before)


def test_the_reason_of_a_refused_file_is_said(ground: Path) -> None:
    """SQLite itself says that the database is read-only."""
    made = estate(ground, folder=(0, 0o770))
    made.as_service("ln", "db/app.db", "db/other")
    with (
        found(made.database) as live,
        pytest.raises(StageFailed, match="has other names"),
        locked_database(live, next((made.folder / "memory").rglob("app.db")), None, LockWait(0)),
    ):
        pass


@pytest.mark.parametrize("owner", [0, THIRD])
def test_a_folder_above_that_was_moved_in_is_refused(ground: Path, owner: int) -> None:
    """Nothing is changed; without it, the rollback makes the folder again."""
    made = estate(ground)
    secret = made.keep_secret("backup", owner, is_folder=True)
    made.as_service("mv", "db", "mine")
    made.as_service("mv", "backup", "db")
    before = (made.state / "db").lstat()
    outcome = made.roll_back()
    assert outcome.status == "failed"
    assert f"{made.state / 'db'} belongs to " in outcome.diagnostics[0]
    after = (made.state / "db").lstat()
    assert (after.st_uid, after.st_mode, after.st_ctime_ns) == (before.st_uid, before.st_mode, before.st_ctime_ns)
    (made.state / "db").rename(secret)
    assert made.roll_back().status == "restored"
    assert (made.rows(), (made.state / "db").lstat().st_uid) == ([(1,)], USER)


def test_a_folder_of_root_in_place_of_another_one_gets_no_rights_for_a_group(ground: Path) -> None:
    """The owner is the same; the mode says that it is private."""
    made = estate(ground, folder=(0, 0o770))
    made.keep_secret("backup", is_folder=True)
    made.as_service("mv", "db", "mine")
    made.as_service("mv", "backup", "db")
    outcome = made.roll_back()
    assert outcome.status == "restored", outcome.diagnostics
    assert any("db did not get its mode 0770 back" in line for line in outcome.diagnostics)
    assert (made.state / "db").lstat().st_mode & 0o777 == 0o700


def test_restored_files_have_no_access_list_of_the_service(ground: Path) -> None:
    """A default list on the folder of the service would let it read what the group of root may read."""
    made = estate(ground)
    before = made.readable()
    user, owner, group, mask, other = (2, 7, USER), (1, 7, NO_ID), (4, 7, NO_ID), (0x10, 7, NO_ID), (0x20, 0, NO_ID)
    entries = b"".join(struct.pack("<HHI", *entry) for entry in (owner, user, group, mask, other))
    try:
        os.setxattr(made.state, "system.posix_acl_default", struct.pack("<I", 2) + entries)
    except OSError as error:
        pytest.skip(f"NOT TESTED: {made.state} has no access lists: {error.strerror}")
    made.as_service("rm", "-rf", "ident", "conf.json")
    assert made.roll_back().status == "restored"
    assert made.readable() == before
    assert (made.state / "conf.json").lstat().st_mode & 0o777 == 0o640
    lists = {path: os.listxattr(path) for path in made.state.rglob("*")}
    assert {path for path, names in lists.items() if any("acl" in name for name in names)} == set()


def discarded(target: Path, *own: Path) -> tuple[list[str], list[str]]:
    """Remove what the rollback left next to ``target``; return the names removed, and the sentences said."""
    said: list[Event] = []
    inodes: list[Inode | None] = [inode_at(path) for path in own]
    removed = discard_staged(target, [ROLLBACK], inodes, said.append)
    return [path.name for path in removed], [str(event) for event in said]


@pytest.mark.parametrize("inside", ["", "sub"])
@pytest.mark.parametrize("owner", [0, THIRD])
def test_no_folder_of_another_user_is_removed_with_what_a_rollback_left(ground: Path, owner: int, inside: str) -> None:
    """Neither at the name of a staged copy, nor inside a folder there."""
    made = estate(ground)
    copy = made.state / f".ident.release-tasks-{ROLLBACK}"
    if inside:
        made.as_service("mkdir", copy.name)
    secret = made.keep_secret("backup", owner, is_folder=True)
    if inside:
        os.chmod(secret, 0o777)  # to move a folder into another one, a user must be able to write it
    made.as_service("mv", "backup", f"{copy.name}/{inside}" if inside else copy.name)
    kept = copy / inside
    for own in ((), (copy,)):
        assert discarded(made.state / "ident", *own) == (
            [],
            [f"{kept} was not removed: another user may have moved this folder there."],
        )
    assert (kept / "dump").read_text() == SECRET


def test_what_a_rollback_left_is_removed(ground: Path) -> None:
    """A half-made copy of root, the state of the service, and a state of root that replaced one of root."""
    made = estate(ground)
    target, copy = made.state / "ident", made.state / f".ident.release-tasks-{ROLLBACK}"
    copy.mkdir(mode=0o1700)
    os.chmod(copy, 0o1700)
    (copy / "sub").mkdir(mode=0o700)
    assert leftovers(target, [ROLLBACK]) == [copy]
    assert discarded(target) == ([copy.name], [])
    made.as_service("cp", "-r", "db", copy.name)
    (copy / "made-by-root").mkdir(mode=0o755)
    assert discarded(target) == ([copy.name], [])
    os.chown(target, 0, 0)
    (copy / "sub").mkdir(parents=True)
    os.chmod(copy, 0o750)
    assert leftovers(target, [ROLLBACK]) == []
    assert discarded(target, copy) == ([copy.name], [])


def test_a_tree_that_is_written_in_place_gives_no_folder_away(ground: Path) -> None:
    """Where names cannot be exchanged: private folders of the service's user, of root, and an access list."""
    made = estate(ground)
    stored, copy = made.folder / "stored", made.state / "copy"
    for folder in (stored, copy):
        (folder / "sub").mkdir(parents=True)
    entries = [
        AssetEntry(path="sub", kind="directory", mode=0o755),
        AssetEntry(path="new", kind="directory", mode=0o750),
    ]
    (stored / "new").mkdir()
    (stored / "link").symlink_to("sub")
    entries.append(AssetEntry(path="link", kind="symlink", mode=0o777, target="sub"))
    for path in (stored, stored / "sub", stored / "link", copy):
        os.lchown(path, USER, USER)
    record = AssetRecord(
        key="copy", relative_path="assets/copy/copy", kind="directory", exists=True, mode=0o755, entries=entries
    )
    (copy / "sub" / "dump").write_text(SECRET)
    os.chmod(copy / "sub", 0o700)
    with found(copy) as live:
        overwrite_tree(record, stored, live)  # as in a repeated recovery: a folder of root is one of the asset
        assert not (copy / "sub" / "dump").exists()
        (copy / "sub").rmdir()
        (copy / "sub").mkdir(mode=0o777)
        os.chmod(copy / "sub", 0o777)
        (copy / "sub" / "dump").write_text(SECRET)
        with pytest.raises(StageFailed, match="copy/sub is a folder that another user may have moved there"):
            overwrite_tree(record, stored, live)
    assert (copy / "sub" / "dump").read_text() == SECRET
    assert [(copy / name).lstat().st_uid for name in ("new", "link")] == [0, USER]
    (copy / "file").touch()
    with found(copy / "file") as live, pytest.raises(StageFailed, match="file was exchanged by another process"):
        keep_attributes_of_new_link((copy / "link").lstat(), "file", live.folder or -1)
    assert (copy / "file").lstat().st_uid == 0
