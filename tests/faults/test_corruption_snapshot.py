"""Whatever is wrong with a snapshot's files: refused before anything live changes, named, on record, found by verify.

Existing bytes and names are altered here; what its metadata.json says is altered in test_corruption_metadata.
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

from release_tasks.archive.verify import verify_all
from release_tasks.core.canonical import InvalidDocument, parse_object
from release_tasks.core.errors import ExitCode, StageFailed
from release_tasks.stages.rollback.plan import plan_rollback
from tests.support.faults.damage import DEVICES, IN_PLACE, NEEDS_ROOT, Watched

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
}
LINKS = {"assets/identity/identity/current": "identity"}


def hold_found(watched: Watched, key: str, case: str) -> str:
    """Hold that a rollback, its plan and verify all refuse the snapshot for this asset; returns the sentence."""
    sentence = watched.refused(case)
    assert sentence.startswith("Snapshot v1_snapshot is refused, nothing was changed: asset "), (case, sentence)
    assert f"asset {key}:" in sentence, (case, sentence)
    with pytest.raises(StageFailed) as error:
        plan_rollback(watched.settings, snapshot_id="v1_snapshot")
    assert (error.value.exit_code, error.value.message) == (ExitCode.NEGATIVE, sentence), case
    verdicts = {verdict.snapshot_id: verdict for verdict in verify_all(watched.pipeline.catalogue)}
    assert {name: verdict.status for name, verdict in verdicts.items()} == {
        "v0_snapshot": "verified",
        "v1_snapshot": "damaged",
    }, case
    assert key in [finding.key for finding in verdicts["v1_snapshot"].findings], case
    return sentence


def replaced(path: Path, data: bytes) -> bytes:
    """Write other bytes with the times of those before; returns them."""
    info = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    return data


def flipped(data: bytes, position: int) -> bytes:
    changed = bytearray(data)
    changed[position] ^= 1
    return bytes(changed)


BYTES: dict[str, Callable[[bytes], bytes]] = {
    "its first bit flipped": lambda data: flipped(data, 0),
    "a bit in the middle flipped": lambda data: flipped(data, len(data) // 2),
    "its last bit flipped": lambda data: flipped(data, -1),
    "its last byte missing": lambda data: data[:-1],
    "its first byte missing": lambda data: data[1:],
    "half of it": lambda data: data[: len(data) // 2],
    "no bytes": lambda data: b"",
    "a zero after it": lambda data: data + b"\0",
    "itself after it": lambda data: data + data,
    "zeros of the same length": lambda data: bytes(len(data)),
    "a byte put in": lambda data: data[:3] + b"x" + data[3:],
    "two bytes swapped": lambda data: data[1::-1] + data[2:],
}


@pytest.mark.parametrize("name", FILES)
def test_altered_bytes_are_refused_with_both_digests(watched: Watched, tried: Callable[[int], None], name: str) -> None:
    """Size and times may be what they were; the sentence tells the recorded digest, the one found, and a good copy."""
    path, key = watched.snapshot / name, FILES[name]
    recorded = hashlib.sha256(path.read_bytes()).hexdigest()
    for case, change in BYTES.items():
        found = hashlib.sha256(replaced(path, change(path.read_bytes()))).hexdigest()
        sentence = hold_found(watched, key, case)
        assert f"(recorded {recorded}, found {found})" in sentence, (case, sentence)
        assert f"An intact copy of {key} is in: v0_snapshot." in sentence, (case, sentence)
        watched.mend()
    assert watched.roll().status == "restored"
    assert watched.is_whole() == "new"
    tried(len(BYTES))


@pytest.mark.parametrize(
    "kind", [*IN_PLACE, *(pytest.param(kind, marks=[pytest.mark.root, NEEDS_ROOT]) for kind in DEVICES)]
)
@pytest.mark.slow
def test_what_is_no_file_or_folder_in_the_place_of_one_is_refused(
    watched: Watched, tried: Callable[[int], None], kind: str
) -> None:
    """Nothing waits for a pipe or reads a device, and a link is refused although it leads to the very same bytes."""
    everywhere = {**FILES, **FOLDERS, **LINKS}
    for name, key in everywhere.items():
        {**IN_PLACE, **DEVICES}[kind](watched.snapshot / name)
        hold_found(watched, key, name)
        shutil.rmtree(watched.folder / "neighbour" / "moved", ignore_errors=True)
        watched.mend()
    tried(len(everywhere))


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
    "a file removed": (FILES, Path.unlink),
    "a link removed": (LINKS, Path.unlink),
    "a folder removed": (FOLDERS, shutil.rmtree),
    "a folder for a file": (FILES, as_folder),
    "a folder for a link": (LINKS, as_folder),
    "a file for a folder": (FOLDERS, as_file),
    "a file for a link": (LINKS, as_bytes_of_its_target),
    "a link that leads elsewhere": (LINKS, pointed_elsewhere),
    "a file renamed": ({**FILES, **LINKS}, lambda path: path.rename(path.with_name("renamed"))),
    "a name in another case": ({**FILES, **LINKS}, lambda path: path.rename(path.with_name(path.name.upper()))),
}


@pytest.mark.parametrize("case", NAMES)
def test_a_name_that_is_missing_or_stands_for_something_else_is_refused(
    watched: Watched, tried: Callable[[int], None], case: str
) -> None:
    """What was recorded is named, where there is a digest of it."""
    names, change = NAMES[case]
    for name, key in names.items():
        path = watched.snapshot / name
        recorded = hashlib.sha256(path.read_bytes()).hexdigest() if name in FILES else ""
        change(path)
        assert recorded in hold_found(watched, key, name), name
        watched.mend()
    tried(len(names))


@pytest.mark.parametrize(
    "name",
    ["assets/database/app.db-wal", "assets/database/app.db-journal", "assets/database/app.db-shm", "assets/mcp/more",
     "assets/identity/more", "assets/identity/identity/more", "assets/identity/identity/keys/empty/more"],
)  # fmt: skip
def test_anything_more_is_refused(watched: Watched, tried: Callable[[int], None], name: str) -> None:
    """A file, a folder, a link or a pipe that nobody recorded, beside an asset or inside it."""
    kinds = [Path.touch, Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/etc")]
    for index, make in enumerate(kinds):
        make(watched.snapshot / name)  # type: ignore[operator]
        hold_found(watched, name.split("/")[1], f"{name} {index}")
        watched.mend()
    tried(len(kinds))


def test_two_assets_that_changed_places_are_refused(watched: Watched) -> None:
    """Each is whole, and neither is where it belongs; both are named."""
    database, mcp = watched.snapshot / "assets/database/app.db", watched.snapshot / "assets/mcp/mcp.json"
    one, other = database.read_bytes(), mcp.read_bytes()
    replaced(database, other)
    replaced(mcp, one)
    sentence = hold_found(watched, "database", "swapped")
    for data in (one, other):
        assert sentence.count(hashlib.sha256(data).hexdigest()) == 2
    assert "Also asset mcp: was altered" in sentence


def test_the_whole_of_another_snapshot_in_its_place_is_refused(watched: Watched) -> None:
    """Even one of ours, whole and sealed: it says another id."""
    (watched.project.mcp).write_text("{}")
    watched.project.capture("v2")
    shutil.rmtree(watched.snapshot)
    shutil.copytree(watched.pipeline.catalogue.path("v2_snapshot"), watched.snapshot, symlinks=True)
    assert "belongs to snapshot 'v2_snapshot'" in watched.refused("replaced")


@pytest.mark.parametrize("way", ["a link", "a file", "a named pipe"])
def test_what_stands_where_the_snapshot_should_be_is_none(watched: Watched, way: str) -> None:
    """It is not followed, not read, and the other snapshots are no worse for it."""
    live = watched.live()
    moved = watched.snapshot.with_name(".moved")
    watched.snapshot.rename(moved)
    if way == "a link":
        watched.snapshot.symlink_to(moved)
    elif way == "a file":
        watched.snapshot.touch()
    else:
        os.mkfifo(watched.snapshot)
    with pytest.raises(Exception, match="There is no snapshot 'v1_snapshot'") as error:
        watched.roll()
    assert error.value.exit_code == ExitCode.USAGE  # type: ignore[attr-defined]
    assert watched.last_event()[:2] == ("rollback.refused", "refused")
    assert watched.live() == live
    assert [(v.snapshot_id, v.status) for v in verify_all(watched.pipeline.catalogue)] == [("v0_snapshot", "verified")]


def test_a_safety_snapshot_is_verified_as_strictly(watched: Watched) -> None:
    """The way back from a rollback is refused as well when a byte of it is not what it was."""
    outcome = watched.roll()
    assert outcome.status == "restored"
    safety = watched.pipeline.catalogue.path(outcome.safety_snapshot_id or "")
    path = safety / "assets/database/app.db"
    replaced(path, flipped(path.read_bytes(), 5000))
    live = watched.live()
    again = watched.roll(outcome.safety_snapshot_id)
    assert (again.status, watched.live()) == ("failed", live)
    assert "asset database: was altered" in again.diagnostics[0]
    assert {v.snapshot_id: v.status for v in verify_all(watched.pipeline.catalogue)}[safety.name] == "damaged"


def test_a_file_with_another_of_its_names_elsewhere_is_what_its_bytes_are(watched: Watched) -> None:
    """A hard link, another mode, another time: none of them is content, and what is restored is as recorded."""
    path = watched.snapshot / "assets/mcp/mcp.json"
    os.link(path, watched.folder / "neighbour" / "linked")
    os.chmod(path, 0o777)
    os.utime(path, (0, 0))
    assert {v.status for v in verify_all(watched.pipeline.catalogue)} == {"verified"}
    assert watched.roll().status == "restored"
    assert watched.is_whole() == "new"
    assert os.stat(watched.project.mcp).st_nlink == 1


def stored_files(watched: Watched) -> list[str]:
    return sorted(
        str(path.relative_to(watched.snapshot))
        for path in watched.snapshot.rglob("*")
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
    for how, place, new in changes:
        at = place % (len(data) + 1)
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
    """Spaces between the values of metadata.json are nobody's content."""
    if name != "metadata.json":
        return before == after
    try:
        return parse_object(before, name) == parse_object(after, name)
    except InvalidDocument:
        return False


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_edit_of_any_stored_file_is_found(watched: Watched, data: st.DataObject) -> None:
    """Whatever bytes change, in whichever file: verify calls it damaged, a rollback refuses it, nothing changes."""
    name = data.draw(st.sampled_from(stored_files(watched)))
    path = watched.snapshot / name
    before = path.read_bytes()
    after = with_edits(before, data.draw(EDITS))
    assume(not means_the_same(name, before, after))
    replaced(path, after)
    try:
        statuses = {verdict.snapshot_id: verdict.status for verdict in verify_all(watched.pipeline.catalogue)}
        assert statuses == {"v0_snapshot": "verified", "v1_snapshot": "damaged"}
        assert "refused" in watched.refused(name)
    finally:
        replaced(path, before)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_real_command_refuses_each_kind_of_damage_in_a_sentence(
    watched: Watched, tried: Callable[[int], None]
) -> None:
    """Exit 1 from rollback, its plan and verify; status and audit answer as ever; one document with --json."""
    worst: dict[str, Callable[[], Any]] = {
        "flipped": lambda: replaced(path, flipped(path.read_bytes(), 100)),
        "a pipe": lambda: IN_PLACE["a named pipe"](path),
        "a folder": lambda: as_folder(path),
        "a socket inside": lambda: IN_PLACE["a socket"](watched.snapshot / "assets/identity/identity/identity.json"),
        "all of it removed": lambda: shutil.rmtree(watched.snapshot / "assets"),
    }
    path = watched.snapshot / "assets/database/app.db"
    for case, damage in worst.items():
        damage()
        live = watched.live()
        for words in (["release.rollback", "--force"], ["release.rollback", "--plan"]):
            done = watched.inv(*words)
            told = " ".join((done.stdout + done.stderr).split())
            assert done.returncode == ExitCode.NEGATIVE, (case, words, done)
            assert "Snapshot v1_snapshot is refused, nothing was changed: asset " in told, (case, words, done)
        verdict = watched.inv("release.verify", "--json")
        assert verdict.returncode == ExitCode.NEGATIVE, (case, verdict)
        assert json.loads(verdict.stdout)["status"] == "damaged", case
        assert watched.inv("release.recover", "release.status", "release.audit").returncode == ExitCode.DONE, case
        assert watched.live() == live, case
        watched.mend()
    tried(len(worst))
