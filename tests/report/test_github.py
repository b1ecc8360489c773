"""GitHub Actions is told how a task ended, and takes no command from anybody else's text."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import markdown_it
import pytest
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st

import release_tasks
from release_tasks.core.events import GateEnded
from release_tasks.core.records import Check
from release_tasks.core.runner import command, inert, inert_json
from release_tasks.report.github import GroupedLines, annotation_lines, report_to_github
from release_tasks.report.markdown import step_summary
from release_tasks.report.screen import Screen
from release_tasks.tasks.executor import UsageExit
from tests.support.health import Health

REGISTERED = {
    "add-mask", "add-matcher", "add-path", "debug", "echo", "endgroup", "error", "group", "notice", "remove-matcher",
    "save-state", "set-env", "set-output", "stop-commands", "warning",
}  # fmt: skip


@frozen
class Command:
    """What a runner would do."""

    name: str
    properties: dict[str, str]
    data: str


def heard(printed: str) -> list[Command]:
    """Read output as the runner does: line by line, both forms, names in any case, a stop of commands included."""
    found: list[Command] = []
    known = set(REGISTERED)
    stopped_by = ""
    for line in re.split(r"\r\n|\r|\n", printed):
        told = _command(line, known) or _older_command(line, known)
        if told is None or (stopped_by and told.name != stopped_by):
            continue
        if told.name == stopped_by:
            known.discard(stopped_by)
            stopped_by = ""
        if told.name == "stop-commands":
            stopped_by = told.data.lower()
            known.add(stopped_by)
        found.append(told)
    return found


def _command(line: str, known: set[str]) -> Command | None:
    line = line.lstrip()
    head, separator, data = line[2:].partition("::")
    name, _, rest = head.partition(" ")
    if not line.startswith("::") or not separator or name.lower() not in known:
        return None
    escapes = (("%0D", "\r"), ("%0A", "\n"), ("%3A", ":"), ("%2C", ","), ("%25", "%"))
    return Command(name.lower(), _properties(rest.strip(), ",", escapes), _unescaped(data, (*escapes[:2], escapes[4])))


def _older_command(line: str, known: set[str]) -> Command | None:
    _, found, rest = line.partition("##[")
    head, separator, data = rest.partition("]")
    name, _, properties = head.partition(" ")
    if not found or not separator or name.lower() not in known:
        return None
    escapes = (("%3B", ";"), ("%0D", "\r"), ("%0A", "\n"), ("%5D", "]"), ("%25", "%"))
    return Command(name.lower(), _properties(properties, ";", escapes), _unescaped(data, escapes))


def _properties(text: str, separator: str, escapes: tuple[tuple[str, str], ...]) -> dict[str, str]:
    pairs = (part.partition("=") for part in text.split(separator))
    return {name: _unescaped(value, escapes) for name, _, value in pairs if name and value}


def _unescaped(text: str, escapes: tuple[tuple[str, str], ...]) -> str:
    for escaped, plain in escapes:
        text = text.replace(escaped, plain)
    return text


def assignments(text: str) -> dict[str, str]:
    """Read an output file as the runner does."""
    found: dict[str, str] = {}
    lines = iter(text.split("\n"))
    for line in lines:
        if not line:
            continue
        equals, heredoc = line.find("="), line.find("<<")
        if equals >= 0 and (heredoc < 0 or equals < heredoc):
            name, _, found[name] = line.partition("=")
            continue
        name, _, end = line.partition("<<")
        value: list[str] = []
        while (inner := next(lines)) != end:
            value.append(inner)
        found[name] = "\n".join(value)
    return found


HOSTILE = (
    "::error::forged",
    " \t::ERROR file=a::forged",
    "\u3000::add-mask::e",
    "fine\n::set-output name=status::ready",
    "fine\r::set-env name=PATH::/tmp",
    "\x1b[0m::warning::forged",
    "##[error]forged",
    "in the middle ##[add-mask]a of a line",
    "###[stop-commands]token",
    "::stop-commands::token",
    ":::error::forged",
    "::\u200berror::forged",
    "%0A::error::forged",
    "\u2028::error::forged",
    "::endgroup::",
)

pieces = st.sampled_from(
    ["::", ":", "##[", "#", "[", "]", "error", "add-mask", "Group", " ", "\t", "\n", "\r", "\u2003", "%0A", "\x1b", "x"]
)
hostile = st.lists(pieces, max_size=12).map("".join) | st.text(max_size=20)


@pytest.fixture(autouse=True)
def runner(monkeypatch: pytest.MonkeyPatch) -> None:
    """A runner listens, also to what hypothesis makes up."""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")


def shown(text: str) -> str:
    """Everything that a Screen prints of ``text``."""
    out = io.StringIO()
    screen = Screen(out)
    screen.line(text)
    screen.note(text)
    screen.verdict("failed", text)
    screen.table(("A", "B"), [(text, text), ("", text)])
    return out.getvalue()


@pytest.mark.parametrize("text", HOSTILE)
def test_the_table_of_hostile_texts_would_be_heard_or_is_near_it(text: str) -> None:
    """The parser of this file is no paper tiger, and a Screen lets none of it through."""
    assert heard(shown(text)) == []
    assert heard(UsageExit(text).message) == []
    assert heard(inert_json(json.dumps({"a": text}, indent=2, ensure_ascii=False))) == []
    assert json.loads(inert_json(json.dumps({"a": text}))) == {"a": text}


def test_without_a_runner_nothing_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the parser does hear what it should."""
    monkeypatch.delenv("GITHUB_ACTIONS")
    assert inert("::error::x") == "::error::x" and inert_json('"##[error]"') == '"##[error]"'
    commands = [told.name for text in HOSTILE for told in heard(shown(text))]
    assert len(commands) > len(HOSTILE)
    assert {"error", "add-mask", "set-output", "stop-commands", "endgroup"} <= set(commands)


