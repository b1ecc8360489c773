"""Words of others on every way out: each is one printable line, and none is a verdict, a command or markup."""

from __future__ import annotations

import functools
import io
import json
import logging
import re
import subprocess
import sys
import types
import typing
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Literal, cast
from xml.etree import ElementTree

import attrs
import markdown_it
import pytest

from release_tasks.archive.attestation.verification import AttestationVerdict
from release_tasks.archive.diff import Comparison
from release_tasks.archive.verify import SnapshotVerdict
from release_tasks.core.audit import AuditVerdict
from release_tasks.core.canonical import pretty_bytes
from release_tasks.core.codec import encode
from release_tasks.core.errors import ConfigError, StageFailed, describe_error
from release_tasks.core.events import (
    BytesMoved,
    Event,
    GateBegan,
    GateEnded,
    HealthAnswered,
    Noted,
    SampleTaken,
    StepBegan,
)
from release_tasks.core.lock import Holder
from release_tasks.core.records import Check, Manifest, PreflightReport, RollbackOutcome
from release_tasks.core.runner import escape_commands_in_json
from release_tasks.core.typed import typed
from release_tasks.gateway.errors import GatewayError
from release_tasks.gateway.logs import begin_log
from release_tasks.report.answers import (
    show_audit,
    show_drill,
    show_manifest,
    show_outcome,
    show_preflight,
    show_verdicts,
    show_watch,
)
from release_tasks.report.display import display_for
from release_tasks.report.github import report_to_github
from release_tasks.report.junit import junit_xml
from release_tasks.report.markdown import step_summary
from release_tasks.report.screen import Screen, wrapped_for_stderr
from release_tasks.stages.diagnose.guide import Diagnosis, GuideFinding
from release_tasks.stages.drill.outcome import DrillOutcome
from release_tasks.stages.notifications.notification import new_notification, notification_bytes
from release_tasks.stages.watch.watching import WatchReport
from release_tasks.tasks import diagnose, release
from release_tasks.tasks.executor import UsageExit
from tests.support.foreign_words import HOSTILE, faults_of, hidden
from tests.support.project import Project

Show = Callable[[Screen, str], None]


class Stream(io.StringIO):
    """A stream in memory that is a terminal or none."""

    def __init__(self, *, is_terminal: bool) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


@pytest.fixture(params=["pipe", "terminal", "narrow terminal", "runner"])
def output(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Stream]:
    """Return a maker of streams that replace stdout and stderr: each way in which people see what a task says."""
    for name in ("NO_COLOR", "CI", "LC_ALL", "LC_CTYPE", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("LANG", "C.UTF-8")
    monkeypatch.setenv("COLUMNS", "40" if "narrow" in request.param else "80")
    if request.param == "runner":
        monkeypatch.setenv("GITHUB_ACTIONS", "true")

    def make() -> Stream:
        stream = Stream(is_terminal="terminal" in request.param)
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "stderr", stream)
        return stream

    return make


@functools.cache
def _types(kind: Any) -> list[tuple[str, Any]]:
    return [(each.alias, each.type) for each in attrs.fields(attrs.resolve_types(kind)) if each.init]


