"""GitHub Actions gets the result of a task, and no text of another party is a command."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
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
from release_tasks.core.printable import one_line
from release_tasks.core.records import Check
from release_tasks.core.runner import command, escape_commands, escape_commands_in_json
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
    """A command that a runner would execute."""

    name: str
    properties: dict[str, str]
    data: str


def parse_commands(printed: str) -> list[Command]:
    """Read output as the runner does: line by line, both forms, names in any case, stop-commands included."""
    found: list[Command] = []
    known = set(REGISTERED)
    stopped_by = ""
    for line in re.split(r"\r\n|\r|\n", printed):
        command = _command(line, known) or _older_command(line, known)
        if command is None or (stopped_by and command.name != stopped_by):
            continue
        if command.name == stopped_by:
            known.discard(stopped_by)
            stopped_by = ""
        if command.name == "stop-commands":
            stopped_by = command.data.lower()
            known.add(stopped_by)
        found.append(command)
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
    """Simulate a runner, for tests with hypothesis too."""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")


def shown(text: str) -> str:
    """Return everything that a Screen prints of ``text``."""
    out = io.StringIO()
    screen = Screen(out)
    screen.line(text)
    screen.note(text)
    screen.verdict("failed", text)
    screen.table(("A", "B"), [(text, text), ("", text)])
    return out.getvalue()


@pytest.mark.parametrize("text", HOSTILE)
def test_the_hostile_texts_are_commands_or_nearly(text: str) -> None:
    """The parser of this file finds them, and a Screen prints none of them."""
    assert parse_commands(shown(text)) == []
    assert parse_commands(UsageExit(text).message) == []
    assert parse_commands(escape_commands_in_json(json.dumps({"a": text}, indent=2, ensure_ascii=False))) == []
    assert json.loads(escape_commands_in_json(json.dumps({"a": text}))) == {"a": text}


def test_the_parser_finds_commands() -> None:
    """Where there are some; other text is not changed."""
    commands = [each.name for text in HOSTILE for each in parse_commands(text)]
    assert len(commands) >= len(HOSTILE) - 4
    assert {"error", "add-mask", "set-output", "stop-commands", "endgroup"} <= set(commands)
    for text in ("a ::error::x", ": a", "## a # [b]", "std::vector"):
        assert escape_commands(text) == text


@pytest.mark.parametrize(
    "text", ["##vso[task.setvariable variable=a]b", "x ##[section]y", "##TeamCity[message text='a']"]
)
def test_commands_of_other_runners_are_text(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Azure Pipelines and TeamCity name themselves in no variable that this package reads, so it is so everywhere."""
    monkeypatch.delenv("GITHUB_ACTIONS")
    written = shown(text) + escape_commands_in_json(json.dumps(text))
    assert not re.search(r"##(vso|teamcity)?\[", written, re.IGNORECASE)
    assert json.loads(escape_commands_in_json(json.dumps(text))) == text


@given(hostile)
def test_no_text_is_a_command_on_a_screen(text: str) -> None:
    """This holds for any text and any position."""
    assert parse_commands(shown(text)) == []


@given(hostile, hostile)
def test_a_command_has_exactly_its_data_and_title(data: str, title: str) -> None:
    """One line, one command, unchanged data and property; the runner strips trailing white space."""
    (found,) = parse_commands(command("warning", data, title=title))
    stored = re.sub(r"[^\S\r\n]+\Z", "", title)  # an end of line is escaped and stays
    assert found == Command("warning", {"title": stored} if stored else {}, data)


def check(text: str, **more: Any) -> Check:
    diagnostics = {"outputTail": [text, "second"], "next": text, "problems": [text]}
    return Check(
        id="build", subsystem=text, status="failed", detail=text, command=text, diagnostics=diagnostics, **more
    )


