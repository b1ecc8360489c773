"""The files of a channel: two formats, private, complete or refused."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from release_tasks.config.schema import PairingConfig
from release_tasks.core.canonical import InvalidDocument
from release_tasks.core.durable import write_atomic
from release_tasks.core.errors import ExitCode, StageFailed
from release_tasks.pairing import store as store_module
from release_tasks.pairing.channels import Channel
from release_tasks.pairing.dialects import ApprovedDocument, RequestsDocument
from release_tasks.pairing.policy import Pairing
from release_tasks.pairing.store import StoreUnusable
from tests.support.clocks import Clocks

TELEGRAM, WHATSAPP = Channel.TELEGRAM, Channel.WHATSAPP

PLAIN_REQUEST = {
    "senderId": "111",
    "code": "ABCD2345",
    "requestedAt": "2026-03-01T11:50:00.000Z",
    "expiresAt": "2026-03-01T12:50:00.000Z",
}
VERSIONED_REQUEST = {
    "id": "111",
    "code": "ABCD2345",
    "createdAt": "2026-03-01T11:50:00.000Z",
    "lastSeenAt": "2026-03-01T11:55:00.000Z",
    "meta": {"accountId": "default", "username": "alice"},
}

IMPORT_CHECK = """
import sys
from release_tasks import ns
print(sorted(name for name in sys.modules if name.startswith("release_tasks.pairing")))
"""


@pytest.mark.smoke
def test_a_new_store_is_written_in_the_plain_format(
    pairing: Pairing, stored: Callable[[str], Any], clocks: Clocks
) -> None:
    """The keys are those of the format page, times are UTC with milliseconds, and approved senders are sorted."""
    first, second = (pairing.request(TELEGRAM, sender).request for sender in ("222", "111"))
    assert first is not None and second is not None
    document = stored("telegram-pairing.json")
    assert list(document) == ["requests"]
    assert document["requests"][0] == {
        "senderId": "222",
        "code": first.code,
        "requestedAt": "2026-03-01T12:00:00.250Z",
        "expiresAt": "2026-03-01T13:00:00.250Z",
        "bootId": clocks.boot_id,
        "uptimeMs": clocks.uptime_ms,
    }
    for request in (first, second):
        pairing.approve(TELEGRAM, request.code)
    assert stored("telegram-pairing.json") == {"requests": []}
    assert stored("telegram-allowFrom.json") == {"senderIds": ["111", "222"]}


def test_a_versioned_store_is_read_and_written_in_its_own_format(
    pairing: Pairing, put: Callable[..., Path], stored: Callable[[str], Any]
) -> None:
    """Requests and approvals of the other format count, and new entries have its form."""
    put("telegram-pairing.json", {"version": 1, "requests": [VERSIONED_REQUEST]})
    put("telegram-allowFrom.json", {"version": 1, "allowFrom": ["999", "333"]})
    assert [request.sender for request in pairing.pending(TELEGRAM)] == ["111"]
    assert pairing.is_approved(TELEGRAM, "333")
    asked = pairing.request(TELEGRAM, "444").request
    assert asked is not None
    document = stored("telegram-pairing.json")
    assert document["version"] == 1
    assert document["requests"][0] == VERSIONED_REQUEST
    added = document["requests"][1]
    assert added["id"] == "444" and added["code"] == asked.code
    assert added["createdAt"] == added["lastSeenAt"] == "2026-03-01T12:00:00.250Z"
    assert not {"senderId", "requestedAt", "expiresAt"} & set(added)
    pairing.approve(TELEGRAM, "ABCD2345")
    assert stored("telegram-allowFrom.json") == {"version": 1, "allowFrom": ["111", "333", "999"]}


@pytest.mark.parametrize(
    ("name", "content", "approved"),
    [
        ("telegram-pairing.json", {"version": 1, "requests": []}, "allowFrom"),
        ("telegram-pairing.json", {"requests": [VERSIONED_REQUEST]}, "allowFrom"),
        ("telegram-pairing.json", {"requests": []}, "senderIds"),
        ("telegram-pairing.json", {"version": 1, "requests": [PLAIN_REQUEST]}, "senderIds"),
        ("telegram-allowFrom.json", {"allowFrom": []}, "allowFrom"),
        ("telegram-allowFrom.json", {"senderIds": []}, "senderIds"),
    ],
)
def test_a_missing_file_gets_the_format_of_the_other(
    pairing: Pairing,
    put: Callable[..., Path],
    stored: Callable[[str], Any],
    name: str,
    content: dict[str, Any],
    approved: str,
) -> None:
    """The gateway that owns one file finds the other in the format that it knows."""
    put(name, content)
    request = pairing.request(TELEGRAM, "444").request
    assert request is not None
    new = stored("telegram-pairing.json")["requests"][-1]
    assert ("id" in new) == (approved == "allowFrom")
    pairing.approve(TELEGRAM, request.code)
    assert stored("telegram-allowFrom.json")[approved] == ["444"]
    if not name.startswith("telegram-pairing"):
        assert ("version" in stored("telegram-pairing.json")) == (approved == "allowFrom")


# A slow draw or write on a busy machine is not a failure.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
JSON_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**63), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=8,
)
KNOWN_KEYS = {"version", "requests", "senderIds", "allowFrom", "senderId", "id", "code", "requestedAt", "createdAt"}
KNOWN_KEYS |= {"expiresAt", "lastSeenAt", "bootId", "uptimeMs"}
EXTRAS = st.dictionaries(st.text(max_size=8).filter(lambda name: name not in KNOWN_KEYS), JSON_VALUES, max_size=4)


@PATIENT
@given(extras=EXTRAS, inner=EXTRAS, is_versioned=st.booleans())
def test_unknown_fields_survive_a_rewrite(extras: dict[str, Any], inner: dict[str, Any], is_versioned: bool) -> None:
    """Other fields of a file or of a request are unchanged after a change."""
    requests = {"requests": [{**(VERSIONED_REQUEST if is_versioned else PLAIN_REQUEST), **inner}], **extras}
    approved = {("allowFrom" if is_versioned else "senderIds"): ["5", "4"], **extras}
    if is_versioned:
        requests["version"] = approved["version"] = 1
    changed = RequestsDocument.parse(json.loads(json.dumps(requests)), "file")
    changed.requests = list(reversed(changed.requests))
    assert changed.value() == requests
    entries = ApprovedDocument.parse(json.loads(json.dumps(approved)), "file")
    entries.entries = [*entries.entries, "3"]
    assert entries.value() == {**approved, entries.dialect.approved: ["3", "4", "5"]}


def test_unknown_fields_survive_every_action(
    pairing: Pairing, put: Callable[..., Path], stored: Callable[[str], Any]
) -> None:
    """Requesting, rejecting, approving and revoking retain the fields of another program."""
    kept = {**PLAIN_REQUEST, "note": {"by": ["\u00fc", None, 1]}}
    put("telegram-pairing.json", {"owner": "x", "requests": [kept, {**PLAIN_REQUEST, "senderId": "5", "code": "B"}]})
    put("telegram-allowFrom.json", {"owner": "y", "senderIds": ["6", "7"]})
    asked = pairing.request(TELEGRAM, "444").request
    assert asked is not None
    pairing.reject(TELEGRAM, "b")
    pairing.approve(TELEGRAM, asked.code)
    pairing.revoke(TELEGRAM, "6")
    assert stored("telegram-pairing.json") == {"owner": "x", "requests": [kept]}
    assert stored("telegram-allowFrom.json") == {"owner": "y", "senderIds": ["444", "7"]}


def test_groups_and_wildcards_are_neither_admitted_nor_written_again(
    pairing: Pairing, put: Callable[..., Path], stored: Callable[[str], Any]
) -> None:
    """The next change removes and records them; unknown fields stay."""
    entries = ["*", "15551234567-1600000000@g.us", "status@broadcast", "+15551234567", "17@hosted.lid"]
    put("whatsapp-allowFrom.json", {"senderIds": entries})
    put("whatsapp-pairing.json", {"requests": [{**PLAIN_REQUEST, "senderId": "120363012345678901@g.us"}]})
    assert pairing.approved(WHATSAPP) == ["15551234567"]
    assert pairing.is_approved(WHATSAPP, "15551234567@s.whatsapp.net")
    for sender in (*entries[:3], "17@hosted.lid", "15559999999", "anything"):
        assert not pairing.is_approved(WHATSAPP, sender)
    assert pairing.pending(WHATSAPP) == []
    with pytest.raises(StageFailed, match="No whatsapp request has this code"):
        pairing.approve(WHATSAPP, "ABCD2345")
    pairing.request(WHATSAPP, "15557654321")
    assert stored("whatsapp-allowFrom.json") == {"senderIds": ["+15551234567", "17@hosted.lid"]}
    assert [request["senderId"] for request in stored("whatsapp-pairing.json")["requests"]] == ["15557654321"]
    event = pairing.audit.verify().events[-1]
    assert event["leftOut"] == sorted([*entries[:3], "120363012345678901@g.us"])


def test_existing_files_become_private_with_the_next_change(
    pairing: Pairing, credentials: Path, put: Callable[..., Path]
) -> None:
    """Folder 0700, every file 0600, including files that this change does not write."""
    names = ["telegram-allowFrom.json", "telegram-pairing.lock", "pairing-audit.log"]
    for name, content in zip(names, ({"senderIds": []}, b"", b""), strict=True):
        put(name, content).chmod(0o666)
    credentials.chmod(0o777)
    pairing.request(TELEGRAM, "444")
    modes = {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in credentials.iterdir()}
    assert modes == dict.fromkeys([*names, "telegram-pairing.json"], "0o600")
    assert stat.S_IMODE(credentials.stat().st_mode) == 0o700


def test_the_target_of_a_linked_credentials_folder_becomes_private(
    pairing: Pairing, credentials: Path, tmp_path: Path
) -> None:
    """A folder on another disk works as any other."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o755)
    credentials.parent.mkdir()
    credentials.symlink_to(elsewhere)
    pairing.request(TELEGRAM, "444")
    assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o700
    assert credentials.is_symlink() and (elsewhere / "telegram-pairing.json").exists()