@given(hostile)
def test_no_text_is_a_command_on_a_screen(text: str) -> None:
    """Whatever is in it, and wherever it is printed."""
    assert heard(shown(text)) == []


@given(hostile, hostile)
def test_a_command_says_what_it_was_given_and_nothing_else(data: str, title: str) -> None:
    """One line, one command, data and property as they were; white space at its end, the runner takes away."""
    (told,) = heard(command("warning", data, title=title))
    kept = re.sub(r"[^\S\r\n]+\Z", "", title)  # an end of line is escaped, and stays
    assert told == Command("warning", {"title": kept} if kept else {}, data)


def check(text: str, **more: Any) -> Check:
    diagnostics = {"outputTail": [text, "second"], "next": text, "problems": [text]}
    return Check(
        id="build", subsystem=text, status="failed", detail=text, command=text, diagnostics=diagnostics, **more
    )


def blocked(text: str) -> dict[str, Any]:
    """The document of a blocked release in which everything is ``text``."""
    return {
        "status": "blocked",
        "releaseId": text,
        "appVersion": text,
        "gitCommit": text,
        "snapshot": None,
        "diagnostics": [f"build: {text}", f"mcp: {text}"],
        "manifestPath": text,
        "preflight": {
            "passed": False,
            "failedChecks": ["build"],
            "checks": [
                {"id": "build", "status": "failed", "detail": text, "durationMs": 5, "diagnostics": {"next": text}},
                {
                    "id": text,
                    "status": "failed",
                    "detail": text,
                    "advisory": True,
                    "diagnostics": {"outputTail": [text]},
                },
            ],
        },
    }


@given(hostile)
def test_annotations_are_ours_alone(text: str) -> None:
    """One for the verdict, one for each failed gate, one for whatever else blocks; a warning for the advisory one."""
    found = heard("\n".join(annotation_lines(blocked(text), 1)))
    assert [told.name for told in found] == ["error", "error", "error", "warning"]
    assert found[1].properties["title"] == "gate build"
    assert found[2].properties["title"] == "blocked"


def test_an_annotation_tells_what_failed_and_what_to_type() -> None:
    """As the terminal does."""
    found = heard("\n".join(annotation_lines(blocked("text"), 1)))
    assert found[0] == Command("error", {"title": "release text: blocked"}, "build: text")
    assert found[1] == Command("error", {"title": "gate build"}, "text\nnext: text")
    assert annotation_lines({"status": "ready", "preflight": {"checks": []}}, 0) == []


