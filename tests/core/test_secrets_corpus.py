"""Secrets of the field in every form of writing, and harmless lines that stay as they are."""

from __future__ import annotations

import base64
import html
import json
import os
import shlex
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest

from release_tasks.core.printable import log_text
from release_tasks.core.process.output import OutputLog
from release_tasks.core.redact import REDACTED, Redactor, mask_file
from release_tasks.core.redaction import formats, phrases
from release_tasks.core.redaction.vocabulary import Vocabulary
from release_tasks.core.runner import escape_commands
from release_tasks.service import words
from tests.support.secrets import HARMLESS, LEAKS, PEM, Leak, pieces


def shown_pieces(shown: str, leak: Leak) -> list[str]:
    return [piece for piece in pieces(leak.secret) if piece in shown]


def test_corpus_is_large() -> None:
    """Fewer strings would say nothing about the field."""
    assert len(LEAKS) >= 150 and len(HARMLESS) >= 100
    assert len({leak.secret for leak in LEAKS}) == len(LEAKS)


@pytest.mark.parametrize("leak", LEAKS, ids=lambda leak: leak.name)
def test_secret_of_the_field_is_redacted(leak: Leak) -> None:
    """Nothing of it stays, and the words around it do."""
    shown = Redactor().redact_text(f"before\nline 7: {leak.text}\nafter")
    assert not shown_pieces(shown, leak), shown
    assert REDACTED in shown and shown.startswith("before\nline 7: ") and shown.endswith("\nafter")


@pytest.mark.parametrize("line", HARMLESS)
def test_harmless_line_stays_whole(line: str) -> None:
    """Redaction must not remove the evidence."""
    assert Redactor().redact_text(line) == line


def test_harmless_lines_stay_whole_together() -> None:
    """A line is not read as the continuation of the one before it."""
    assert Redactor().redact_text("\n".join(HARMLESS)) == "\n".join(HARMLESS)


@pytest.mark.parametrize("name", ["token-service", "passwordService", "auth-session", "SECRET_STORE"])
def test_health_words_of_a_part_named_like_a_secret_stay(name: str) -> None:
    """An operator reads in the answer of the service why a gate failed."""
    for word in words._WORDS:
        for line in (json.dumps({name: word}), f"{name}: {word}", f"{name}={word.replace(' ', '_').upper()}"):
            assert Redactor().redact_text(line) == line


def test_twice_redacted_is_the_same() -> None:
    """The same text may pass two places that redact."""
    for leak in LEAKS:
        once = Redactor().redact_text(leak.text)
        assert Redactor().redact_text(once) == once


def test_every_format_and_phrase_has_a_string_in_the_corpus() -> None:
    """A rule that no string needs may be wrong without a failing test."""
    texts = [(text := leak.text.encode(), text.lower()) for leak in LEAKS]
    for form in formats.FORMATS:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(formats, "FORMATS", (form,))
            formats._by_start.cache_clear()
            assert any(list(formats.find_tokens(data, lower, Vocabulary(lower))) for data, lower in texts), form.name
    formats._by_start.cache_clear()
    for phrase in phrases.PHRASES:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(phrases, "PHRASES", (phrase,))
            assert any(
                list(phrases.find_phrases(data, lower, phrases.phrases_in(Vocabulary(lower)))) for data, lower in texts
            ), phrase.name