def test_new_folders_and_files_are_private_with_any_umask(pairing: Pairing, credentials: Path) -> None:
    """Every name below the project is 0700 or 0600 from its creation."""
    before = os.umask(0)
    try:
        request = pairing.request(TELEGRAM, "444").request
        assert request is not None
        pairing.approve(TELEGRAM, request.code)
    finally:
        os.umask(before)
    assert {oct(stat.S_IMODE(path.stat().st_mode)) for path in credentials.iterdir()} == {"0o600"}
    assert {oct(stat.S_IMODE(path.stat().st_mode)) for path in (credentials, credentials.parent)} == {"0o700"}


def plain(**changes: Any) -> dict[str, Any]:
    return {"requests": [{**PLAIN_REQUEST, **changes}]}


HALF = json.dumps({"senderIds": ["333"], "requests": []}).encode()[:-5]
NESTED = b'{"senderIds": ["333"], "requests": [], "deep": ' + b"[" * 100 + b"]" * 100 + b"}"
BOTH = ("telegram-allowFrom.json", "telegram-pairing.json")
DAMAGES = [
    (BOTH, "empty", b"", "is not valid JSON"),
    (BOTH, "half-written", HALF, "is not valid JSON"),
    (BOTH, "zeroed", bytes(200), "is not valid JSON"),
    (BOTH, "no UTF-8", b'{"senderIds": ["\xff"], "requests": []}', "is not UTF-8"),
    (BOTH, "a list", b'["333"]', "should contain a JSON object"),
    (BOTH, "nothing of it", b"{}", "is missing"),
    (BOTH, "a key twice", b'{"senderIds": [], "senderIds": [], "requests": [], "requests": []}', "duplicate key"),
    (BOTH, "too deep", NESTED, "nested too deeply"),
    (BOTH[:1], "one text", b'{"senderIds": "333"}', "senderIds: expected list, got str"),
    (BOTH[:1], "null", b'{"senderIds": null}', "senderIds: expected list, got NoneType"),
    (BOTH[:1], "a number", b'{"senderIds": ["333", 333]}', "senderIds.1: expected str, got int"),
    (BOTH[:1], "both dialects", b'{"senderIds": [], "allowFrom": []}', "both senderIds and allowFrom"),
    (BOTH[:1], "newer", b'{"version": 2, "allowFrom": ["333"]}', "has version 2"),
    (BOTH[:1], "odd version", b'{"version": true, "allowFrom": ["333"]}', "has version True"),
    (BOTH[1:], "an object", b'{"requests": {}}', "requests: expected list, got dict"),
    (BOTH[1:], "texts", b'{"requests": ["111"]}', "requests.0: expected object, got str"),
    (BOTH[1:], "newer", b'{"version": 2, "requests": []}', "has version 2"),
    (BOTH[1:], "no code", plain(code=None), "requests.0.code: expected str"),
    (BOTH[1:], "an empty code", plain(code=" -"), "requests.0.code is empty"),
    (BOTH[1:], "a code twice", {"requests": [PLAIN_REQUEST, {**PLAIN_REQUEST, "senderId": "2", "code": "abcd-2345"}]},
     "requests.1.code is already the code of another request"),
    (BOTH[1:], "no expiry", plain(expiresAt="never"), "requests.0.expiresAt: expected a time"),
    (BOTH[1:], "no time", plain(requestedAt="2026-13-01T00:00:00Z"), "requests.0.requestedAt: expected a time"),
    (BOTH[1:], "no zone", {"version": 1, "requests": [{**VERSIONED_REQUEST, "createdAt": "2026-03-01T11:50:00"}]},
     "requests.0.createdAt: expected a time"),
    (BOTH[1:], "mixed", {"version": 1, "requests": [VERSIONED_REQUEST, PLAIN_REQUEST]}, "requests.1.id: is missing"),
    (BOTH[1:], "odd uptime", plain(uptimeMs=1.5), "requests.0.uptimeMs: expected int"),
]  # fmt: skip
CASES = [
    pytest.param(name, content, fault, id=f"{name.split('-')[1]} {label}")
    for names, label, content, fault in DAMAGES
    for name in names
]


