"""What the tests know of the pages: placeholders, programs, states, exit codes, and commands that cannot be run."""

from __future__ import annotations

import re
from collections.abc import Callable

from release_tasks.pairing.channels import Channel
from tests.support.documented import states
from tests.support.documented.example_project import STAND_INS, ExampleProject
from tests.support.documented.pages import REPOSITORY, Block, Command

__all__ = [
    "NOT_COMMANDS",
    "PROGRAMS",
    "TYPED_ELSEWHERE",
    "before",
    "documented_code",
    "filled",
    "outputs_like",
    "project_of",
    "reason_not_output",
    "reason_not_run",
    "state_of",
]

State = Callable[[ExampleProject], None]

# Programs that a page may use: of this machine, of the shell, and stand-ins. Any other program fails the test.
PROGRAMS = {
    *(
        "inv",
        "release-tasks",
        ".venv/bin/inv",
        "pytest",
        "./deploy.sh",
        "python3",
        "python",
        "sqlite3",
        "sha256sum",
        "curl",
        "git",
    ),
    *("cp", "mv", "rm", "mkdir", "chmod", "ls", "cat", "head", "tail", "sed", "df", "du", "sync", "mktemp", "openssl"),
    *("cd", "echo", "export", "jq", "kill", "make"),
    *STAND_INS,
}

# Code spans with an option of Invoke, which are not command lines.
NOT_COMMANDS = {"inv --dry", "inv -f"}

_NOT_RUN = (
    (r"^python3 -m venv \.venv && \. ", "it installs the tools of a developer"),
    (r"^python3 -m venv \.venv && ", "CI runs it as it stands, before anything else (.ci/run)"),
    (r"^inv (--dry )?dev\.release", "tests/dev/test_release.py runs it in a clone"),
    (r"https://api\.telegram\.org/", "it needs the Internet and a bot"),
)


def reason_not_run(command: str) -> str | None:
    """Return why a command is not run here, or None."""
    return next((reason for pattern, reason in _NOT_RUN if re.search(pattern, command)), None)


# Pages whose blocks another test types, from the folder that the page starts with.
TYPED_ELSEWHERE = {"docs/plugins.md": "tests/docs/test_plugin_guide.py"}

# Text blocks that are not the output of a command, by their first words.
_NOT_OUTPUT: tuple[tuple[str, str, str], ...] = (
    ("docs/tasks/", "inv ", "the usage of a task"),
    ("docs/index.md", "preflight ", "a picture"),
    ("docs/formats.md", "manifests/<release id>.json", "a list of files"),
    ("docs/formats.md", "<channel>-pairing.json", "a list of files"),
    ("docs/pairing.md", "stranger          gateway", "a picture"),
    ("docs/pairing.md", "bot.example.org {", "another program's configuration"),
    ("docs/runbook.md", "configuration  failed", "one line of a table"),
    (
        "docs/runbook.md",
        "> recover  0.0 s",
        "a moment on a terminal, which tests on pseudo-terminals hold",
    ),
    ("docs/runbook.md", "memory/release-pipeline/snapshots/<snapshot id>", "a list of files"),
    ("docs/plugins.md", "jsonl-queue/", "a list of files"),
    ("docs/architecture.md", "8  tasks.py", "a picture"),
)


def reason_not_output(block: Block) -> str | None:
    """Return what a text block is when it is not the output of a command, or None."""
    for page, beginning, reason in _NOT_OUTPUT:
        if block.page.startswith(page) and block.text.lstrip().startswith(beginning):
            return reason
    return None


def filled(example: ExampleProject, command: str) -> str:
    """Return a command with this project's values for its placeholders, example ids, port and durations."""
    text = re.sub(r"\b3100\b", str(example.port), command)
    channel = Channel.WHATSAPP if "whatsapp" in text else Channel.TELEGRAM
    rules: tuple[tuple[str, Callable[[], str]], ...] = (
        (r"(?<=--snapshot )(?:ID|SNAPSHOT)\b", lambda: example.snapshots()[0]),
        (r"(?<=--snapshot )OTHER_ID\b", lambda: example.snapshots()[1]),
        (r"(?<=--snapshot )SAFETY_ID\b", lambda: example.snapshots("safety")[0]),
        (r"(?<=release\.report --release-id )ID\b", lambda: "r2"),
        (r"(?<=--release-id )ID\b", example.fresh_id),
        (r"\bCODE\b", lambda: example.code(channel)),
        (r"\bSENDER\b", lambda: example.sender(channel)),
        (r"\bCHANNEL\b", lambda: channel.value),
        (r"(?<=gate\.run )(?:GATE|NAME)\b", lambda: "gui"),
        (r"(?<=gate\.run )MCP\b", lambda: "mcp-config"),
        (r"(?<=gate\.run )HEALTH\b", lambda: "api-health"),
        (r"(?<=--only )HEALTH\b", lambda: "api-health"),
        (r"(?<=--project )FOLDER\b", lambda: "."),
        (r"\bURL\b", lambda: f"http://127.0.0.1:{example.port}/health"),
        (r"(?<=[ =])/tmp(?=/)", lambda: str(example.folder)),
        (r"\bTASK\b", lambda: "release.status"),
        (r"\bCMD\b", lambda: "'inv gateway.start'"),
        (r"(?<=release\.diff )A B\b", lambda: "r1 r2"),
        (r"(?<=--for )\w+", lambda: "1s"),
        (r"(?<=--interval )\w+", lambda: "100ms"),
    )
    for pattern, value in rules:
        if re.search(pattern, text):
            text = re.sub(pattern, value(), text)
    # Collect the tests that a page names, but do not run them a second time.
    text = re.sub(
        r"^pytest (.*)", rf"(cd {REPOSITORY} && python -m pytest -p no:cacheprovider --collect-only \1)", text
    )
    # Tasks of this repository write into the checkout; tests/docs/test_docs.py checks their output.
    text = re.sub(r"^inv (?=demo$|dev\.)", f"inv --dry -r {REPOSITORY} ", text)
    return re.sub(
        r"\b(?:safety|[A-Za-z0-9.-]+)_snapshot_\d{14}(?:-[0-9a-f]{6})?", lambda m: _known(example, m[0]), text
    )