KNOWN = "Zq9/w@rd,&'x\"7 <y>+K"
ENCODINGS = {
    "as it is": KNOWN,
    "upper case": KNOWN.upper(),
    "lower case": KNOWN.lower(),
    "hex": KNOWN.encode().hex(),
    "upper hex": KNOWN.encode().hex().upper(),
    "percent": quote(KNOWN, safe=""),
    "percent, some": quote(KNOWN),
    "percent, lower": quote(KNOWN, safe="").replace("%2F", "%2f").replace("%3C", "%3c"),
    "percent, all": "".join(f"%{byte:02x}" for byte in KNOWN.encode()),
    "json": json.dumps(KNOWN),
    "json, slash": json.dumps(KNOWN).replace("/", "\\/"),
    "json, unicode": "".join(f"\\u{ord(letter):04x}" for letter in KNOWN),
    "python": repr(KNOWN),
    "shell": shlex.quote(KNOWN),
    "shell, backslashes": "".join(letter if letter.isalnum() else f"\\{letter}" for letter in KNOWN),
    "html": html.escape(KNOWN),
    "html, numbers": "".join(f"&#{ord(letter)};" for letter in KNOWN),
    "colour": f"{KNOWN[:7]}\x1b[31m{KNOWN[7:]}\x1b[0m",
    "link": f"\x1b]8;;http://x\x07{KNOWN[:9]}\x1b]8;;\x07{KNOWN[9:]}",
    "carriage return": f"{KNOWN[:7]}\r{KNOWN[7:]}",
    "backspace": f"{KNOWN[:7]}#\x08{KNOWN[7:]}",
    "overstrike": "".join(f"{letter}\x08{letter}" for letter in KNOWN),
    "no width": f"{KNOWN[:7]}\N{ZERO WIDTH SPACE}{KNOWN[7:]}",
    "nul": "\x00".join(KNOWN),
    "wrapped": f"{KNOWN[:11]}\n{KNOWN[11:]}",
    "wrapped in a table": f"{KNOWN[:11]}  \u2502\n\u2502 {KNOWN[11:]}",
    **{f"base64 after {size}": base64.b64encode(b"=" * size + KNOWN.encode() + b"z" * 3).decode() for size in range(4)},
    **{f"url-safe base64 after {n}": base64.urlsafe_b64encode(b"?" * n + KNOWN.encode()).decode() for n in range(3)},
}


# Over lines, in mail, in other alphabets, and encoded twice.
ENCODINGS |= {
    "base64, wrapped": base64.encodebytes(b"x" * 40 + KNOWN.encode() + b"y" * 9).decode().strip()[52:],
    "form": quote_plus(KNOWN),
    "hex, colons": KNOWN.encode().hex(":"),
    "hex, blanks": KNOWN.encode().hex(" "),
    "hex, upper colons": KNOWN.encode().hex(":").upper(),
    "bytes": ", ".join(map(str, KNOWN.encode())),
    "base64 twice": base64.b64encode(base64.b64encode(KNOWN.encode())).decode(),
    "base64 of UTF-16": base64.b64encode(KNOWN.encode("utf-16-le")).decode(),
    "base32": base64.b32encode(KNOWN.encode()).decode(),
    "soft break": f"{KNOWN[:11]}=\n{KNOWN[11:]}",
    "quotation": f"{KNOWN[:11]}\n> {KNOWN[11:]}",
    "literals": f'{KNOWN[:11]}" +\n "{KNOWN[11:]}',
    "C1 colour": f"{KNOWN[:7]}\x9b31m{KNOWN[7:]}",
    **{f"U+{ord(c):04X}": f"{KNOWN[:7]}{c}{KNOWN[7:]}" for c in "\u2066\u202e\u2064\ufe0f\u061c\u180e\u034f\U000e0041"},
}


@pytest.mark.parametrize("encoded", ENCODINGS.values(), ids=ENCODINGS)
def test_known_value_is_redacted_in_every_encoding(encoded: str) -> None:
    """The environment has it; a program may print it in any form."""
    shown = Redactor([KNOWN]).redact_text(f"got {encoded} here")
    assert REDACTED in shown and shown.startswith("got ") and shown.endswith(" here")
    assert not [piece for piece in pieces(KNOWN) if piece in shown], shown
    assert len(shown) < 100, shown  # the words around it, the escapes of a link, and what base64 has before it


@pytest.mark.parametrize("form", ["utf-8", "latin-1", "nfd", "mojibake"])
def test_known_value_that_is_not_ascii_is_redacted(form: str) -> None:
    """Another program writes it in another encoding."""
    value = "p\u00e4ssw\u00f6rd9 Zq9w8e"
    written = {
        "utf-8": value.encode(),
        "latin-1": value.encode("latin-1"),
        "nfd": unicodedata.normalize("NFD", value).encode(),
        "mojibake": value.encode().decode("latin-1").encode(),
    }[form]
    assert Redactor([value]).redact(b"x " + written + b" y") == f"x {REDACTED} y".encode()