@pytest.mark.parametrize(("name", "content", "fault"), CASES)
def test_a_damaged_store_admits_no_sender_and_is_unchanged(
    pairing: Pairing,
    put: Callable[..., Path],
    credentials: Path,
    name: str,
    content: Any,
    fault: str,
) -> None:
    """The message names the file and the error; no change is made, and no byte differs."""
    put("telegram-allowFrom.json", {"senderIds": ["333"]})
    put("telegram-pairing.json", {"requests": [PLAIN_REQUEST]})
    path = put(name, content)
    before = path.read_bytes(), path.stat().st_ino
    attempts: list[Callable[[], Any]] = [
        lambda: pairing.request(TELEGRAM, "444"),
        lambda: pairing.approve(TELEGRAM, "ABCD2345"),
        lambda: pairing.reject(TELEGRAM, "ABCD2345"),
        lambda: pairing.revoke(TELEGRAM, "333"),
        lambda: pairing.pending(TELEGRAM),
    ]
    if name == "telegram-allowFrom.json":
        attempts += [lambda: pairing.is_approved(TELEGRAM, "333"), lambda: pairing.approved(TELEGRAM)]
    for attempt in attempts:
        with pytest.raises(StoreUnusable) as unusable:
            attempt()
        assert str(path) in unusable.value.message and fault in unusable.value.message
        effect = "no sender is approved" if "allowFrom" in path.name else "no new sender can be approved"
        assert effect in unusable.value.message
        assert "ABCD2345" not in unusable.value.message
        assert unusable.value.exit_code is ExitCode.NEGATIVE
    assert (path.read_bytes(), path.stat().st_ino) == before
    assert not pairing.audit.path.exists()
    assert pairing.pending(WHATSAPP) == []  # the other channel is unaffected
    assert not [left for left in credentials.iterdir() if left.name.endswith(".tmp")]


