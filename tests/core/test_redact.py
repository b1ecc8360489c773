"""Ids, digests, times and redaction."""

from __future__ import annotations

import os
import re
import subprocess
from datetime import datetime, timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from release_tasks.core.canonical import excerpt
from release_tasks.core.clock import compact, timestamp
from release_tasks.core.digests import sha256_bytes, sha256_file
from release_tasks.core.errors import ExitCode, UsageError
from release_tasks.core.ids import is_valid_id, require_id
from release_tasks.core.redact import REDACTED, Redactor

BAD_IDS = [
    "", ".", "..", "../x", "a/b", "/etc", "a\\b", "-x", "--help", "_x", ".hidden", "a b", "a\n", "a\x00", "ä",
    "a" * 129, "v1;rm", "$(x)", "a:b", "~", "\u0661", "a\u200b",
]  # fmt: skip


@pytest.mark.parametrize("text", BAD_IDS)
def test_id_with_a_path_outside_its_folder_is_refused(text: str) -> None:
    """Exit code 2, and the message shows the id and the allowed characters."""
    assert not is_valid_id(text)
    with pytest.raises(UsageError) as error:
        require_id(text, "snapshot")
    assert error.value.exit_code == ExitCode.USAGE
    assert repr(text) in error.value.message and error.value.message.startswith("snapshot ")


@pytest.mark.parametrize("text", ["v1", "1", "v1.2.3-rc.1_x", "A" * 128, "a..b"])
def test_common_ids_are_accepted(text: str) -> None:
    """Versions, dates and names."""
    assert require_id(text, "release id") == text


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(), max_size=140))
def test_valid_id_never_leaves_its_folder(text: str) -> None:
    """An accepted id is one path component."""
    if is_valid_id(text):
        assert os.path.normpath(f"/root/{text}") == f"/root/{text}"
        assert os.path.dirname(f"/root/{text}") == "/root"


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1])
def test_digests_agree_with_sha256sum(tmp_path: Path, size: int) -> None:
    """The tool of the operator prints the same digits."""
    path = tmp_path / "file"
    path.write_bytes(os.urandom(size))
    printed = subprocess.run(["sha256sum", str(path)], capture_output=True, text=True, check=True).stdout
    assert sha256_file(path) == printed.split()[0] == sha256_bytes(path.read_bytes())


def test_digests_follow_no_link(tmp_path: Path) -> None:
    """The digest of a link's target is never returned for the link."""
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    with pytest.raises(OSError):
        sha256_file(tmp_path / "link")


@settings(max_examples=50, deadline=None)
@given(st.datetimes(timezones=st.just(timezone.utc), min_value=datetime(1000, 1, 1)))
def test_times_are_rfc_3339_in_utc(moment: datetime) -> None:
    """They sort as text and parse to the same millisecond."""
    text = timestamp(moment)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", text)
    back = datetime.fromisoformat(text.replace("Z", "+00:00"))
    assert abs((moment - back).total_seconds()) < 0.001
    assert re.fullmatch(r"\d{14}", compact(moment))


@pytest.mark.parametrize(
    "line",
    [
        "password=hunter2hunter2",
        "export API_KEY='hunter2hunter2'",
        '{"apiKey": "hunter2hunter2"}',
        '{"client_secret":"hunter2hunter2","x":1}',
        "token: hunter2hunter2",
        "Authorization: Bearer hunter2hunter2",
        "authorization: basic hunter2hunter2==",
        "postgres://user:hunter2hunter2@db/x",
        "redis://user:hunter2hunter2@127.0.0.1:6379",
        "GITHUB_TOKEN=hunter2hunter2;",
        "MY_PRIVATE_KEY = hunter2hunter2",
        "the value is ghp_hunter2hunter2hunter2hunter2",
        "sk-hunter2hunter2hunter2",
        "xoxb-hunter2hunter2",
        "7123456789:hunter2hunter2hunter2hunter2hunter2",
    ],
)
def test_text_in_the_form_of_a_secret_is_redacted(line: str) -> None:
    """The value does not have to be known."""
    shown = Redactor().redact_text(f"before {line} after")
    assert "hunter2" not in shown
    assert REDACTED in shown
    assert shown.startswith("before ") and shown.endswith(" after")


@pytest.mark.parametrize(
    "line",
    [
        "3 tests passed in 0.12s",
        "tokenizer: loaded 32000 entries",
        "http://127.0.0.1:3100/health answered 200",
        "the password was changed",
        "src/keys.py:10: error: secretly wrong",
        "key=value",
    ],
)
def test_other_output_is_not_redacted(line: str) -> None:
    """Redaction must not remove the evidence."""
    assert Redactor().redact_text(line) == line


@settings(max_examples=50, deadline=None)
@given(st.text(min_size=6).filter(lambda text: text.strip()), st.text(), st.text())
def test_known_value_is_always_redacted(secret: str, before: str, after: str) -> None:
    """Its position and its characters do not matter."""
    if secret in REDACTED or secret in before + after or re.fullmatch("[a-z]{6,10}", secret):
        return
    shown = Redactor([secret]).redact_text(before + secret + after)
    assert secret not in shown.replace(REDACTED, "")


