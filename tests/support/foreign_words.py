"""Texts of others that try to control what reads them, and what no output may contain because of them."""

from __future__ import annotations

import re
import unicodedata

from release_tasks.report.words import quoted_if_like_verdict

__all__ = ["HOSTILE", "faults_of", "hidden"]

FORGED = "FORGED"  # in every text of others that looks like a line of ours

_LINE = f"RESTORED  {FORGED}"
HOSTILE = {
    # Lines of their own.
    "newline": f"1.0\n{_LINE}",
    "newline first": f"\n{_LINE}",
    "two newlines": f"a\n\n{_LINE}\n",
    "carriage return": f"1.0\r{_LINE}",
    "both": f"1.0\r\n{_LINE}",
    "vertical tab": f"1.0\v{_LINE}",
    "form feed": f"1.0\f{_LINE}",
    "file separator": f"1.0\x1c{_LINE}\x1d{_LINE}\x1e{_LINE}",
    "next line": f"1.0\x85{_LINE}",
    "line separator": f"1.0\u2028{_LINE}",
    "paragraph separator": f"1.0\u2029{_LINE}",
    "a verdict": _LINE,
    "a verdict after spaces": f"   {_LINE}",
    "a verdict after a tab": f"\tREADY  {FORGED}",
    "a verdict with a colon": f"VERIFIED: {FORGED}",
    "a verdict at the width 80": "x" * 78 + f" {_LINE}",
    "a verdict at any width": f"{_LINE} " * 30,
    "a step": f"\n> restore {FORGED}",
    "a row": f"a\nv1  1m  ready  {FORGED}",
    # Terminals.
    "cursor up": f"\x1b[2A\x1b[2K{_LINE}",
    "clear": f"\x1b[2J\x1b[H{_LINE}",
    "colour": f"\x1b[32m{_LINE}\x1b[0m",
    "hidden": "\x1b[8mhidden\x1b[0m",
    "title": "\x1b]0;title\x07",
    "a title without an end": "\x1b]0;title",
    "clipboard": "\x1b]52;c;cm0gLXJmIC8=\x07",
    "hyperlink": "\x1b]8;;http://evil.example/\x1b\\text\x1b]8;;\x1b\\",
    "device control": "\x1bP$q\x1b\\",
    "application command": "\x1b_Gf=100;AAAA\x1b\\",
    "end of a paste": f"a\x1b[201~\nrm -rf /\n{_LINE}",
    "reset": "\x1bc",
    "charset": "\x1b(0lqqk",
    "answer back": "\x05\x1b[c",
    "C1 CSI": f"\x9b2J{_LINE}",
    "C1 OSC": "\x9d0;title\x9c",
    "bell": "\x07",
    "backspace": f"ok\b\b{_LINE}",
    "delete": "\x7f",
    "shift out": "\x0e\x0f",
    "null": "a\x00b",
    # Letters that are not what they seem.
    "right to left override": "\u202egnp.exe",
    "isolates": "\u2066\u2067\u2068a\u2069",
    "marks of direction": "\u200e\u200f\u061c",
    "zero width": "a\u200bb\u200cc\u200dd\ufeff",
    "word joiner": "a\u2060b\u2061c",
    "soft hyphen": "a\xadb",
    "tags": "a\U000e0041\U000e007f",
    "interlinear": "\ufff9a\ufffab\ufffb",
    "fillers": "a\u3164b\u115fc\uffa0d\u2800e",
    "selectors": "\ufe0fa\u180bb\U000e0100c\U00016fe4d\U0001d159e",
    "accents": "e" + "\u0301" * 60,
    "enclosing": "a" + "\u20dd" * 20,
    "a surrogate": "a\ud800b",
    "a byte of a name": "caf\udce9",
    "a byte that is a control": "a\udc9b2J",
    "no character": "a\uffffb\U0010ffff",
    "unassigned": "a\u0378b",
    # Markup.
    "rich": "[red]a[/] [link=http://evil.example/]b[/link] [bold",
    "emoji": ":smile: :warning:",
    "html": "<script>alert(1)</script><img src=http://evil.example/x onerror=alert(1)>",
    "end of pre": "</pre></details><h1>FORGED</h1>",
    "comment": "<!-- a",
    "entity": "&lt;b&gt; &#64;team",
    "markdown link": "[a](http://evil.example/)",
    "markdown image": "![a](http://evil.example/a.png)",
    "reference": "[a]: http://evil.example/\n[a]",
    "autolink": "<http://evil.example/> http://evil.example/ www.evil.example",
    "mention": "@team @org/team a@evil.example",
    "heading": "# FORGED\n\n## FORGED",
    "fence": "```\nFORGED\n```",
    "table": "a | b | c\n| --- | --- |",
    "math": "$$\\unicode{0}$$ $`a`$",
    "strike": "~~a~~ **b** _c_ `d`",
    # Commands to runners.
    "github": f"\n::error title={FORGED}::{FORGED}",
    "github at once": f"::set-output name=status::{FORGED}",
    "github stop": "::stop-commands::token",
    "github after spaces": f"  ::add-mask::{FORGED}",
    "github group": "::group::a\n::endgroup::",
    "github older": f"##[error]{FORGED}",
    "azure": f"##vso[task.setvariable variable=a]{FORGED}",
    "azure in a line": f"a ##[section]{FORGED}",
    "teamcity": f"##teamcity[buildStatus text='{FORGED}']",
    "gitlab": f"section_start:1:{FORGED}\r\x1b[0K{FORGED}",
    "travis": f"travis_fold:start:{FORGED}\r",
    "output file": f"1.0\nstatus={FORGED}",
    "heredoc": f"1.0\nstatus<<E\n{FORGED}\nE",
    # Commands to type.
    "shell": "a; rm -rf / #",
    "substitution": "$(rm -rf /) `rm -rf /` ${HOME}",
    "quotes": "'; rm -rf / ;'\"",
    "option": "--restart-command=rm -rf /",
    "history": "!! !$ ^a^b",
    # Logs and documents.
    "log record": f"a\n2026-01-01 00:00:00,000 ERROR release_tasks: {FORGED}",
    "json": f'","status":"{FORGED}","a":"',
    "cdata": "]]><system-out>FORGED</system-out>",
    "percent": "%s %(name)s %0A {0} {a.__class__}",
    "long": "y" * 1500,
    "long word and marks": "\u202e" * 200,
}