def blocked(text: str) -> dict[str, Any]:
    """Return the document of a blocked release in which everything is ``text``."""
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
def test_annotations_are_ours_only(text: str) -> None:
    """One for the verdict, one for each failed gate and other reason; a warning for an advisory gate."""
    found = parse_commands("\n".join(annotation_lines(blocked(text), 1)))
    assert [each.name for each in found] == ["error", "error", "error", "warning"]
    assert found[1].properties["title"] == "gate build"
    assert found[2].properties["title"] == "blocked"


def test_an_annotation_has_the_reason_and_the_command() -> None:
    """The text is that of the terminal."""
    found = parse_commands("\n".join(annotation_lines(blocked("text"), 1)))
    assert found[0] == Command("error", {"title": "release text: blocked"}, "build: text")
    assert found[1] == Command("error", {"title": "gate build"}, "text\nnext: text")
    assert annotation_lines({"status": "ready", "preflight": {"checks": []}}, 0) == []


def test_the_number_of_annotations_is_limited() -> None:
    """The runner shows ten, and the verdict is one of them."""
    checks = [{"id": f"g{number}", "status": "failed", "detail": ""} for number in range(30)]
    found = parse_commands(
        "\n".join(annotation_lines({"status": "failed", "checks": checks, "failedChecks": ["g0"]}, 1))
    )
    assert len(found) == 10 and found[0].properties["title"] == "preflight: failed"


@given(hostile)
def test_the_output_of_a_gate_is_in_one_group(text: str) -> None:
    """The group is opened once and closed once, by us."""
    error = io.StringIO()
    before, sys.stderr = sys.stderr, error
    try:
        GroupedLines(Screen(io.StringIO()))(GateEnded(check(text, duration_ms=1200)))
    finally:
        sys.stderr = before
    found = parse_commands(error.getvalue())
    assert [each.name for each in found] == ["group", "endgroup"]
    assert found[0].data == "gate build: failed in 1.2 s"