def test_no_more_annotations_than_the_runner_shows() -> None:
    """The verdict is among the ten."""
    checks = [{"id": f"g{number}", "status": "failed", "detail": ""} for number in range(30)]
    found = heard("\n".join(annotation_lines({"status": "failed", "checks": checks, "failedChecks": ["g0"]}, 1)))
    assert len(found) == 10 and found[0].properties["title"] == "preflight: failed"


@given(hostile)
def test_the_output_of_a_gate_is_in_one_group(text: str) -> None:
    """Opened once, closed once, by us."""
    error = io.StringIO()
    before, sys.stderr = sys.stderr, error
    try:
        GroupedLines(Screen(io.StringIO()))(GateEnded(check(text, duration_ms=1200)))
    finally:
        sys.stderr = before
    found = heard(error.getvalue())
    assert [told.name for told in found] == ["group", "endgroup"]
    assert found[0].data == "gate build: failed in 1.2 s"


def test_a_group_shows_the_log_and_of_a_long_one_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The log itself is gone with the machine."""
    log = tmp_path / "build.log"
    log.write_bytes(b"".join(b"line %d\n" % number for number in range(40_000)))
    GroupedLines(Screen(io.StringIO()))(
        GateEnded(Check(id="a", subsystem="a", status="passed", detail="", diagnostics={"logPath": str(log)}))
    )
    lines = capsys.readouterr().err.splitlines()
    assert lines[-2:] == ["line 39999", "::endgroup::"]
    assert 10_000 < len(lines) < 30_000
    assert any(line.startswith("[the end of ") for line in lines)


class Elements(HTMLParser):
    """Collects the elements and the text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not attrs, (tag, attrs)
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def page(text: str) -> Elements:
    """The summary of a blocked release as GitHub renders it."""
    rendered = Elements()
    rendered.feed(
        markdown_it.MarkdownIt("gfm-like", {"linkify": False, "html": True}).render(step_summary(blocked(text), 1))
    )
    return rendered


MARKDOWN = (
    "a | b", "`code`", "``` fence", "<script>alert(1)</script>", "</pre></details><img src=x onerror=alert(1)>",
    "**bold** _it_ ~~gone~~", "[link](http://x/)", "![x](http://x/y.png)", "<!-- comment", "&lt;b&gt; &#42;",
    "# heading", "1. list", "- item", "http://x/ www.x.org", "\\", "$$x$$", "a\n\n## b", "---", "| --- |",
    "<x@y.z>", "[^1]",
)  # fmt: skip


@pytest.mark.parametrize("text", [*MARKDOWN, *HOSTILE])
def test_the_summary_has_no_element_of_anybody_else(text: str) -> None:
    """Markup in texts stays text: the page has the same elements as with a harmless word."""
    assert page(text).tags == page("harmless").tags
    letters = "".join(filter(str.isalnum, text))
    assert letters in "".join(filter(str.isalnum, page(text).text))


@given(
    st.lists(st.sampled_from([*MARKDOWN, "|", "\n", "`", "<", ">", "*", "_", "[", "]", "(", ")"]), max_size=8).map(
        "".join
    )
)
def test_no_mixture_of_markup_gets_through(text: str) -> None:
    """As above, for whatever they are together."""
    assert page(text + "x").tags == page("harmless").tags


def test_the_summary_of_a_ready_release_says_how_to_go_back() -> None:
    """Verdict, gates, snapshot, digest, manifest, and the command."""
    document = {
        "status": "ready",
        "releaseId": "v1",
        "snapshot": {"snapshotId": "v1_snapshot_1", "digest": "d" * 64},
        "manifestPath": "/srv/manifests/v1.json",
        "preflight": {"checks": [{"id": "build", "status": "passed", "detail": "exit code 0", "durationMs": 1500}]},
    }
    rendered = Elements()
    rendered.feed(
        markdown_it.MarkdownIt("gfm-like", {"linkify": False, "html": True}).render(step_summary(document, 0))
    )
    for told in (
        "release v1: ready", "build", "passed", "1.5 s", "d" * 64, "/srv/manifests/v1.json",
        "inv release.rollback --snapshot v1_snapshot_1",
    ):  # fmt: skip
        assert told in rendered.text
    assert rendered.tags.count("table") == 2


def test_tasks_that_only_show_something_leave_no_summary() -> None:
    """A step may type many of them."""
    assert step_summary({"status": "intact", "events": []}, 0) == ""
    assert "broken" in step_summary({"status": "broken", "problems": ["line 7"]}, 1)