def filled(kind: Any, text: str) -> Any:
    """Return a value of a type in which every text is ``text``; of the alternatives, the first that is not None."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return filled(next(each for each in inner if each is not type(None)), text)
    if origin is Literal:
        return "failed" if "failed" in inner else inner[0]
    if origin in (dict, typing.get_origin(typing.Mapping[str, str])):
        return {text: filled(inner[1], text)}
    if origin in (list, tuple, set, frozenset, typing.get_origin(typing.Sequence[str])):
        return origin([filled(inner[0], text)]) if origin in (list, tuple) else [filled(inner[0], text)]
    if isinstance(kind, type) and attrs.has(kind):
        words = {(name, of): "damaged" if name == "status" and of is str else text for name, of in _types(kind)}
        return kind(**{name: filled(of, word) for (name, of), word in words.items()})
    if kind is Path:
        return Path("/" + text.replace("\0", ""))
    return {str: text, int: 1, float: 1.0, bool: True}.get(kind, text)


def check(text: str) -> Check:
    """Return a failed gate in which every text is ``text``."""
    found: dict[str, Any] = {"outputTail": [text, "x"], "problems": ["a", text], "next": text, "url": text}
    return attrs.evolve(cast("Check", filled(Check, text)), status="failed", advisory=False, diagnostics=found)


def manifest(text: str) -> Manifest:
    """Return a manifest in which every text is ``text``."""
    report = PreflightReport(passed=False, checks=[check(text)], failed_checks=[text])
    return attrs.evolve(cast("Manifest", filled(Manifest, text)), preflight=report, status="blocked")


def audit(text: str) -> AuditVerdict:
    """Return an audit log in which every text is ``text``."""
    event = {"seq": 1, **dict.fromkeys(("time", "event", "status", "actor", "channel", "senderId"), text)}
    return attrs.evolve(cast("AuditVerdict", filled(AuditVerdict, text)), events=[event])


SHOWN: dict[str, Show] = {
    "line": lambda screen, text: screen.line(text),
    "verdict": lambda screen, text: screen.verdict("failed", text),
    "note": lambda screen, text: screen.note(text, f"a {text}"),
    "step": lambda screen, text: screen.step(text),
    "table": lambda screen, text: screen.table(("A", "B"), [(text, text), ("a", text), (text, "a")]),
    "wide table": lambda screen, text: screen.table(("A", "B", "C"), [("a" * 30, "b" * 30, text), (text, "b", "c")]),
    "preflight": lambda screen, text: show_preflight(screen, manifest(text).preflight),
    "blocked": lambda screen, text: show_manifest(screen, attrs.evolve(manifest(text), snapshot=None)),
    "ready": lambda screen, text: show_manifest(screen, attrs.evolve(manifest(text), status="ready")),
    "rollback": lambda screen, text: show_outcome(screen, filled(RollbackOutcome, text)),
    "restored": lambda screen, text: show_outcome(
        screen, attrs.evolve(filled(RollbackOutcome, text), status="restored", damaged_assets=[])
    ),
    "watch": lambda screen, text: show_watch(screen, encode(filled(WatchReport, text)), filled(RollbackOutcome, text)),
    "drill": lambda screen, text: show_drill(screen, encode(filled(DrillOutcome, text))),
    "verify": lambda screen, text: show_verdicts(
        screen, [filled(SnapshotVerdict, text)], [filled(AttestationVerdict, text)]
    ),
    "audit": lambda screen, text: show_audit(screen, audit(text), 10),
    "diff": lambda screen, text: release._show_differences(screen, filled(Comparison, text)),
    "diagnose": lambda screen, text: diagnose._show(
        screen, Diagnosis(status="act", findings=[filled(GuideFinding, text)]), [(text, text, text)]
    ),
    "lock": lambda screen, text: screen.line(f"It is locked by {filled(Holder, text)}."),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SHOWN))
def test_the_screen_shows_text(output: Callable[[], Stream], name: str) -> None:
    """Every answer, in a pipe, on terminals and for a runner, with every text of it hostile."""
    for key, text in HOSTILE.items():
        stream = output()
        SHOWN[name](Screen(stream), text)
        assert faults_of(stream.getvalue(), is_terminal=stream.isatty()) == [], key


def events(text: str) -> Iterator[Event]:
    """Yield each kind of event, with every text of it hostile."""
    yield StepBegan(text, text)
    yield GateBegan(text)
    yield attrs.evolve(filled(HealthAnswered, text), left=3.0, gate=text)
    yield attrs.evolve(filled(HealthAnswered, text), left=3.0, gate=None)
    yield GateEnded(check(text))
    yield Noted(text)
    yield BytesMoved(text, text, 5, 10)  # type: ignore[arg-type]
    yield filled(SampleTaken, text)


@pytest.mark.slow
def test_the_progress_shows_text(output: Callable[[], Stream]) -> None:
    """Lines in a log, groups for a runner, and what is redrawn on a terminal."""
    stream = output()
    with display_for(Screen(stream)) as emit:
        for text in HOSTILE.values():
            for event in events(text):
                emit(event)
    assert stream.getvalue()
    assert faults_of(stream.getvalue(), is_terminal=stream.isatty()) == [], repr(stream.getvalue())[:3000]


ERRORS: dict[str, Callable[[str], str]] = {
    "stage": lambda text: StageFailed(text).message,
    "output": lambda text: StageFailed("a", GatewayError(text, [text]).output).message,
    "gateway": lambda text: GatewayError(text).message,
    "configuration": lambda text: ConfigError([f"invoke.yaml: {text}", text]).message,
    "system": lambda text: describe_error(OSError(2, "No such file", text)),
    "usage": lambda text: UsageExit(text).message,
}


@pytest.mark.parametrize("name", list(ERRORS))
def test_an_error_is_text(output: Callable[[], Stream], name: str) -> None:
    """The message of each kind of error, as it is written to stderr."""
    for key, text in HOSTILE.items():
        stream = output()
        message = ERRORS[name](text)
        assert len(message.split("\n")) == {"configuration": 2, "output": 2}.get(name, 1), key
        print(wrapped_for_stderr(message, {"TERM": "xterm", "COLUMNS": "80"}), file=stream)
        assert faults_of(stream.getvalue(), is_terminal=stream.isatty()) == [], key


def test_a_document_has_the_exact_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON keeps every value, and as text on a terminal it controls nothing."""
    values = {**HOSTILE, **{text: key for key, text in HOSTILE.items()}}
    document = escape_commands_in_json(pretty_bytes(values).decode())
    assert json.loads(document) == values
    assert faults_of(document) == []