# The sequences that this package itself writes to a terminal: styles, and those of rich's live display.
_OURS = re.compile(r"\x1b\[(?:[0-9;]*m|\?25[lh]|\d*A|2K|\d*[GC])")
_COMMAND = re.compile(r"\s*::[\w-]+[^:]*::|.*##(?:vso|teamcity)?\[", re.IGNORECASE)
_OUR_COMMANDS = ("::error title=", "::warning title=", "::group::gate ", "::endgroup::")
_HIDDEN = ("Cc", "Cf", "Cs", "Cn", "Zl", "Zp")


def hidden(text: str) -> list[str]:
    """Return the characters of a text, other than line ends, that control what shows them, or are not seen there."""
    return sorted({c for c in text if c != "\n" and unicodedata.category(c) in _HIDDEN})


def faults_of(printed: str, *, is_terminal: bool = False) -> list[str]:
    """Return what is wrong with output that quotes ``HOSTILE``: characters that control, and lines that are forged."""
    if is_terminal:
        printed = _OURS.sub("", printed).replace("\r", "\n")
    faults = [f"{character!r} is not printable" for character in hidden(printed)]
    for line in printed.split("\n"):
        if quoted_if_like_verdict(line) != line and re.match(rf"\s*[A-Z]+:?\s+{FORGED}", line):
            faults.append(f"a verdict: {line[:200]}")
        # No runner gives a terminal to what it runs.
        if not is_terminal and _COMMAND.match(line) and not line.startswith(_OUR_COMMANDS):
            faults.append(f"a command: {line[:200]}")
    return faults