class Files:
    """The two files that a runner names."""

    def __init__(self, folder: Path) -> None:
        self.summary, self.output = folder / "summary", folder / "output"
        self.environ = {"GITHUB_STEP_SUMMARY": str(self.summary), "GITHUB_OUTPUT": str(self.output)}
        for path in (self.summary, self.output):
            path.write_text("before\n" if path is self.summary else "before=1\n")


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.mark.parametrize("text", HOSTILE)
def test_outputs_are_as_they_are_whatever_is_in_them(files: Files, text: str) -> None:
    """Many lines too, and none of them another output; what stood there stays."""
    report_to_github(blocked(text), 1, io.StringIO(), files.environ)
    found = assignments(files.output.read_bytes().decode())
    assert found == {
        "before": "1", "status": "blocked", "exit_code": "1", "release_id": text, "version": text, "manifest": text,
    }  # fmt: skip
    assert files.summary.read_text().startswith("before\n## release")


def test_a_name_that_is_no_text_is_written_all_the_same(files: Files) -> None:
    """A path that is not UTF-8."""
    report_to_github({"status": "ready", "manifestPath": "/srv/\udcff"}, 0, io.StringIO(), files.environ)
    assert assignments(files.output.read_text())["manifest"] == "/srv/?"


BARRED = {
    "not set": lambda files: files.environ.clear(),
    "not there": lambda files: [files.summary.unlink(), files.output.unlink()],
    "folders": lambda files: [step() for path in (files.summary, files.output) for step in (path.unlink, path.mkdir)],
    "pipes": lambda files: [
        step() for path in (files.summary, files.output) for step in (path.unlink, lambda path=path: os.mkfifo(path))
    ],
    "of no path": lambda files: files.environ.update(GITHUB_OUTPUT="a\x00b", GITHUB_STEP_SUMMARY="/dev/null/x"),
}


