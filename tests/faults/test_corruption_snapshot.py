"""A snapshot with damaged files is refused before the live state changes, is audited, and is found by verify.

These tests change bytes and names; test_corruption_metadata.py changes the content of metadata.json.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from release_tasks.archive.verify import verify_all, verify_snapshot
from release_tasks.core.canonical import InvalidDocument, parse_object
from release_tasks.core.errors import ExitCode, StageFailed, UsageError
from release_tasks.stages.rollback.plan import plan_rollback
from tests.support.faults.damage import DEVICES, IN_PLACE, DamagedProject
from tests.support.faults.marks import NEEDS_ROOT
from tests.support.stored_snapshots import forge

FILES = {
    "assets/database/app.db": "database",
    "assets/mcp/mcp.json": "mcp",
    "assets/identity/identity/identity.json": "identity",
    "assets/identity/identity/keys/private.pem": "identity",
}
FOLDERS = {
    "assets/identity/identity": "identity",
    "assets/identity/identity/keys": "identity",
    "assets/identity/identity/keys/empty": "identity",
    "assets/identity": "identity",
    "assets/mcp": "mcp",
    "assets/database": "database",
    "assets": "mcp",
    "entries": "identity",
}
ENTRIES = {"entries/identity.jsonl": "identity"}
LINKS = {"assets/identity/identity/current": "identity"}
NO_FOLDERS = {**FILES, **LINKS, **ENTRIES}


def assert_found(damaged: DamagedProject, key: str, case: str) -> str:
    """Fail unless a rollback, its plan and verify all refuse the snapshot for this asset; returns the message."""
    message = damaged.assert_refused(case)
    assert message.startswith("Snapshot v1_snapshot is refused, nothing was changed: asset "), (case, message)
    assert f"asset {key}:" in message, (case, message)
    with pytest.raises(StageFailed) as error:
        plan_rollback(damaged.settings, snapshot_id="v1_snapshot")
    assert (error.value.exit_code, error.value.message) == (ExitCode.NEGATIVE, message), case
    verdicts = {verdict.snapshot_id: verdict for verdict in verify_all(damaged.pipeline.catalogue)}
    assert {name: verdict.status for name, verdict in verdicts.items()} == {
        "v0_snapshot": "verified",
        "v1_snapshot": "damaged",
    }, case
    assert key in [finding.key for finding in verdicts["v1_snapshot"].findings], case
    return message


def list_digest(damaged: DamagedProject) -> str:
    """Return the recorded digest of the entries of identity."""
    document = json.loads(damaged.metadata.read_bytes())
    return next(str(asset["sha256"]) for asset in document["assets"] if asset["key"] == "identity")


def overwrite(path: Path, data: bytes) -> bytes:
    """Overwrite the file and keep its times; returns the new bytes."""
    info = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    return data


def flip_bit(data: bytes, position: int) -> bytes:
    changed = bytearray(data)
    changed[position] ^= 1
    return bytes(changed)


BYTES: dict[str, Callable[[bytes], bytes]] = {
    "its first bit flipped": lambda data: flip_bit(data, 0),
    "a bit in the middle flipped": lambda data: flip_bit(data, len(data) // 2),
    "its last bit flipped": lambda data: flip_bit(data, -1),
    "its last byte missing": lambda data: data[:-1],
    "its first byte missing": lambda data: data[1:],
    "half of it": lambda data: data[: len(data) // 2],
    "no bytes": lambda data: b"",
    "a zero after it": lambda data: data + b"\0",
    "itself after it": lambda data: data + data,
    "zeros of the same length": lambda data: bytes(len(data)),
    "a byte inserted": lambda data: data[:3] + b"x" + data[3:],
    "two bytes swapped": lambda data: data[1::-1] + data[2:],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_altered_bytes_are_refused_with_both_digests(
    damaged: DamagedProject, report_points: Callable[[int], None], name: str
) -> None:
    """Also with the same size and times; the message gives the recorded digest, the digest found and a good copy."""
    path, key = damaged.snapshot / name, FILES[name]
    recorded = hashlib.sha256(path.read_bytes()).hexdigest()
    for case, change in BYTES.items():
        found = hashlib.sha256(overwrite(path, change(path.read_bytes()))).hexdigest()
        message = assert_found(damaged, key, case)
        assert f"(recorded {recorded}, found {found})" in message, (case, message)
        assert f"An intact copy of {key} is in: v0_snapshot." in message, (case, message)
        damaged.repair_snapshots()
    assert damaged.roll_back().status == "restored"
    assert damaged.state() == "new"
    report_points(len(BYTES))


@pytest.mark.slow
def test_every_altered_byte_of_the_entries_is_refused(
    damaged: DamagedProject, report_points: Callable[[int], None]
) -> None:
    """Each bit pattern that changes a name, a digest or a line; the message has the file and the recorded digest."""
    path = damaged.snapshot / "entries/identity.jsonl"
    original, recorded = path.read_bytes(), list_digest(damaged)
    metadata = damaged.pipeline.catalogue.get("v1_snapshot")
    for position in range(len(original)):
        for bit in range(8) if position % 16 == 0 else (position % 8,):
            data = bytearray(original)
            data[position] ^= 1 << bit
            path.write_bytes(data)
            verdict = verify_snapshot(damaged.pipeline.catalogue, metadata)
            (finding,) = verdict.findings
            assert (verdict.status, finding.key, finding.expected) == ("damaged", "identity", recorded), position
            assert "entries/identity.jsonl" in finding.what and finding.found != recorded, position
    lines: dict[str, Callable[[bytes], bytes]] = {
        "a line left out": lambda data: data[data.index(b"\n") + 1 :],
        "an empty line": lambda data: data + b"\n",
    }
    cases = {**BYTES, **lines}
    for case, change in cases.items():
        path.write_bytes(change(original))
        message = assert_found(damaged, "identity", case)
        assert f"(recorded {recorded}, found " in message and "entries/identity.jsonl" in message, (case, message)
        assert "An intact copy of identity is in: v0_snapshot." in message, (case, message)
        damaged.repair_snapshots()
    report_points(len(original) + len(cases))


def test_entries_of_another_snapshot_are_refused(damaged: DamagedProject) -> None:
    """Both files are intact lists; the message has both digests."""
    (damaged.project.identity / "other").write_text("other")
    damaged.project.capture("v2")
    other = damaged.pipeline.catalogue.path("v2_snapshot")
    recorded = list_digest(damaged)
    shutil.copy(other / "entries/identity.jsonl", damaged.snapshot / "entries/identity.jsonl")
    found = json.loads((other / "metadata.json").read_bytes())["assets"][1]["sha256"]
    shutil.rmtree(other)
    message = assert_found(damaged, "identity", "another snapshot")
    assert f"its list of entries was altered (entries/identity.jsonl) (recorded {recorded}, found {found})" in message


@pytest.mark.slow
def test_entries_without_end_are_refused_in_bounded_memory(damaged: DamagedProject) -> None:
    """A line of 64 MiB with a correct digest is not parsed."""
    path = damaged.snapshot / "entries/identity.jsonl"
    path.write_bytes(b'{"kind":"file","mode":384,"path":"' + b"x" * (64 << 20) + b'"}\n')
    document = json.loads(damaged.metadata.read_bytes())
    digest = hashlib.sha256(b"[" + path.read_bytes()[:-1] + b"]").hexdigest()
    document["assets"][1]["sha256"] = digest
    damaged.metadata.write_text(json.dumps(forge(document)))
    assert "entries/identity.jsonl, line 1, is too long" in assert_found(damaged, "identity", "a long line")


@pytest.mark.parametrize(
    "kind", [*IN_PLACE, *(pytest.param(kind, marks=[pytest.mark.root, NEEDS_ROOT]) for kind in DEVICES)]
)
@pytest.mark.slow
def test_special_file_in_place_of_a_file_or_folder_is_refused(
    damaged: DamagedProject, report_points: Callable[[int], None], kind: str
) -> None:
    """No command waits for a pipe or reads a device; a link is refused even when it leads to the same bytes."""
    everywhere = {**FILES, **FOLDERS, **LINKS, **ENTRIES}
    for name, key in everywhere.items():
        {**IN_PLACE, **DEVICES}[kind](damaged.snapshot / name)
        assert_found(damaged, key, name)
        shutil.rmtree(damaged.folder / "neighbour" / "moved", ignore_errors=True)
        damaged.repair_snapshots()
    report_points(len(everywhere))


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def as_file(path: Path) -> None:
    shutil.rmtree(path)
    path.touch()


def as_bytes_of_its_target(path: Path) -> None:
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)


def pointed_elsewhere(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


NAMES: dict[str, tuple[dict[str, str], Callable[[Path], Any]]] = {
    "a file removed": ({**FILES, **ENTRIES}, Path.unlink),
    "a link removed": (LINKS, Path.unlink),
    "a folder removed": (FOLDERS, shutil.rmtree),
    "a folder for a file": ({**FILES, **ENTRIES}, as_folder),
    "a folder for a link": (LINKS, as_folder),
    "a file for a folder": (FOLDERS, as_file),
    "a file for a link": (LINKS, as_bytes_of_its_target),
    "a link that leads elsewhere": (LINKS, pointed_elsewhere),
    "a file renamed": (NO_FOLDERS, lambda path: path.rename(path.with_name("renamed"))),
    "a name in another case": (NO_FOLDERS, lambda path: path.rename(path.with_name(path.name.upper()))),
}


@pytest.mark.parametrize("case", NAMES)
def test_missing_or_replaced_name_is_refused(
    damaged: DamagedProject, report_points: Callable[[int], None], case: str
) -> None:
    """The message gives the recorded digest of a file."""
    names, change = NAMES[case]
    for name, key in names.items():
        path = damaged.snapshot / name
        recorded = hashlib.sha256(path.read_bytes()).hexdigest() if name in FILES else ""
        recorded = list_digest(damaged) if name in ENTRIES else recorded
        change(path)
        assert recorded in assert_found(damaged, key, name), name
        damaged.repair_snapshots()
    report_points(len(names))


@pytest.mark.parametrize(
    "name",
    ["assets/database/app.db-wal", "assets/database/app.db-journal", "assets/database/app.db-shm", "assets/mcp/more",
     "assets/identity/more", "assets/identity/identity/more", "assets/identity/identity/keys/empty/more",
     "entries/more.jsonl", "entries/mcp.jsonl"],
)  # fmt: skip
def test_extra_file_is_refused(damaged: DamagedProject, report_points: Callable[[int], None], name: str) -> None:
    """An unrecorded file, folder, link or pipe, next to an asset or inside it."""
    kinds: list[Callable[[Path], object]] = [Path.touch, Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/etc")]
    for index, make in enumerate(kinds):
        make(damaged.snapshot / name)
        key = "*" if name.startswith("entries") else name.split("/")[1]
        assert_found(damaged, key, f"{name} {index}")
        damaged.repair_snapshots()
    report_points(len(kinds))


def test_swapped_assets_are_refused(damaged: DamagedProject) -> None:
    """Both files are intact and in the wrong place; the message names both assets."""
    database, mcp = damaged.snapshot / "assets/database/app.db", damaged.snapshot / "assets/mcp/mcp.json"
    one, other = database.read_bytes(), mcp.read_bytes()
    overwrite(database, other)
    overwrite(mcp, one)
    message = assert_found(damaged, "database", "swapped")
    for data in (one, other):
        assert message.count(hashlib.sha256(data).hexdigest()) == 2
    assert "Also asset mcp: was altered" in message


def test_another_snapshot_in_its_place_is_refused(damaged: DamagedProject) -> None:
    """An intact snapshot with another id is refused too."""
    (damaged.project.mcp).write_text("{}")
    damaged.project.capture("v2")
    shutil.rmtree(damaged.snapshot)
    shutil.copytree(damaged.pipeline.catalogue.path("v2_snapshot"), damaged.snapshot, symlinks=True)
    assert "belongs to snapshot 'v2_snapshot'" in damaged.assert_refused("replaced")


@pytest.mark.parametrize("way", ["a link", "a file", "a named pipe"])
def test_link_file_or_pipe_in_place_of_a_snapshot_is_not_a_snapshot(damaged: DamagedProject, way: str) -> None:
    """It is not followed or read, and the other snapshots still verify."""
    live = damaged.live()
    moved = damaged.snapshot.with_name(".moved")
    damaged.snapshot.rename(moved)
    if way == "a link":
        damaged.snapshot.symlink_to(moved)
    elif way == "a file":
        damaged.snapshot.touch()
    else:
        os.mkfifo(damaged.snapshot)
    with pytest.raises(UsageError, match="There is no snapshot 'v1_snapshot'") as error:
        damaged.roll_back()
    assert error.value.exit_code == ExitCode.USAGE
    assert damaged.last_event()[:2] == ("rollback.refused", "refused")
    assert damaged.live() == live
    assert [(v.snapshot_id, v.status) for v in verify_all(damaged.pipeline.catalogue)] == [("v0_snapshot", "verified")]


def test_damaged_safety_snapshot_is_refused(damaged: DamagedProject) -> None:
    """A rollback to a safety snapshot with one altered byte is refused too."""
    outcome = damaged.roll_back()
    assert outcome.status == "restored"
    safety = damaged.pipeline.catalogue.path(outcome.safety_snapshot_id or "")
    path = safety / "assets/database/app.db"
    overwrite(path, flip_bit(path.read_bytes(), 5000))
    live = damaged.live()
    again = damaged.roll_back(outcome.safety_snapshot_id)
    assert (again.status, damaged.live()) == ("failed", live)
    assert "asset database: was altered" in again.diagnostics[0]
    assert {v.snapshot_id: v.status for v in verify_all(damaged.pipeline.catalogue)}[safety.name] == "damaged"


def test_hard_link_mode_and_time_of_a_stored_file_are_not_content(damaged: DamagedProject) -> None:
    """The snapshot verifies, and the rollback restores the recorded mode to a file with one name."""
    path = damaged.snapshot / "assets/mcp/mcp.json"
    os.link(path, damaged.folder / "neighbour" / "linked")
    os.chmod(path, 0o777)
    os.utime(path, (0, 0))
    assert {v.status for v in verify_all(damaged.pipeline.catalogue)} == {"verified"}
    assert damaged.roll_back().status == "restored"
    assert damaged.state() == "new"
    assert os.stat(damaged.project.mcp).st_nlink == 1


def stored_files(damaged: DamagedProject) -> list[str]:
    return sorted(
        str(path.relative_to(damaged.snapshot))
        for path in damaged.snapshot.rglob("*")
        if path.is_file() and not path.is_symlink()
    )


EDITS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "replace", "insert", "remove", "cut"]),
        st.integers(min_value=0, max_value=1 << 20),
        st.binary(min_size=1, max_size=40),
    ),
    min_size=1,
    max_size=3,
)


def with_edits(data: bytes, changes: list[tuple[str, int, bytes]]) -> bytes:
    for how, position, new in changes:
        at = position % (len(data) + 1)
        if how == "flip" and data:
            data = data[: at % len(data)] + bytes([data[at % len(data)] ^ (new[0] or 1)]) + data[at % len(data) + 1 :]
        elif how == "replace":
            data = data[:at] + new + data[at + len(new) :]
        elif how == "insert":
            data = data[:at] + new + data[at:]
        elif how == "remove":
            data = data[:at] + data[at + len(new) :]
        else:
            data = data[:at]
    return data


def means_the_same(name: str, before: bytes, after: bytes) -> bool:
    """White space between the values of metadata.json is not content."""
    if name != "metadata.json":
        return before == after
    try:
        return parse_object(before, name) == parse_object(after, name)
    except InvalidDocument:
        return False


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_edit_of_any_stored_file_is_found(damaged: DamagedProject, data: st.DataObject) -> None:
    """After any change of bytes in any file verify reports damage, and a rollback refuses and changes nothing."""
    name = data.draw(st.sampled_from(stored_files(damaged)))
    path = damaged.snapshot / name
    before = path.read_bytes()
    after = with_edits(before, data.draw(EDITS))
    assume(not means_the_same(name, before, after))
    overwrite(path, after)
    try:
        statuses = {verdict.snapshot_id: verdict.status for verdict in verify_all(damaged.pipeline.catalogue)}
        assert statuses == {"v0_snapshot": "verified", "v1_snapshot": "damaged"}
        assert "refused" in damaged.assert_refused(name)
    finally:
        overwrite(path, before)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_inv_refuses_each_kind_of_damage_with_a_message(
    damaged: DamagedProject, report_points: Callable[[int], None]
) -> None:
    """rollback, its plan and verify end with 1; status and audit work; --json prints one document."""
    worst: dict[str, Callable[[], Any]] = {
        "flipped": lambda: overwrite(path, flip_bit(path.read_bytes(), 100)),
        "a pipe": lambda: IN_PLACE["a named pipe"](path),
        "a folder": lambda: as_folder(path),
        "a socket inside": lambda: IN_PLACE["a socket"](damaged.snapshot / "assets/identity/identity/identity.json"),
        "all of it removed": lambda: shutil.rmtree(damaged.snapshot / "assets"),
    }
    path = damaged.snapshot / "assets/database/app.db"
    for case, damage in worst.items():
        damage()
        live = damaged.live()
        for words in (["release.rollback", "--force"], ["release.rollback", "--plan"]):
            done = damaged.inv(*words)
            printed = " ".join((done.stdout + done.stderr).split())
            assert done.returncode == ExitCode.NEGATIVE, (case, words, done)
            assert "Snapshot v1_snapshot is refused, nothing was changed: asset " in printed, (case, words, done)
        verdict = damaged.inv("release.verify", "--json")
        assert verdict.returncode == ExitCode.NEGATIVE, (case, verdict)
        assert json.loads(verdict.stdout)["status"] == "damaged", case
        assert damaged.inv("release.recover", "release.status", "release.audit").returncode == ExitCode.DONE, case
        assert damaged.live() == live, case
        damaged.repair_snapshots()
    report_points(len(worst))
