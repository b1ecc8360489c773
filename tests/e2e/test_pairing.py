"""Pairing at the command line with real ``inv`` processes: requests, approvals and mistakes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from release_tasks.config.schema import PairingConfig
from release_tasks.core.audit import AuditLog
from release_tasks.pairing.channels import Channel
from release_tasks.pairing.policy import Pairing
from tests.support.invoke_project import InvokeProject

pytestmark = pytest.mark.slow


@pytest.fixture
def credentials(scratch: InvokeProject) -> Path:
    folder: Path = scratch.root / "memory" / "credentials"
    return folder


@pytest.fixture
def ask(credentials: Path) -> Callable[..., str]:
    """Return what a running service does with a message of an unknown sender: ``ask("4711") -> code``."""

    def request(sender: str, channel: Channel = Channel.TELEGRAM) -> str:
        found = Pairing(PairingConfig(credentials=credentials)).request(channel, sender).request
        assert found is not None
        return found.code

    return request


def test_from_a_request_to_a_revocation(scratch: InvokeProject, credentials: Path, ask: Callable[..., str]) -> None:
    """Every command for one sender, as documents and as text, and its log."""
    code = ask("4711")
    listed = scratch.document("pairing.list", "telegram")
    (request,) = listed["requests"]
    assert (listed["channel"], request["code"], request["sender"]) == ("telegram", code, "4711")
    assert 0 <= request["ageSeconds"] < 60 and 3500 < request["timeLeftSeconds"] <= 3600
    shown = scratch.run("pairing.list", "Telegram")
    assert re.search(rf"{code}\s+4711\s+\d+ s\s+(59|60) min", shown.stdout)
    assert "inv pairing.approve telegram CODE" in shown.stdout
    dry = scratch.run("--dry", "pairing.approve", "telegram", code)
    assert (dry.returncode, dry.stdout) == (0, "Would approve 4711 on telegram.\n")
    assert scratch.document("pairing.list", "telegram", "--approved")["approved"] == []
    spelled = f"{code[:4]}-{code[4:]}".lower()
    approved = scratch.document("pairing.approve", "telegram", spelled)
    assert approved == {"status": "approved", "channel": "telegram", "sender": "4711", "wasAdmitted": False}
    assert Pairing(PairingConfig(credentials=credentials)).is_approved(Channel.TELEGRAM, "4711")
    assert scratch.document("pairing.list", "telegram", "--approved")["approved"] == ["4711"]
    again = scratch.run("pairing.approve", "telegram", code)
    assert (again.returncode, again.stdout) == (1, "")
    assert "inv pairing.list telegram" in again.stderr
    revoked = scratch.run("pairing.revoke", "telegram", "4711")
    assert (revoked.returncode, revoked.stdout) == (0, "REVOKED  4711 is now blocked on telegram.\n")
    assert not Pairing(PairingConfig(credentials=credentials)).is_approved(Channel.TELEGRAM, "4711")
    log = scratch.document("pairing.audit")
    kinds = ["pairing.requested", "pairing.approved", "pairing.refused", "pairing.revoked"]
    assert (log["status"], [event["event"] for event in log["events"]]) == ("intact", kinds)
    assert code not in json.dumps(log) and code not in (credentials / "pairing-audit.log").read_text()
    table = scratch.run("pairing.audit").stdout
    assert "telegram 4711" in table and "INTACT" in table


def test_a_rejected_sender_may_request_again(
    scratch: InvokeProject, credentials: Path, ask: Callable[..., str]
) -> None:
    """The code is invalid; the next message creates another one."""
    code = ask("15551234567", Channel.WHATSAPP)
    rejected = scratch.document("pairing.reject", "whatsapp", code)
    assert rejected == {"status": "rejected", "channel": "whatsapp", "sender": "15551234567"}
    assert scratch.document("pairing.approve", "whatsapp", code, code=1)["exitCode"] == 1
    assert ask("15551234567", Channel.WHATSAPP) != code


MISTAKES: dict[str, tuple[list[str], int, str]] = {
    "an unknown channel": (["pairing.list", "signal"], 2, "There is no channel 'signal': use telegram or whatsapp."),
    "an unknown code": (["pairing.approve", "telegram", "AAAABBBB"], 1, "inv pairing.list telegram"),
    "an empty code": (["pairing.approve", "telegram", ""], 2, "CODE: the value is empty"),
    "a code with a dash in front": (["pairing.approve", "telegram", "-AAAABBBB"], 1, "'-A'"),
    "a dash for a code": (["pairing.approve", "telegram", "-"], 2, "pairing.approve CHANNEL CODE"),
    "a channel with a dash in front": (["pairing.list", "-x"], 2, "CHANNEL"),
    "a username": (["pairing.revoke", "telegram", "@mallory"], 2, "another person can get the same username later"),
    "a wildcard": (["pairing.revoke", "whatsapp", "*"], 2, "a wildcard cannot be approved"),
    "a group": (["pairing.revoke", "whatsapp", "12036304@g.us"], 2, "it is a group"),
    "a sender without approval": (["pairing.revoke", "telegram", "99"], 1, "99 is not approved on telegram"),
    "no code": (["pairing.approve", "telegram"], 1, "code; usage: approve CHANNEL CODE"),
    "no channel": (["pairing.list"], 1, "channel; usage: list CHANNEL"),
    "a limit that is no number": (["pairing.audit", "--limit", "soon"], 2, "--limit"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_message_and_changes_nothing(versioned: InvokeProject, case: str) -> None:
    """The exit code is the documented one under each Invoke; Invoke's own parse errors are 1."""
    words, code, message = MISTAKES[case]
    credentials = versioned.root / "memory" / "credentials"
    pairing = Pairing(PairingConfig(credentials=credentials))
    pairing.request(Channel.TELEGRAM, "4711")
    stores = {path.name: path.read_bytes() for path in credentials.glob("*.json")}
    done = versioned.run(*words)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert {path.name: path.read_bytes() for path in credentials.glob("*.json")} == stores


