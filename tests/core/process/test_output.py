"""The log of a command: secrets are redacted wherever the output is split, and its size is bounded."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from release_tasks.core.printable import log_text
from release_tasks.core.process.output import OutputLog, last_lines, read_log_tail
from release_tasks.core.redact import Redactor
from release_tasks.core.runner import escape_commands

SECRET = b"zebra-crossing-0123456789"
LIMIT = 100 << 10


def write_log(path: Path, pieces: list[bytes]) -> tuple[OutputLog, bytes]:
    """Write the pieces to a log that keeps 100 KiB, and return the log with its content."""
    log = OutputLog(path, Redactor([SECRET.decode()]), max_bytes=LIMIT)
    for piece in pieces:
        log.write(piece)
    log.close()
    return log, path.read_bytes()


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 90_000), min_size=1, max_size=4),
    st.lists(st.integers(1, 60_000), min_size=1, max_size=6),
    st.sampled_from([b"", b"\n"]),
)
def test_secret_is_redacted_wherever_the_output_is_split(gaps: list[int], sizes: list[int], end: bytes) -> None:
    """For any position of the secret and any size of the pieces, no half of the secret is written."""
    data = b"".join(b"." * gap + SECRET + end for gap in gaps)
    pieces: list[bytes] = []
    at = 0
    while at < len(data):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(data[at : at + size])
        at += size
    with tempfile.TemporaryDirectory() as folder:
        log, content = write_log(Path(folder, "x.log"), pieces)
    for text in (content, "\n".join(log.tail()).encode()):
        assert SECRET[:8] not in text
        assert SECRET[-8:] not in text
    assert log.received == len(data)


@given(st.lists(st.binary(max_size=50), max_size=20))
def test_output_below_the_limit_is_kept(pieces: list[bytes]) -> None:
    """The log contains the output, with escapes that can be seen."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.log")
        log = OutputLog(path, Redactor())
        for piece in pieces:
            log.write(piece)
        log.close()
        content = path.read_bytes()
    text = Redactor().redact(b"".join(pieces)).decode("utf-8", "surrogateescape")
    assert content.decode() == escape_commands(log_text(text))
    assert content.count(b"\n") == text.count("\n")


def test_a_log_has_no_effect_on_a_terminal_or_a_runner(tmp_path: Path) -> None:
    """Colours are left out; titles, bytes and characters that cannot be seen are escapes, and no line is a command."""
    output = (
        b"\x1b[1;31mred\x1b[0m\r\n\x1b]0;title\x07\x1b[2J 1%\r2%\n::set-output name=a::b\n  ::error::x\n"
        b"##[error]x ##vso[task.complete]\n\xff \xe2\x9c\x93 \xe2\x80\xae\xef\xb8\x8f\n\n\ta: b::c\nend"
    )
    assert write_log(tmp_path / "x.log", [output[at : at + 3] for at in range(0, len(output), 3)])[1].decode() == (
        "red\n\\x1b]0;title\\x07\\x1b[2J 1%\\r2%\n: :set-output name=a::b\n  : :error::x\n"
        "## [error]x ## vso[task.complete]\n\\xff \u2713 \\u202e\\ufe0f\n\n\ta: b::c\nend"
    )


@pytest.mark.parametrize("command", [b"::error::x", b"##vso[a]", b"\x1b[1;31mx", b"\r\nx", "\u2713\u202e".encode()])
def test_a_long_line_is_harmless_wherever_it_is_split(tmp_path: Path, command: bytes) -> None:
    """The parts of a line without an end are written one after the other."""
    for place in range(len(command) + 1):
        line = (b" " * (48 * 1024 - place) + command).ljust(64 * 1024, b".")
        shown = write_log(tmp_path / "x.log", [line, b"\n"])[1].decode()
        assert escape_commands(shown) == shown
        assert shown.replace(" ", "") == log_text(line.decode() + "\n").replace(" ", "")


def test_output_above_the_limit_keeps_start_and_end_and_counts_the_rest(tmp_path: Path) -> None:
    """The log states how many bytes were left out."""
    lines = [b"%07d\n" % number for number in range(200_000)]
    data = b"".join(lines)
    pieces = [data[at : at + 7777] for at in range(0, len(data), 7777)]
    log, content = write_log(tmp_path / "x.log", pieces)
    head, note, rest = content.partition(b"[%d bytes were left out here]\n" % log.left_out)
    assert note
    assert data.startswith(head) and data.endswith(rest)
    assert len(head) + len(rest) + log.left_out == len(data)
    assert LIMIT <= len(content) < LIMIT + (300 << 10)
    assert log.tail() == [line.decode().strip() for line in lines[-20:]]


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"\n\n", []),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"1%\r50%\r100%", ["100%"]),
        (b"\x1b[1;31mred\x1b[0m \x1b]8;;http://x\x07link\x1b]8;;\x07", ["red link"]),
        (b"\xff\x00\tz", ["\ufffd\\x00\tz"]),
        (b"x" * 10_000, ["x" * 4096]),
        (b"\n".join([b"y" * 1000] * 10), ["y" * 1000] * 4),
        (b"\n".join(b"%d" % n for n in range(50)), [str(n) for n in range(30, 50)]),
    ],
)
def test_last_lines_are_few_and_printable(data: bytes, lines: list[str]) -> None:
    """At most 20 lines and 4 KiB, without control sequences."""
    assert last_lines(data) == lines


def test_the_end_of_a_log_does_not_begin_inside_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The part that is read begins before the part that is shown, and a line without its beginning is left out."""
    monkeypatch.setenv("API_TOKEN", SECRET.decode())
    path = tmp_path / "x.log"
    for size in (8192 - len(SECRET), 8192 - 16, 8192 - 8):
        path.write_bytes(b"first\n" * 9000 + SECRET + b"." * size + b"\nlast\n")
        lines = read_log_tail(path)
        assert lines[-1] == "last" and SECRET[-8:].decode() not in "".join(lines)
    path.write_bytes(SECRET * 2000)
    assert SECRET[4:].decode() not in "".join(read_log_tail(path))
    path.write_bytes(b"first\nlast\n")
    assert (read_log_tail(path), read_log_tail(path, 6)) == (["first", "last"], ["last"])


def test_tail_of_a_log_that_its_program_has_changed(tmp_path: Path) -> None:
    """A hole is no output, and no process waits for the writer of a pipe."""
    log = tmp_path / "log"
    log.write_text("first\nlast\n")
    os.truncate(log, 5000)
    assert read_log_tail(log) == ["first", "last"]
    os.truncate(log, 1 << 42)
    assert read_log_tail(log) == []
    log.unlink()
    os.mkfifo(log)
    assert read_log_tail(log) == []