def test_a_group_shows_the_end_of_a_long_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The log itself is deleted with the machine."""
    log = tmp_path / "build.log"
    log.write_bytes(b"".join(b"line %d\n" % number for number in range(40_000)))
    GroupedLines(Screen(io.StringIO()))(
        GateEnded(Check(id="a", subsystem="a", status="passed", detail="", diagnostics={"logPath": str(log)}))
    )
    lines = capsys.readouterr().err.splitlines()
    assert lines[-2:] == ["| line 39999", "::endgroup::"]
    assert 10_000 < len(lines) < 30_000
    assert any(line.startswith("| [the end of ") for line in lines)


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
    """Return the summary of a blocked release as GitHub renders it."""
    rendered = Elements()
    rendered.feed(
        markdown_it.MarkdownIt("gfm-like", {"linkify": False, "html": True}).render(step_summary(blocked(text), 1))
    )
    return rendered


def elements(text: str) -> list[str]:
    """Return the elements of the summary without the code around each ``@``, which keeps names from being notified."""
    return [tag for tag in page(text).tags if tag != "code"]


MARKDOWN = (
    "a | b", "`code`", "``` fence", "<script>alert(1)</script>", "</pre></details><img src=x onerror=alert(1)>",
    "**bold** _it_ ~~gone~~", "[link](http://x/)", "![x](http://x/y.png)", "<!-- comment", "&lt;b&gt; &#42;",
    "# heading", "1. list", "- item", "http://x/ www.x.org", "\\", "$$x$$", "a\n\n## b", "---", "| --- |",
    "<x@y.z>", "[^1]", "@team", "a@b.c",
)  # fmt: skip


@pytest.mark.parametrize("text", [*MARKDOWN, *HOSTILE])
def test_the_summary_has_no_element_of_a_text(text: str) -> None:
    """Markup in texts stays text: the page has the same elements as with a harmless word."""
    assert elements(text) == elements("harmless")
    letters = "".join(filter(str.isalnum, one_line(text)))
    assert letters in "".join(filter(str.isalnum, page(text).text))


@given(
    st.lists(st.sampled_from([*MARKDOWN, "|", "\n", "`", "<", ">", "*", "_", "[", "]", "(", ")"]), max_size=8).map(
        "".join
    )
)
def test_no_combination_of_markup_is_rendered(text: str) -> None:
    """The same for combinations of hostile texts."""
    assert elements(text + "x") == elements("harmless")


def test_the_summary_of_a_ready_release_has_the_rollback_command() -> None:
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
    for text in (
        "release v1: ready", "build", "passed", "1.5 s", "d" * 64, "/srv/manifests/v1.json",
        "inv release.rollback --snapshot v1_snapshot_1",
    ):  # fmt: skip
        assert text in rendered.text
    assert rendered.tags.count("table") == 2


def test_tasks_that_only_read_write_no_summary() -> None:
    """A step may type many of them."""
    assert step_summary({"status": "intact", "events": []}, 0) == ""
    assert "broken" in step_summary({"status": "broken", "problems": ["line 7"]}, 1)


class RunnerFiles:
    """The two files that a runner names."""

    def __init__(self, folder: Path) -> None:
        self.summary, self.output = folder / "summary", folder / "output"
        self.environ = {"GITHUB_STEP_SUMMARY": str(self.summary), "GITHUB_OUTPUT": str(self.output)}
        for path in (self.summary, self.output):
            path.write_text("before\n" if path is self.summary else "before=1\n")


@pytest.fixture
def files(tmp_path: Path) -> RunnerFiles:
    return RunnerFiles(tmp_path)


@pytest.mark.parametrize("text", HOSTILE)
def test_an_output_is_one_printable_line(files: RunnerFiles, text: str) -> None:
    """None is another output; existing content stays."""
    report_to_github(blocked(text), 1, io.StringIO(), files.environ)
    found = assignments(files.output.read_bytes().decode())
    line = one_line(text)
    assert found == {
        "before": "1", "status": "blocked", "exit_code": "1", "release_id": line, "version": line, "manifest": line,
    }  # fmt: skip
    assert files.summary.read_text().startswith("before\n## release")


def test_a_path_that_is_not_utf8_is_written(files: RunnerFiles) -> None:
    """Its bytes are escaped."""
    report_to_github({"status": "ready", "manifestPath": "/srv/\udcff"}, 0, io.StringIO(), files.environ)
    assert assignments(files.output.read_text())["manifest"] == r"/srv/\xff"


def replace(files: RunnerFiles, make: Callable[[Path], object]) -> None:
    """Replace both files by what ``make`` creates."""
    for path in (files.summary, files.output):
        path.unlink()
        make(path)


UNWRITABLE: dict[str, Callable[[RunnerFiles], None]] = {
    "not set": lambda files: files.environ.clear(),
    "missing": lambda files: replace(files, lambda path: None),
    "folders": lambda files: replace(files, Path.mkdir),
    "pipes": lambda files: replace(files, os.mkfifo),
    "malformed paths": lambda files: files.environ.update(GITHUB_OUTPUT="a\x00b", GITHUB_STEP_SUMMARY="/dev/null/x"),
}


@pytest.mark.parametrize("kind", list(UNWRITABLE))
def test_files_that_cannot_be_written_are_a_note(
    files: RunnerFiles, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One note for each on stderr; nothing is raised or created."""
    UNWRITABLE[kind](files)
    report_to_github(blocked("x"), 1, io.StringIO(), files.environ)
    notes = capsys.readouterr().err.splitlines()
    assert [note.split()[0] for note in notes] == ["GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT"]
    assert not files.output.is_file() or files.output.read_text() == "before=1\n"


def test_a_full_summary_is_left_unchanged(files: RunnerFiles, capsys: pytest.CaptureFixture[str]) -> None:
    """The runner shows nothing of a file larger than 1 MiB."""
    files.summary.write_bytes(b"x" * (1 << 20))
    report_to_github(blocked("x"), 1, io.StringIO(), files.environ)
    assert files.summary.stat().st_size == 1 << 20
    assert "GITHUB_STEP_SUMMARY is full" in capsys.readouterr().err