def test_an_expired_code_is_refused_with_the_next_step(scratch: InvokeProject, credentials: Path) -> None:
    """The lifetime is configured in invoke.yaml or the environment."""
    scratch.configuration["pairing"] = {"ttl": "1h", "credentials": "elsewhere"}
    folder = scratch.root / "elsewhere"
    found = Pairing(PairingConfig(credentials=folder)).request(Channel.TELEGRAM, "4711").request
    assert found is not None
    document = json.loads((folder / "telegram-pairing.json").read_text())
    for key in ("requestedAt", "expiresAt"):
        document["requests"][0][key] = "2026-01-01" + document["requests"][0][key][10:]
    (folder / "telegram-pairing.json").write_text(json.dumps(document))
    done = scratch.run("pairing.approve", "telegram", found.code)
    assert (done.returncode, done.stdout) == (1, "")
    assert "The code of 4711 has expired. Ask the sender to write again to get a new code." in done.stderr
    assert "no pending requests" in scratch.run("pairing.list", "telegram").stdout
    log = AuditLog(folder / "pairing-audit.log").verify()
    assert log.intact and log.events[-1]["event"] == "pairing.refused"


def test_a_damaged_store_is_named_and_left_alone(
    scratch: InvokeProject, credentials: Path, ask: Callable[..., str]
) -> None:
    """Every task names the file and its error; none overwrites it."""
    code = ask("4711")
    path = credentials / "telegram-pairing.json"
    path.write_bytes(path.read_bytes()[:-3])
    damaged = path.read_bytes()
    for words in (["pairing.list", "telegram"], ["pairing.approve", "telegram", code]):
        document = scratch.document(*words, code=1)
        assert document["status"] == "error" and str(path) in document["message"]
    assert path.read_bytes() == damaged
    assert scratch.document("pairing.list", "whatsapp")["requests"] == []


