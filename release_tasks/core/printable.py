"""Make text of others, such as a service, a file name or a command, safe to print on a terminal or a page."""

from __future__ import annotations

import functools
import re
import unicodedata

__all__ = [
    "beginning_without_secrets",
    "json_escaped",
    "log_text",
    "one_line",
    "output_lines",
    "printable",
    "visible_line",
    "without_secrets",
]

# A title or a link (OSC) ends at its line: without an end it would hide all lines that follow.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b\n]*(?:\x07|\x1b\\)?|[@-_])")
# Controls; formats, such as marks of the writing direction; surrogates; code points without a character; separators of
# lines and paragraphs.
_COLOURS = re.compile(r"\x1b\[[0-9;:]*m")
_UNUSUAL = re.compile(r"[^\n\t\x20-\x7e]")
_UNPRINTABLE = ("Cc", "Cf", "Cs", "Cn", "Zl", "Zp")
# Letters, marks and signs that have no shape, although they are no formats: Default_Ignorable_Code_Point
# of DerivedCoreProperties.txt (fillers of Hangul, the grapheme joiner, the selectors of a variant), and blanks, fillers
# and joiners of single scripts.
_INVISIBLE = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u2d7f\u3164\uffa0"
    "\U0001107f\U00013441\U00013442\U00016fe4\U0001d159"
).union(map(chr, range(0xFE00, 0xFE10)), map(chr, range(0xE0100, 0xE01F0)))
_AS_EMOJI = "\ufe0f"  # after a symbol it asks for the picture in colour
_MOST_MARKS = 4  # on one letter; more of them cover the lines above and below
_LONGEST = 10_000  # characters of a line
_AHEAD = 64 << 10  # characters that are searched for secrets behind those that are shown
_NAMES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def printable(text: str) -> str:
    r"""Return ``text`` without secrets, and with an escape such as ``\x1b`` for what controls a terminal or a page.

    Characters that cannot be seen are escaped too, and so is the fifth accent on one letter. Tabs and newlines stay. A
    byte that is not UTF-8, a surrogate in a file name (PEP 383), becomes ``\xff``; no stream can encode a surrogate.
    """
    return _visible(without_secrets(text))


def without_secrets(text: str) -> str:
    """Return ``text`` without secrets. Call it before a text is cut or escaped: half of a secret is not found."""
    from release_tasks.core.redact import Redactor  # here, because `inv --list` shows nothing of others

    return Redactor.of_process().redact_text(text)


def _visible(text: str) -> str:
    if text.isascii() and text.isprintable():
        return text
    parts: list[str] = []
    marks = 0
    for character in text:
        is_kept = character in "\t\n" or (character == _AS_EMOJI and parts and _is_symbol(parts[-1]))
        shown = character if is_kept else _shown(character)
        marks = marks + 1 if _is_mark(character) else 0
        parts.append(shown if marks <= _MOST_MARKS or shown != character else _escaped(character))
    return "".join(parts)


def beginning_without_secrets(text: str, limit: int) -> str:
    """Return ``text`` without secrets, for a caller that shows ``limit`` characters; of a long text only the start."""
    if len(text) <= limit + _AHEAD:
        return without_secrets(text)
    from release_tasks.core.redact import Redactor  # as in ``without_secrets``
    from release_tasks.core.redaction.values import as_bytes

    start = Redactor.of_process().redact_beginning(as_bytes(text[: limit + _AHEAD]))
    return f"{start.decode('utf-8', 'replace')}..."


def one_line(text: str, limit: int = _LONGEST) -> str:
    r"""Return ``text`` on one printable line of at most ``limit`` characters: a line end is shown as ``\n``."""
    return visible_line(beginning_without_secrets(text, limit), limit)


def visible_line(text: str, limit: int = _LONGEST) -> str:
    """Return a text that has no secrets, such as an id, as ``one_line`` does."""
    if len(text) > limit:
        text = f"{text[: limit - 3]}..."
    line = _visible(text).replace("\n", "\\n").replace("\t", "\\t")
    return line if len(line) <= limit else f"{line[: limit - 3]}..."


def json_escaped(document: str) -> str:
    r"""Return the same JSON document, with ``\u001b`` for each character in its strings that ``printable`` escapes."""
    if document.isascii():  # a JSON writer escapes the controls of ASCII itself; DEL is the exception
        return document.replace("\x7f", "\\u007f")
    return "".join(c if c == "\n" or _shown(c) == c else _json_escape(c) for c in document)


def output_lines(data: bytes) -> list[str]:
    """Return the output of a command as printable lines: no escape sequences, no empty lines at the end."""
    text = _ESCAPES.sub("", data.decode("utf-8", "replace"))
    # A progress bar writes its line many times, separated by \r; the last text is the one that stays visible.
    lines = [_visible(line.rstrip("\r").rpartition("\r")[2]).rstrip() for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def log_text(text: str) -> str:
    """Return the output of a command with its lines, for a file that ``cat`` may show.

    Colours are left out, and every other character that controls a terminal is a visible escape.
    """
    if not _UNUSUAL.search(text):
        return text
    return "\n".join(_log_line(line) for line in text.split("\n"))


def _log_line(line: str) -> str:
    line = _COLOURS.sub("", line.removesuffix("\r"))
    # Most lines have nothing to escape, and a log may have a million of them.
    is_plain = line.replace("\t", "").isprintable() and _INVISIBLE.isdisjoint(line)
    return line if is_plain else _visible(line)


@functools.lru_cache(maxsize=4096)
def _shown(character: str) -> str:
    is_hidden = character in _INVISIBLE or unicodedata.category(character) in _UNPRINTABLE
    return _escaped(character) if is_hidden else character


@functools.lru_cache(maxsize=4096)
def _is_mark(character: str) -> bool:
    return unicodedata.category(character) in ("Mn", "Me")


def _is_symbol(shown: str) -> bool:
    return len(shown) == 1 and unicodedata.category(shown) == "So"


def _json_escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def _escaped(character: str) -> str:
    code = ord(character)
    if character in _NAMES:
        return _NAMES[character]
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