def _known(project: ExampleProject, snapshot_id: str) -> str:
    """Return the snapshot of this project for the id of an example."""
    if (project.pipeline / "snapshots" / snapshot_id).exists():
        return snapshot_id
    if snapshot_id.startswith("safety_"):
        return project.snapshots("safety")[0]
    name = snapshot_id.partition("_snapshot_")[0]
    ids = [found for found in project.snapshots() if found.startswith(f"{name}_snapshot_")]
    return ids[0] if ids else project.snapshots()[0]


_RUNBOOK = "docs/runbook.md"

# Pages that describe another project than a prepared one with a running service.
_PROJECTS: dict[str, State] = {
    "docs/first-deployment.md": states.not_deployed,
    "docs/moving-over.md": states.older_project,
    "docs/quick-start.md": states.empty_folder,
    "docs/report.md": states.prepared,
}

_STATES: dict[tuple[str, str], State] = {
    ("README.md", "In your own project"): states.running,
    ("docs/tasks/pairing.md", "pairing.list"): states.waiting,
    ("docs/tasks/release.md", "release.rollback"): states.changed,
    (_RUNBOOK, "Reading a blocked manifest"): states.blocked,
    (_RUNBOOK, "Restored, and health fails"): states.up_after_failed_rollback,
    (_RUNBOOK, "Noop, but health failed"): states.down_after_rollback,
    (_RUNBOOK, "A snapshot is refused"): states.altered_snapshot,
    (_RUNBOOK, "Exit 75"): states.held,
    (_RUNBOOK, "An interrupted rollback, or a power cut"): states.interrupted,
    (_RUNBOOK, "A damaged journal"): states.damaged_journal,
    (_RUNBOOK, "The live database is corrupt"): states.corrupt_database,
    (_RUNBOOK, "Snapshots of the older tool"): states.older_snapshot,
    (_RUNBOOK, "Manual restore, without the tool"): states.stopped,
}

# Outputs that do not follow their command: first words, state, command and exit code.
_OUTPUTS: tuple[tuple[str, str, State, str, int], ...] = (
    (_RUNBOOK, "GATE        RESULT   SUBSYSTEM", states.build_fails, "inv release.preflight", 1),
    (_RUNBOOK, "GATE           RESULT   SUBSYSTEM", states.blocked, "inv release.prepare --release-id r3", 1),
    (_RUNBOOK, "DEGRADED  release 1.4.0", states.degraded_release, "inv release.watch --for 10m --rollback", 1),
    (_RUNBOOK, "FAILED  rollback to r2", states.down_and_changed, "inv release.rollback", 1),
    (_RUNBOOK, "FAILED  rollback to r2", states.down_after_rollback, "inv release.rollback", 1),
    (_RUNBOOK, "FAILED  rollback to the latest", states.altered_snapshot, "inv release.rollback", 1),
    (_RUNBOOK, ".../memory/release-pipeline is locked", states.held, "inv release.rollback", 75),
    (_RUNBOOK, "A rollback was interrupted and its", states.damaged_journal, "inv release.rollback", 1),
    (_RUNBOOK, "release.prepare was given", states.stock_executor, "inv release.prepare --health-url URL", 2),
)


def outputs_like(block: Block) -> list[tuple[State, str, int]]:
    """Return the state, the command and the exit code of outputs that do not follow their command."""
    text = block.text.lstrip()
    return [
        (state, command, code)
        for page, start, state, command, code in _OUTPUTS
        if page == block.page and text.startswith(start)
    ]


# Actions that the text asks for before a command.
_BEFORE: dict[tuple[str, str, str], State] = {
    (_RUNBOOK, "An interrupted rollback, or a power cut", "inv release.rollback"): ExampleProject.start,
    ("docs/quick-start.md", "Where to go from here", "inv release.watch --for 10m"): states.notebook_again,
}


def before(command: Command) -> State | None:
    """Return what to do to the project before a command is typed, or None."""
    return _BEFORE.get((command.page, command.heading, command.text))


# Commands with another exit code than 0, by page, heading ("" for all) and first words.
_CODES: tuple[tuple[str, str, str, int], ...] = (
    ("docs/quick-start.md", "Roll back", "inv gate.api-health", 1),
    ("docs/first-deployment.md", "", "inv release.prepare --first", 0),
    ("docs/first-deployment.md", "", "inv release.prepare", 1),  # nothing is deployed
    ("docs/first-deployment.md", "", "inv release.watch", 1),
    (_RUNBOOK, "", "inv release.prepare --first", 2),  # a release was prepared there
)


def project_of(page: str) -> State:
    """Return the function that makes the project of a page."""
    return _PROJECTS.get(page, states.running)


def state_of(page: str, heading: str) -> State | None:
    """Return the function that brings a fresh project into the state of a heading; None: no change."""
    return _STATES.get((page, heading))


def documented_code(command: Command) -> int:
    """Return the exit code that the page documents."""
    for page, heading, beginning, code in _CODES:
        if command.page == page and heading in ("", command.heading) and command.text.startswith(beginning):
            return code
    return 0