def test_a_change_is_refused_during_an_interrupted_rollback(scratch: InvokeProject, ask: Callable[..., str]) -> None:
    """Where a rollback restores the stores, its recovery would overwrite the change."""
    code = ask("4711")
    scratch.configuration["release"]["assets"]["allow"] = {
        "file": "memory/credentials/telegram-allowFrom.json",
        "required": False,
    }
    scratch.document("release.prepare")
    (scratch.root / "pipeline" / "rollback-journal.json").write_text("{}")
    document = scratch.document("pairing.approve", "telegram", code, code=1)
    assert "inv release.recover" in document["message"]
    assert len(scratch.document("pairing.list", "telegram")["requests"]) == 1
    (scratch.root / "pipeline" / "rollback-journal.json").unlink()
    assert scratch.document("pairing.approve", "telegram", code)["status"] == "approved"


def test_all_ids_of_a_sender_are_shown(scratch: InvokeProject, credentials: Path) -> None:
    """A request and an approval with two ids, and a revocation by one of them, as text and as documents."""
    phone, scoped = "15557000001", "US.13491208655302741918"
    request = Pairing(PairingConfig(credentials=credentials)).request(Channel.WHATSAPP, phone, scoped).request
    assert request is not None
    assert re.search(rf"{request.code}\s+{phone}, {scoped}\s", scratch.run("pairing.list", "whatsapp").stdout)
    (listed,) = scratch.document("pairing.list", "whatsapp")["requests"]
    assert (listed["sender"], listed["otherIds"]) == (phone, [scoped])
    approved = scratch.run("pairing.approve", "whatsapp", request.code)
    assert approved.stdout == f"APPROVED  {phone}, {scoped} were approved on whatsapp.\n"
    document = scratch.document("pairing.list", "whatsapp", "--approved")
    assert (document["approved"], document["otherIds"]) == ([phone, scoped], {phone: [scoped], scoped: [phone]})
    assert re.search(rf"{phone}\s+{re.escape(scoped)}\n", scratch.run("pairing.list", "whatsapp", "--approved").stdout)
    revoked = scratch.run("pairing.revoke", "whatsapp", scoped)
    assert f"The other ids of the same sender are blocked, too: {phone}." in revoked.stdout
    assert scratch.document("pairing.list", "whatsapp", "--approved")["approved"] == []


def test_ignored_entries_are_named_with_the_reason(scratch: InvokeProject, credentials: Path) -> None:
    """An operator who edits the file learns why the entry approves no sender."""
    credentials.mkdir(parents=True)
    path = credentials / "telegram-allowFrom.json"
    path.write_text(json.dumps({"senderIds": ["@alice", "-100123", "47\n11"]}))
    shown = scratch.run("pairing.list", "telegram", "--approved")
    assert shown.returncode == 0
    first, second, *notes = shown.stdout.splitlines()
    assert first == "There are no approved senders on telegram."
    assert second == f"3 entries of {path} approve no sender:"
    assert len(notes) == 3 and "'@alice': another person can get the same username later" in notes[0]
    document = scratch.document("pairing.list", "telegram", "--approved")
    assert [entry["entry"] for entry in document["ignored"]] == ["@alice", "-100123", "47\n11"]


FORGED = "4711\nAAAA2222  4712\x1b[2K\u2028x"


def test_a_stored_sender_cannot_forge_a_row(scratch: InvokeProject, credentials: Path, ask: Callable[..., str]) -> None:
    """A line end or a control character in a store is escaped on the screen, and kept in documents."""
    code = ask("4711")
    path = credentials / "telegram-pairing.json"
    document = json.loads(path.read_text())
    document["requests"][0]["senderId"] = FORGED
    path.write_text(json.dumps(document))
    for words in (["pairing.list", "telegram"], ["--dry", "pairing.approve", "telegram", code]):
        shown = scratch.run(*words).stdout
        assert "\x1b" not in shown and not re.search("^AAAA2222", shown, re.MULTILINE), shown
        assert r"4711\nAAAA2222" in shown
    assert scratch.document("pairing.list", "telegram")["requests"][0]["sender"] == FORGED
    refused = scratch.run("pairing.approve", "telegram", code)
    assert refused.returncode == 1 and len(refused.stderr.strip().splitlines()) == 1, refused.stderr
    audit = scratch.run("pairing.audit").stdout
    assert "\x1b" not in audit and not re.search("^AAAA2222", audit, re.MULTILINE)