@pytest.mark.parametrize("kind", ["folder", "link", "dangling link", "pipe"])
@pytest.mark.parametrize("name", BOTH)
def test_a_file_of_another_type_is_refused(
    pairing: Pairing, credentials: Path, put: Callable[..., Path], tmp_path: Path, name: str, kind: str
) -> None:
    """A link is never followed, and a pipe does not hang."""
    elsewhere = tmp_path / "elsewhere.json"
    elsewhere.write_text('{"senderIds": ["333"], "requests": []}')
    credentials.mkdir(parents=True)
    path = credentials / name
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(elsewhere if kind == "link" else tmp_path / "nowhere")
    for attempt in (lambda: pairing.request(TELEGRAM, "444"), lambda: pairing.pending(TELEGRAM)):
        with pytest.raises(StoreUnusable, match=re.escape(str(path))):
            attempt()
    if "allowFrom" in name:
        with pytest.raises(StoreUnusable, match=re.escape(str(path))):
            pairing.is_approved(TELEGRAM, "333")
    assert elsewhere.read_text() == '{"senderIds": ["333"], "requests": []}'


@PATIENT
@given(data=st.data())
def test_no_damaged_store_causes_a_crash(data: st.DataObject) -> None:
    """Any JSON is read, or refused with a message."""
    value = data.draw(st.dictionaries(st.sampled_from(sorted(KNOWN_KEYS)), JSON_VALUES, max_size=4))
    if data.draw(st.booleans()):
        pieces = st.dictionaries(st.sampled_from(sorted(KNOWN_KEYS)), JSON_VALUES, max_size=6)
        mixed: dict[str, Any] = data.draw(st.sampled_from([PLAIN_REQUEST, VERSIONED_REQUEST]))
        value["requests"] = [{**mixed, **piece} for piece in data.draw(st.lists(pieces, max_size=3))]
    for parse in (RequestsDocument.parse, ApprovedDocument.parse):
        try:
            parse(value, "file")
        except InvalidDocument as error:
            assert str(error).startswith("file")