def test_plain_word_is_redacted_only_behind_a_name() -> None:
    """A password that is a word is no reason to remove the word from ids, paths and sentences."""
    redactor = Redactor.from_environment({"DB_PASSWORD": "snapshot"})
    text = "the snapshot gateway_snapshot_20261130 is in state/snapshots/v1: snapshot=v1 kind: snapshot"
    assert redactor.redact_text(text) == text
    for line in ("DB_PASSWORD=@", "password: @", '{"dbPassword": "@"}', "postgres://app:@@db/x", "--password @ x"):
        shown = redactor.redact_text(line.replace("@", "snapshot", 1))
        assert shown == line.replace("@", REDACTED, 1)


def test_longer_value_is_redacted_first() -> None:
    """No end of a secret stays because a shorter secret is its beginning."""
    assert Redactor(["abcde1", "abcde1ghi"]).redact(b"abcde1ghi") == REDACTED.encode()


@pytest.mark.parametrize(
    "name",
    [
        "API_SECRET",
        "GITHUB_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "DB_PASSWORD",
        "MY_CREDENTIALS",
        "OPENAI_API_KEY",
        "token",
        "PGPASSWORD",
        "SMTP_PASS",
        "MYSQL_PWD",
    ],
)
def test_values_of_variables_named_like_secrets_are_redacted(name: str) -> None:
    """The name of the variable is enough."""
    redactor = Redactor.from_environment({name: "hunter2hunter2", "PATH": "/usr/bin:/bin"})
    assert redactor.redact_text("x hunter2hunter2 /usr/bin:/bin") == f"x {REDACTED} /usr/bin:/bin"


def test_values_of_configured_variables_are_redacted() -> None:
    """The configuration may name any variable as a secret."""
    redactor = Redactor.from_environment({"PLAIN": "hunter2hunter2"}, named=["PLAIN", "UNSET"])
    assert redactor.redact_text("hunter2hunter2") == REDACTED


def test_each_line_of_a_secret_is_redacted() -> None:
    """Output is redacted line by line, and a private key has many lines."""
    redactor = Redactor.from_environment({"SIGNING_KEY": "-- BEGIN --\nfirst-half\nsecond-half\n"})
    assert redactor.redact_text("got second-half") == f"got {REDACTED}"


def test_secret_that_is_not_utf8_is_redacted() -> None:
    """Environment variables are bytes; Python decodes invalid ones as surrogates."""
    value = os.fsdecode(b"\xff\xfehunter2")
    assert b"hunter2" not in Redactor([value]).redact(b"x \xff\xfehunter2 y")


@pytest.mark.parametrize(
    "text",
    ["plain", os.fsdecode(b"\xff"), "\ud800"],
    ids=["plain", "undecodable", "surrogate"],
)  # fmt: skip
def test_any_text_can_be_redacted(text: str) -> None:
    """Text of a JSON answer may contain characters that no encoding can represent."""
    assert isinstance(Redactor(["hunter2hunter2"]).redact_text(text), str)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('-H "X-Api-Key: ${APP_KEY}"', '-H "X-Api-Key: ${APP_KEY}"'),
        ("token=${TOKEN}", "token=${TOKEN}"),
        ("token=${TOKEN}and-more", "token=[REDACTED]"),
        ("token=$ecret-value", "token=[REDACTED]"),
    ],
)
def test_the_name_of_a_variable_is_no_secret(text: str, shown: str) -> None:
    """A command to type stays complete."""
    assert Redactor().redact_text(text) == shown


def test_the_beginning_of_a_text_has_no_half_of_a_secret() -> None:
    """Where a text was cut, its last lines are left out, or the last 16 KiB of one line, or a key without its end."""
    redactor, half = Redactor(["zebra-crossing-0123456789"]), b"zebra-crossing"
    lines = b"".join(b"line %d\n" % number for number in range(9))
    assert redactor.redact_beginning(lines + b"x " + half) == lines[: len(b"line 0\n") * 6]
    assert half not in redactor.redact_beginning(b"." * 20_000 + half)
    assert redactor.redact_beginning(b"." * 100 + half) == b""
    key = b"-----BEGIN PRIVATE KEY-----\n" + b"MIIEvQIBADANBgkqhkiG9w0BAQEFAASC\n" * 9
    assert redactor.redact_beginning(lines + key) == lines
    whole = b"zebra-crossing-0123456789\n"
    assert redactor.redact_beginning(whole * 9) == b"[REDACTED]\n" * 5


def test_an_excerpt_has_no_half_of_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text is redacted before it is cut, at any place of the cut."""
    monkeypatch.setenv("API_TOKEN", "zebra-crossing-0123456789")
    for place in range(160, 200):
        shown = excerpt("." * place + "zebra-crossing-0123456789" + "." * 90)
        assert "zebra" not in shown and len(shown) <= 200