_ASSIGNMENT = b"DB_PASSWORD=Hh7kkQ2wW3eE4rR5tT6yY7uU\n"
_CODED = base64.b64encode(_ASSIGNMENT).decode()


@pytest.mark.parametrize(
    "text",
    [
        f"CONFIG={_CODED}",
        f"/v/{_CODED}",
        f"x-{_CODED}",
        f"v=={_CODED}",
        base64.b64encode(b"APP_ENV=prod\n" * 900 + _ASSIGNMENT).decode(),
        base64.encodebytes(b"APP_ENV=prod\n" * 9 + _ASSIGNMENT * 2).decode(),
        base64.b64encode("# Gr\u00f6\u00dfe\n".encode() + _ASSIGNMENT).decode(),
        base64.b64encode(b"\xef\xbb\xbf" + _ASSIGNMENT).decode(),
        base64.b64encode(_ASSIGNMENT + b"\0").decode(),
        base64.b64encode(_CODED.encode()).decode(),
        base64.b64encode(b"deploy:Hh7kkQ2wW3eE").decode(),
    ],
    ids=["=", "/", "x-", "==", "long", "lines", "umlaut", "BOM", "NUL", "twice", "user and password"],
)
def test_secret_in_base64_is_redacted(text: str) -> None:
    """Its value is not known; the text in it has a secret."""
    shown = Redactor().redact_text(f"got {text} here")
    assert REDACTED in shown and text[-24:-4].strip() not in shown and shown.endswith("here")


@pytest.mark.parametrize(
    ("name", "value", "secrets"),
    [
        ("DATABASE_URL", "postgres://app:p%40ss%2Fw0rd@db/x", ["p%40ss%2Fw0rd", "p@ss/w0rd"]),
        (
            "SENTRY_DSN",
            "https://0123456789abcdef01234567@o1.ingest.sentry.io/1",
            ["0123456789abcdef01234567"],
        ),
        ("SESSION_COOKIE", "sid=Zq9w8e7r6t5y4u3i; Path=/", ["Zq9w8e7r6t5y4u3i"]),
        ("STRIPE_KEY", "Zq9w8e7r6t5y4u3i", ["Zq9w8e7r6t5y4u3i"]),
        ("GOOGLE_CREDENTIALS", '{"type": "service_account", "private_key": "Zq9w8e7r6t5y"}', ["Zq9w8e7r6t5y"]),
        ("DBPASS", "Zq9w8e7r", ["Zq9w8e7r"]),
    ],
)
def test_secrets_inside_of_variables_are_known(name: str, value: str, secrets: list[str]) -> None:
    """A password in a URL, the value of a cookie and the key in a document are known alone too."""
    redactor = Redactor.from_environment({name: value})
    for secret in secrets:
        assert redactor.redact_text(f"got {secret} here") == f"got {REDACTED} here"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DB_PASSWORD_FILE", "/run/secrets/db"),
        ("KEYBOARD", "us-international"),
        ("SSH_AUTH_SOCK", "/tmp/ssh-1234/agent.4321"),
        ("CACHE_KEY", "profile-of-user"),
        ("GOOGLE_CREDENTIALS", '{"type": "service_account"}'),
        ("TOKENIZER", "sentencepiece"),
    ],
)
def test_values_that_are_no_secrets_stay(name: str, value: str) -> None:
    """A path to a secret is no secret, and neither are the words of a document."""
    text = f"type service_account {value if name != 'GOOGLE_CREDENTIALS' else ''}"
    assert Redactor.from_environment({name: value}).redact_text(text) == text


@pytest.mark.parametrize(
    "size", [pytest.param(1, marks=pytest.mark.slow), pytest.param(7, marks=pytest.mark.slow), 64, 1000]
)
def test_secret_in_two_reads_is_redacted(tmp_path: Path, size: int) -> None:
    """For any size of the reads, also a key of many lines and a token that the end of a line splits."""
    data = "\n".join(f"line {index}: {leak.text}" for index, leak in enumerate(LEAKS)).encode() + b"\n"
    log = OutputLog(tmp_path / "log", Redactor())
    for at in range(0, len(data), size):
        log.write(data[at : at + size])
    log.close()
    shown = (tmp_path / "log").read_text()
    assert shown == escape_commands(log_text(Redactor().redact_text(data.decode())))
    assert all(f"line {index}: " in shown for index in range(len(LEAKS)))