@pytest.mark.parametrize("kind", list(BARRED))
def test_files_that_cannot_be_written_are_a_note(files: Files, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """On stderr, one for each; nothing is raised, and nothing is made in their place."""
    BARRED[kind](files)
    report_to_github(blocked("x"), 1, io.StringIO(), files.environ)
    notes = capsys.readouterr().err.splitlines()
    assert [note.split()[0] for note in notes] == ["GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT"]
    assert not files.output.is_file() or files.output.read_text() == "before=1\n"


def test_a_summary_that_is_full_is_left_as_it_is(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    """One byte over 1 MiB, and the runner would show nothing of it."""
    files.summary.write_bytes(b"x" * (1 << 20))
    report_to_github(blocked("x"), 1, io.StringIO(), files.environ)
    assert files.summary.stat().st_size == 1 << 20
    assert "GITHUB_STEP_SUMMARY is full" in capsys.readouterr().err


@pytest.mark.slow
def test_a_summary_alone_is_always_small_enough() -> None:
    """Hundreds of gates that all have much to say."""
    checks = [
        {
            "id": f"g{number}",
            "status": "failed",
            "detail": "|" * 10**4,
            "diagnostics": {"outputTail": ["<" * 4096] * 20},
        }
        for number in range(200)
    ]
    found = step_summary({"status": "failed", "checks": checks, "diagnostics": ["&" * 10**4] * 1000}, 1)
    assert len(found.encode()) < 1 << 19


@pytest.fixture
def project(tmp_path: Path, health: Health) -> dict[str, Any]:
    """A project of somebody else in which everything that can be printed is hostile."""
    everything = "\n".join(HOSTILE)
    health.status, health.body = 503, everything.encode()
    (tmp_path / "tasks.py").write_text("from release_tasks import ns\n")
    (tmp_path / "hostile").write_text(everything, newline="")
    assets = {"gone": {"file": "::error::gone"}, "old": {"file": "##[error]gone"}, "state": {"file": "hostile"}}
    gates = {
        "build": {"command": "cat hostile; exit 3"},
        "quiet": {"command": "cat hostile"},
        "lint": {"command": "cat hostile; exit 1", "advisory": True},
        "gui": {"path": "##[error]there"},
        "api-health": {"http": "health"},
    }
    app = {"name": "::error::forged", "version": "##[error]1"}
    release = {"root": "pipeline", "app": app, "health": {"url": health.url, "deadline": "1s"}}
    executor = {"executor_class": "release_tasks.executor.StageExecutor"}
    return {"tasks": executor, "release": {**release, "gates": gates, "assets": assets}}


def run(folder: Path, files: Files, configuration: dict[str, Any], *words: str) -> subprocess.CompletedProcess[str]:
    (folder / "invoke.yaml").write_text(json.dumps(configuration))
    variables = {**os.environ, **files.environ, "PYTHONPATH": str(Path(release_tasks.__file__).parents[1])}
    return subprocess.run(
        [sys.executable, "-m", "invoke", *words], cwd=folder, env=variables, capture_output=True, text=True, timeout=60
    )


@pytest.mark.slow
@pytest.mark.parametrize("as_json", [False, True])
def test_a_run_among_enemies_commands_nothing_but_what_we_say(
    tmp_path: Path, files: Files, project: dict[str, Any], as_json: bool
) -> None:
    """Gate output, health body, file names, application and configuration, with and without ``--json``."""
    words = ["release.prepare", "--release-id", "v1", *(["--json"] if as_json else [])]
    done = run(tmp_path, files, project, *words)
    assert done.returncode == 1, done
    groups = [told.name for told in heard(done.stderr) if told.name in ("group", "endgroup")]
    assert groups == ["group", "endgroup"] * 4
    found = [told for told in heard(done.stderr if as_json else done.stdout) if "group" not in told.name]
    assert [(told.name, told.properties["title"]) for told in found] == [
        ("error", "release v1: blocked"),
        ("error", "gate build"),
        ("error", "gate gui"),
        ("error", "gate api-health"),
        ("error", "blocked"),
        ("error", "blocked"),
        ("warning", "gate lint"),
    ]
    if as_json:
        assert heard(done.stdout) == []
        assert json.loads(done.stdout)["appVersion"] == "##[error]1"
    else:
        assert [told for told in heard(done.stderr) if "group" not in told.name] == []
    assert assignments(files.output.read_text())["manifest"] == str(tmp_path / "pipeline/manifests/v1.json")
    assert "release v1&#58; blocked" in files.summary.read_text()


@pytest.mark.slow
def test_a_mistake_in_the_configuration_is_annotated_and_commands_nothing(
    tmp_path: Path, files: Files, project: dict[str, Any]
) -> None:
    """The sentence quotes what somebody wrote."""
    project["release"]["##[error]key"] = 1
    project["release"]["retention"] = "x\n::error::forged"
    done = run(tmp_path, files, project, "release.prepare")
    assert done.returncode == 2
    assert [told.properties["title"] for told in heard(done.stdout)] == ["release-tasks: error"]
    assert heard(done.stderr) == []
    assert assignments(files.output.read_text()) == {"before": "1", "status": "error", "exit_code": "2"}


@pytest.mark.slow
def test_a_ready_release_and_a_rollback_tell_their_outputs(
    tmp_path: Path, files: Files, project: dict[str, Any]
) -> None:
    """What the next step of a job needs; a dry run tells nothing."""
    project["release"].update(
        gates={"build": {"command": "true"}}, assets={"state": {"file": "hostile"}}, health={}, app={"version": "1"}
    )
    assert run(tmp_path, files, project, "--dry", "release.prepare").returncode == 0
    assert assignments(files.output.read_text()) == {"before": "1"}
    assert run(tmp_path, files, project, "release.prepare", "--release-id", "v1").returncode == 0
    prepared = assignments(files.output.read_text())
    manifest = json.loads(Path(prepared["manifest"]).read_text())
    assert (prepared["status"], prepared["exit_code"], prepared["release_id"]) == ("ready", "0", "v1")
    assert (prepared["snapshot_id"], prepared["digest"]) == tuple(
        manifest["snapshot"][key] for key in ("snapshotId", "digest")
    )
    (tmp_path / "hostile").write_text("changed")
    done = run(tmp_path, files, project, "release.rollback")
    assert (done.returncode, heard(done.stdout)) == (0, [])
    told = assignments(files.output.read_text())
    assert (told["status"], told["snapshot_id"]) == ("restored", prepared["snapshot_id"])
    assert told["safety_snapshot_id"].startswith("safety_snapshot_")
    assert "rollback&#58; restored" in files.summary.read_text()