@pytest.mark.slow
def test_a_summary_alone_is_always_small_enough() -> None:
    """It has hundreds of gates with long texts."""
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
    """Return a project in which everything that can be printed is hostile."""
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


def run(
    folder: Path, files: RunnerFiles, configuration: dict[str, Any], *words: str
) -> subprocess.CompletedProcess[str]:
    (folder / "invoke.yaml").write_text(json.dumps(configuration))
    variables = {**os.environ, **files.environ, "PYTHONPATH": str(Path(release_tasks.__file__).parents[1])}
    return subprocess.run(
        [sys.executable, "-m", "invoke", *words], cwd=folder, env=variables, capture_output=True, text=True, timeout=60
    )


@pytest.mark.slow
@pytest.mark.parametrize("as_json", [False, True])
def test_a_hostile_run_has_our_commands_only(
    tmp_path: Path, files: RunnerFiles, project: dict[str, Any], as_json: bool
) -> None:
    """Gate output, health body, file names, application and configuration, with and without ``--json``."""
    del project["release"]["assets"]["gone"], project["release"]["assets"]["old"]
    words = ["release.prepare", "--release-id", "v1", *(["--json"] if as_json else [])]
    done = run(tmp_path, files, project, *words)
    assert done.returncode == 1, done
    groups = [each.name for each in parse_commands(done.stderr) if each.name in ("group", "endgroup")]
    assert groups == ["group", "endgroup"] * 4
    found = [each for each in parse_commands(done.stderr if as_json else done.stdout) if "group" not in each.name]
    assert [(each.name, each.properties["title"]) for each in found] == [
        ("error", "release v1: blocked"),
        ("error", "gate build"),
        ("error", "gate gui"),
        ("error", "gate api-health"),
        ("warning", "gate lint"),
    ]
    if as_json:
        assert parse_commands(done.stdout) == []
        assert json.loads(done.stdout)["appVersion"] == "##[error]1"
    else:
        assert [each for each in parse_commands(done.stderr) if "group" not in each.name] == []
    assert assignments(files.output.read_text())["manifest"] == str(tmp_path / "pipeline/manifests/v1.json")
    assert "release v1&#58; blocked" in files.summary.read_text()


@pytest.mark.slow
def test_hostile_names_of_missing_assets_stay_text(tmp_path: Path, files: RunnerFiles, project: dict[str, Any]) -> None:
    """No gate runs, and the annotations are ours."""
    done = run(tmp_path, files, project, "release.prepare", "--release-id", "v1")
    assert done.returncode == 1, done
    found = [(each.name, each.properties["title"]) for each in parse_commands(done.stdout)]
    assert found == [("error", "release v1: blocked"), ("error", "gate configuration")]


@pytest.mark.slow
def test_a_configuration_error_is_annotated(tmp_path: Path, files: RunnerFiles, project: dict[str, Any]) -> None:
    """The message quotes hostile text, which stays text."""
    project["release"]["##[error]key"] = 1
    project["release"]["retention"] = "x\n::error::forged"
    done = run(tmp_path, files, project, "release.prepare")
    assert done.returncode == 2
    assert [each.properties["title"] for each in parse_commands(done.stdout)] == ["release-tasks: error"]
    assert parse_commands(done.stderr) == []
    assert assignments(files.output.read_text()) == {"before": "1", "status": "error", "exit_code": "2"}


@pytest.mark.slow
def test_a_ready_release_and_a_rollback_write_their_outputs(
    tmp_path: Path, files: RunnerFiles, project: dict[str, Any]
) -> None:
    """The next step of a job needs them; a dry run writes nothing."""
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
    assert (done.returncode, parse_commands(done.stdout)) == (0, [])
    outputs = assignments(files.output.read_text())
    assert (outputs["status"], outputs["snapshot_id"]) == ("restored", prepared["snapshot_id"])
    assert outputs["safety_snapshot_id"].startswith("safety_snapshot_")
    assert "rollback&#58; restored" in files.summary.read_text()