def test_key_without_its_beginning_is_redacted(tmp_path: Path) -> None:
    """The output before the last part of a log was left out, and with it the first line of the key."""
    shown = Redactor().redact_text("\n".join(PEM.split("\n")[3:]) + "\nafter\n")
    assert shown == f"{REDACTED}\nafter\n"


def test_masked_file_keeps_its_length_and_its_lines(tmp_path: Path) -> None:
    """A process may be appending to the file, at its end."""
    path = tmp_path / "log"
    with path.open("ab", buffering=0) as writer:
        for leak in LEAKS:
            writer.write(f"{leak.text}\n".encode())
        size = path.stat().st_size
        mask_file(path, Redactor())
        writer.write(b"more\n")
    shown = path.read_text()
    assert path.stat().st_size == size + 5 and shown.endswith("\nmore\n")
    assert [piece for leak in LEAKS for piece in pieces(leak.secret) if piece in shown] == []


NEARLY = {
    "a": b"a",
    "key": b"key=",
    "key without a value": b"api_key ",
    "begin": b"-----BEGIN PRIVATE KEY-----\n",
    "begin of a word": b"BEGIN ",
    "URL": b"://",
    "URL with a user": b"http://a:b@",
    "at": b"@",
    "option": b"--password ",
    "sk": b"sk-",
    "xoxb": b"xoxb-a ",
    "JWT": b"eyJaaaaaaaa.",
    "digits": b"1234567890:",
    "dots": b"Maaaaaaaaaaaaaaaaaaaaaaaaaaaaa.",
    "escape": b"\x1b[",
    "string escape": b"\x1b]8;;",
    "backslash": b"\\",
    "percent": b"%4",
    "entity": b"&amp",
    "quotes": b"password='",
    "blanks": b"token ",
    "newlines": b"\n",
    "base64": b"YWFhYWFhYWFhYWFhYWFhYWFhYWFh ",
    "mysql": b"mysql ",
    "login": b"docker login ",
    "Authorization": b"Authorization: ",
    "name": b"name: x ",
}


@pytest.mark.slow
@pytest.mark.parametrize("unit", NEARLY.values(), ids=NEARLY)
def test_text_that_is_nearly_a_secret_takes_bounded_time(unit: bytes) -> None:
    """The time grows with the length of the text, not with its square: twice the text takes no more than thrice."""
    redactor = Redactor([KNOWN])

    def seconds(size: int) -> float:
        data = unit * (size // len(unit))
        started = time.process_time()
        redactor.spans(data)
        return time.process_time() - started

    assert seconds(200_000) < max(3 * seconds(100_000), 0.2)


def test_masked_file_may_be_larger_than_a_disk(tmp_path: Path) -> None:
    """A program can make its own log as large as it likes; holes are left out."""
    path = tmp_path / "log"
    with path.open("wb") as file:
        file.write(b"password=first-secret\n")
        os.truncate(path, 1 << 42)
        file.seek(1 << 41)
        file.write(b"password=second-secret\n")
    assert mask_file(path, Redactor()) == 1 << 42
    with path.open("rb") as file:
        assert b"first-secret" not in file.read(100)
        file.seek(1 << 41)
        assert b"second-secret" not in file.read(100)


def test_masking_goes_on_where_it_ended(tmp_path: Path) -> None:
    """A secret that the end of the file cut is masked as well; without time nothing is read."""
    path = tmp_path / "log"
    path.write_bytes(b"password=first-se")
    assert mask_file(path, Redactor(), seconds=0) == 0
    end = mask_file(path, Redactor())
    with path.open("ab") as file:
        file.write(b"cret\npassword=second-secret\n")
    assert mask_file(path, Redactor(), start=end) == path.stat().st_size
    assert b"se" not in path.read_bytes()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_other_types_than_files_are_not_masked(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """No process waits for the writer of a pipe."""
    make(tmp_path / "log")
    with pytest.raises(OSError):
        mask_file(tmp_path / "log", Redactor())