def test_junit_is_xml() -> None:
    """An XML parser reads it, and no text is an element."""
    checks = [check(text) for text in HOSTILE.values()]
    root = ElementTree.fromstring(junit_xml(PreflightReport(passed=False, checks=checks, failed_checks=[]), "a"))
    texts = [text for element in root.iter() for text in (element.text, *element.attrib.values()) if text]
    assert len(texts) > len(HOSTILE) and not any(map(hidden, texts))
    assert {element.tag for element in root.iter()} == {"testsuites", "testsuite", "testcase", "failure", "system-out"}


class Page(HTMLParser):
    """Collects the elements of a page; none of them may have an attribute."""

    def __init__(self, markdown: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        # As GitHub: HTML is rendered, and addresses in text become links.
        self.feed(markdown_it.MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(markdown))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert not attributes, (tag, attributes)
        self.tags.append(tag)


@pytest.mark.slow
def test_a_summary_has_no_element_of_others() -> None:
    """A CommonMark parser finds the elements that a harmless text has, and no name to notify outside of code."""

    def tags(text: str) -> list[str]:
        return [tag for tag in Page(step_summary(encode(manifest(text)), 1)).tags if tag != "code"]

    for key, text in HOSTILE.items():
        assert tags(text) == tags("harmless"), key
        summary = step_summary(encode(manifest(text)), 1)
        assert not hidden(summary) and not re.search(r"(?<!<code>)&#64;", summary), key


def test_the_runner_gets_our_commands_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Annotations, and one line for each output."""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    files = {name: tmp_path / name for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    for key, text in HOSTILE.items():
        for path in files.values():
            path.write_text("")
        stream = io.StringIO()
        report_to_github(encode(manifest(text)), 1, stream, {name: str(path) for name, path in files.items()})
        assert faults_of(stream.getvalue()) == [], key
        assert all(line.startswith("::error title=") for line in stream.getvalue().splitlines()), key
        names = [line.partition("=")[0] for line in files["GITHUB_OUTPUT"].read_text().split("\n")]
        expected = ["status", "exit_code", "release_id", "version", "snapshot_id", "digest", "manifest", ""]
        assert names == expected, key


@pytest.mark.slow
def test_a_notification_has_lines(project: Project) -> None:
    """Each text of it is one line, so that a receiver may put it anywhere."""
    for key, text in HOSTILE.items():
        project.overrides["app.name"] = text.replace("\0", "").encode("utf-8", "replace").decode()
        words = dict.fromkeys(("stage", "status", "text", "detail", "version", "next"), text)
        made = new_notification(project.settings, "failed", **words, diagnostics=[text])
        sent = json.loads(notification_bytes(made))
        texts = [sent[name] for name in ("text", "detail", "next", "host", "actor", "project")]
        texts += [*sent["diagnostics"], sent["application"]["name"], sent["application"]["version"]]
        assert all(len(each.splitlines()) <= 1 and not hidden(each) for each in texts), key


def test_the_log_of_the_gateway_has_a_line_for_each_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request cannot forge a record, nor can the message of an exception."""
    root, stream = logging.Logger("root"), io.StringIO()
    monkeypatch.setattr(logging, "root", root)
    monkeypatch.setattr(sys, "stderr", stream)
    begin_log()
    for text in HOSTILE.values():
        root.error("%s: %s", text, text)
        try:
            raise ValueError(text)
        except ValueError:
            root.exception("failed")
    lines = stream.getvalue().splitlines()
    records = [line for line in lines if re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ERROR root: ", line)]
    assert len(records) == 2 * len(HOSTILE)
    assert all(line in records or line.startswith("    ") for line in lines)
    assert hidden(stream.getvalue()) == []


def test_a_pasted_command_is_the_command() -> None:
    """A shell reads the same words from it, and a terminal gets no control characters."""
    script = ""
    words = [
        text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape").replace("\0", "")
        for text in HOSTILE.values()
        if "\ud800" not in text
    ]
    for word in words:
        line = typed("release.rollback", "--snapshot", word)
        assert hidden(line) == [] and "\n" not in line
        script += f"printf '%s\\0' {line}\n"
    found = subprocess.run(["bash", "-c", script], check=True, capture_output=True).stdout.split(b"\0")
    expected = [["inv", "release.rollback", "--snapshot", word] for word in words]
    assert found[:-1] == [word.encode("utf-8", "surrogateescape") for each in expected for word in each]