def test_a_long_entry_does_not_fill_the_log(pairing: Pairing, put: Callable[..., Path]) -> None:
    """Text of another program is shortened, in the message and in the audit event."""
    long = "@" + "a" * 1_000_000
    put("telegram-pairing.json", {"requests": [{**PLAIN_REQUEST, "senderId": long}]})
    put("telegram-allowFrom.json", {"senderIds": ["*" * 1_000_000]})
    with pytest.raises(StageFailed) as refused:
        pairing.approve(TELEGRAM, "ABCD2345")
    pairing.reject(TELEGRAM, "ABCD2345")
    assert len(refused.value.message) < 1000
    assert pairing.audit.path.stat().st_size < 5000


def test_reading_creates_nothing(pairing: Pairing, credentials: Path) -> None:
    """Without files no sender is admitted, no request is pending, and no folder is created."""
    assert not pairing.is_approved(TELEGRAM, "333")
    assert pairing.approved(TELEGRAM) == [] and pairing.pending(TELEGRAM) == []
    assert not credentials.exists()


def test_a_file_instead_of_the_credentials_folder_is_reported(pairing: Pairing, credentials: Path) -> None:
    """Reading refuses as for a damaged store; a change fails with the system's error, which names the path."""
    credentials.parent.mkdir()
    credentials.write_text("")
    with pytest.raises(StoreUnusable, match="Not a directory"):
        pairing.is_approved(TELEGRAM, "333")
    with pytest.raises(StoreUnusable, match="Not a directory"):
        pairing.request(TELEGRAM, "333")
    with pytest.raises(NotADirectoryError) as refused:
        pairing.revoke(TELEGRAM, "333")
    assert refused.value.filename == str(credentials)


