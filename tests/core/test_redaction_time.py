"""The time that redaction takes: output made to be nearly a secret costs about as much as ordinary output."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator

import pytest

from release_tasks.core.redact import Redactor
from release_tasks.core.redaction import formats, names, phrases

_ORDINARY = b"2026-11-29 INFO login of user 42, session key refreshed in 9 ms\n"
_SIZE = 3000  # bytes
_AT_MOST = 100  # times as long as ordinary output of the same size; before this limit the worst took 300 times
_KNOWN = ["Zq9/w@rd,&'x\"7 <y>+K"]

HINTS = sorted(
    {hint for each in formats.FORMATS for hint in each.hints}
    | {hint for each in phrases.PHRASES for hint in each.hints}
    | set(names.NAMES)
)
OTHERS = [
    b"sk-sk-sk-sk-\n",
    b"1/1/1/1/1/\n",
    b"ya29.1//0\n",
    b"ghp_abcd\n",
    b"sk-" * 160 + b"\n",
    b"http://a:b@",
    b"mysql://a:b c",
    b"a://b:c/d@e ",
    b"://",
    b"://@",
    b"token='a\\'\"`",
    b"password=\n",
    b"password: |\n  x\n",
    b"password\n",
    b"token: token: ",
    b"-----BEGIN PRIVATE KEY-----\nabc\n",
    b"-----END PRIVATE KEY-----\n",
    b"Private-Lines: 300\nabcdefgh\n",
    b"MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj\n",
    b"YWFhYWFhYWFhYWFhYWFhYWFhYWFh\n",
    b"dG9rZW46IGFhYWEgcGFzc3dvcmQga2V5IGJhc2ljIGF1dGgg",
    b"ghp_" + b" " * 250 + b"x",
    b"a" + b" " * 250 + b"\n",
    b"Zq9/w@rd,&\n",
    b"\x1b[",
    b"\x1b]8;;",
    b"\\\\\\\\u0041 ",
    b"%252525254131 ",
    b"&amp;amp;amp;lt; ",
    b"\xe2\x80\x8b",
]


def units() -> Iterator[bytes]:
    """Yield texts to repeat: each hint in a row, at the end of a line, before a sign, and next to another one."""
    yield from OTHERS
    for index, hint in enumerate(HINTS):
        yield hint * 4 + b"\n"
        yield b"x " + hint + b"\n"
        yield hint + b"=" + hint + b": "
        yield hint.upper() + HINTS[index - 7] + b"\n"


def seconds(unit: bytes) -> float:
    """Return the time for a text of this unit, per byte."""
    data = unit * (_SIZE // len(unit) + 1)
    gc.disable()  # its time depends on the objects of all tests before
    try:
        started = time.process_time()
        Redactor(_KNOWN).spans(data)
        return (time.process_time() - started) / len(data)
    finally:
        gc.enable()


def too_slow(texts: list[bytes]) -> list[bytes]:
    """Return the units that take too long in each of four runs; another process may disturb one."""
    ordinary = min(seconds(_ORDINARY) for _ in range(9))
    for _ in range(4):
        texts = [each for each in texts if seconds(each) > _AT_MOST * ordinary]
    return texts


def test_no_text_costs_much_more_than_ordinary_output() -> None:
    """A command or a service that prints such lines does not hold the run beyond its limits of time."""
    assert too_slow(OTHERS) == []


@pytest.mark.slow
def test_no_hint_costs_much_more_than_ordinary_output() -> None:
    """For every hint of the tables, so that a new row is measured too."""
    assert too_slow(list(units())) == []