@pytest.mark.parametrize("failing", ["telegram-allowFrom.json", "telegram-pairing.json"])
def test_a_failed_approval_can_be_repeated(
    pairing: Pairing, monkeypatch: pytest.MonkeyPatch, stored: Callable[[str], Any], failing: str
) -> None:
    """The disk is full for either file: the grant comes before the removal, and the same code works again."""
    request = pairing.request(TELEGRAM, "444").request
    assert request is not None

    def full_disk(path: Path, data: bytes) -> None:
        if path.name == failing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write_atomic(path, data)

    monkeypatch.setattr(store_module, "write_atomic", full_disk)
    with pytest.raises(OSError, match="No space left"):
        pairing.approve(TELEGRAM, request.code)
    assert pairing.is_approved(TELEGRAM, "444") == (failing == "telegram-pairing.json")
    assert [entry["code"] for entry in stored("telegram-pairing.json")["requests"]] == [request.code]
    monkeypatch.undo()
    approval = pairing.approve(TELEGRAM, request.code)
    assert approval.sender == "444"
    assert approval.was_approved == (failing == "telegram-pairing.json")
    assert pairing.is_approved(TELEGRAM, "444") and stored("telegram-pairing.json") == {"requests": []}
    events = [event["event"] for event in pairing.audit.verify().events]
    assert events == ["pairing.requested", "pairing.approved", "pairing.failed", "pairing.approved"]


def test_no_decision_without_its_audit_event(pairing: Pairing, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the log cannot be written, no sender is approved and none is revoked."""
    request, waiting = (pairing.request(TELEGRAM, sender).request for sender in ("444", "555"))
    assert request is not None and waiting is not None
    pairing.approve(TELEGRAM, request.code)
    log = pairing.audit.path
    log.rename(log.with_suffix(".moved"))
    log.mkdir()
    for attempt in (lambda: pairing.approve(TELEGRAM, waiting.code), lambda: pairing.revoke(TELEGRAM, "444")):
        with pytest.raises(IsADirectoryError):
            attempt()
    assert pairing.approved(TELEGRAM) == ["444"]


APPROVER = """
import sys
from pathlib import Path
from release_tasks.config.schema import PairingConfig
from release_tasks.pairing.channels import Channel
from release_tasks.pairing.policy import Pairing
pairing = Pairing(PairingConfig(credentials=Path(sys.argv[1])))
print(pairing.approve(Channel.TELEGRAM, sys.argv[2]).sender)
"""
STEP = re.compile(r"(fsync|rename)\(.*/([^/>\"]+)")


def test_an_approval_is_flushed_in_order(credentials: Path, tmp_path: Path) -> None:
    """The order on disk is: the event, the grant with its folder, the removal with its folder."""
    if shutil.which("strace") is None:
        pytest.skip("NOT TESTED: strace is not installed")
    request = Pairing(PairingConfig(credentials=credentials)).request(TELEGRAM, "444").request
    assert request is not None
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-y", "-qq", "-s", "4096", "-e", "trace=fsync,rename", "-o", str(trace)]
    command += [sys.executable, "-c", APPROVER, str(credentials), request.code]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0 and "ptrace" in done.stderr:
        pytest.skip("NOT TESTED: strace may not trace here")
    assert done.stdout == "444\n", done.stderr
    steps = [STEP.search(line) for line in trace.read_text().splitlines() if str(credentials) in line]
    assert [re.sub(r"json\..*tmp", "json", " ".join(step.groups())) for step in steps if step] == [
        "fsync pairing-audit.log",
        *("fsync .telegram-allowFrom.json", "rename telegram-allowFrom.json", "fsync credentials"),
        *("fsync .telegram-pairing.json", "rename telegram-pairing.json", "fsync credentials"),
    ]


def test_importing_the_package_does_not_load_pairing() -> None:
    """A listing of tasks stays fast."""
    done = subprocess.run([sys.executable, "-c", IMPORT_CHECK], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
