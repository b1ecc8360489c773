"""A command line with stages and tasks of the project: signals, exit codes, and what stays when a task fails."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from release_tasks.core.interrupt import STOP_SIGNALS
from tests.support.invoke_project import InvokeProject
from tests.support.processes import await_file, await_true, is_running

# Each way in which a deploy may run something; the file ``pids`` gets the processes, and has a last line when all run.
TASKS = """
import multiprocessing
import subprocess
import sys
import time
from pathlib import Path

from invoke import Collection, Exit, task
from release_tasks import ns

TREE = "sleep 600 & echo $! > pids.new; echo $$ >> pids.new; mv pids.new pids; wait"
LEAF = "echo $$ > pids.new; mv pids.new pids; exec sleep 600"


@task
def deploy(ctx, how="run", code=7):
    if how == "run":
        ctx.run(TREE)
    elif how == "background":
        ctx.run("sleep 600 & echo $! > pids.new; mv pids.new pids")
    elif how == "pty":
        ctx.run(LEAF, pty=True)
    elif how == "subprocess":
        subprocess.run(TREE, shell=True)
    elif how == "swallow":
        try:
            ctx.run(LEAF)
        except BaseException:
            pass
    elif how == "worker":
        promise = ctx.run("echo > pids; sleep 2; exit 7", asynchronous=True, warn=True)
        worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
        worker.start()
        while not Path("pids").exists():
            time.sleep(0.02)
        worker.terminate()
        worker.join()
        sys.exit(promise.join().exited)
    elif how == "python":
        Path("pids").write_text("\\n")
        time.sleep(600)
    elif how == "code":
        ctx.run(f"exit {code}")
    elif how == "killed":
        ctx.run(f"kill -{code} $$")
    elif how == "hidden":
        ctx.run(f"echo the reason >&2; exit {code}", hide=True)
    elif how == "exit":
        raise Exit("own words", code=code)
    elif how == "sys.exit":
        sys.exit(code)
    elif how == "text":
        sys.exit("own words")
    elif how == "error":
        raise ValueError("own words")
    elif how == "nested":
        ns.collections["release"]["prepare"](ctx)
    elif how == "zero":
        raise Exit(code=0)


@task
def clean(ctx):
    ctx.run("exit 75")


@task
def before(ctx):
    ctx.run(TREE)


@task(pre=[before], post=[ns.collections["release"]["status"]])
def pipeline(ctx):
    raise AssertionError


@task(pre=[ns.collections["release"]["status"]], post=[before])
def cleanup(ctx):
    pass


ns.add_task(deploy)
for each in (clean, pipeline, cleanup):
    ns.add_task(each)
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
SEED = 20261
EVERY = "EVERY_CALL" in os.environ


@pytest.fixture(autouse=True)
def default_signals() -> Iterator[None]:
    """Give child processes the default action for each signal; a shell hands down SIGINT as ignored to a job."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    for number, handler in before.items():
        if handler is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def chained(versioned: InvokeProject) -> InvokeProject:
    """Return a project with a task ``deploy``, for each version of Invoke."""
    (versioned.root / "tasks.py").write_text(TASKS)
    return versioned


def prepared(project: InvokeProject) -> dict[str, Any]:
    """Return the manifest of the last release; the pipeline must be whole and unlocked."""
    status = project.document("release.status")
    assert status["lock"] is None
    assert project.run("release.audit").returncode == 0
    found: dict[str, Any] = json.loads((project.root / "pipeline" / "manifests" / "latest.json").read_text())
    return found


def events(project: InvokeProject) -> list[dict[str, Any]]:
    """Return the events of the audit log."""
    return [json.loads(line) for line in (project.root / "pipeline" / "rollback-audit.log").read_text().splitlines()]


HOWS = ("run", "background", "pty", "subprocess", "swallow", "python")
STOPS = [(how, number) for how in HOWS for number in STOP_SIGNALS]


@pytest.mark.parametrize(("how", "number"), STOPS if EVERY else random.Random(SEED).sample(STOPS, 6))
def test_a_signal_during_a_deploy_ends_it_and_says_how_to_roll_back(
    chained: InvokeProject, how: str, number: signal.Signals
) -> None:
    """No process is left, the code is 128 plus the signal, and stdout stays one document."""
    process = chained.start("release.prepare", "--release-id", "r1", "--json", "deploy", "--how", how, "release.watch")
    pids = [int(pid) for pid in await_file(chained.root / "pids").split()]
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number, err
    assert json.loads(out)["status"] == "ready"
    snapshot = prepared(chained)["snapshot"]["snapshotId"]
    assert "Traceback" not in err
    assert err.splitlines()[-3:] == [
        f"deploy was stopped by {number.name}.",
        "Not run: release.watch.",
        f"Release r1 is prepared. To roll back: inv release.rollback --snapshot {snapshot}",
    ]
    await_true(lambda: not any(map(is_running, pids)))
    event = events(chained)[-1]
    assert (event["event"], event["task"], event["releaseId"], event["snapshotId"], event["exitCode"]) == (
        "chain.failed",
        "deploy",
        "r1",
        snapshot,
        128 + number,
    )


def test_an_impatient_operator_gets_the_code_of_the_first_signal(scratch: InvokeProject) -> None:
    """TERM, then HUP and two times Ctrl-C, while processes that ignore TERM are ended."""
    (scratch.root / "tasks.py").write_text(TASKS.replace('TREE = "', "TREE = \"trap '' TERM; "))
    process = scratch.start("release.prepare", "deploy", "--how", "run")
    pids = [int(pid) for pid in await_file(scratch.root / "pids").split()]
    process.send_signal(signal.SIGTERM)
    lines = process.stderr
    assert lines is not None
    await_true(lambda: "SIGTERM was passed on" in lines.readline())
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGINT):
        process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 143 and "Traceback" not in err, err
    assert "deploy was stopped by SIGTERM." in err.splitlines()
    await_true(lambda: not any(map(is_running, pids)))


def test_two_signals_at_once_are_one(scratch: InvokeProject) -> None:
    """systemd sends SIGTERM and SIGHUP together; the code is that of one of them."""
    (scratch.root / "tasks.py").write_text(TASKS)
    process = scratch.start("release.prepare", "deploy", "--how", "run")
    pids = [int(pid) for pid in await_file(scratch.root / "pids").split()]
    for number in (signal.SIGTERM, signal.SIGHUP):
        process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode in (129, 143) and "Traceback" not in err, err
    assert "To roll back: inv release.rollback" in err
    await_true(lambda: not any(map(is_running, pids)))


def test_an_ignored_signal_stays_ignored(scratch: InvokeProject) -> None:
    """Under nohup a closed terminal stops nothing, and TERM still ends the line."""
    (scratch.root / "tasks.py").write_text(TASKS)
    scratch.command = ["/bin/sh", "-c", 'trap "" HUP; exec "$@"', "sh", *scratch.command]
    process = scratch.start("release.prepare", "deploy", "--how", "python")
    await_file(scratch.root / "pids")
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143


def test_a_signal_without_stderr_has_its_code(scratch: InvokeProject) -> None:
    """A supervisor may close it; a file of the deploy gets the number then, and no message of the line."""
    (scratch.root / "tasks.py").write_text(TASKS)
    scratch.command = ["/bin/sh", "-c", 'exec 2>&-; exec "$@"', "sh", *scratch.command]
    process = scratch.start("deploy", "--how", "run", "release.status")
    await_file(scratch.root / "pids")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143


def test_a_daemon_of_the_deploy_lives_on(scratch: InvokeProject) -> None:
    """A process in a session of its own was detached on purpose, as a service is."""
    tasks = TASKS.replace("sleep 600 & echo $!", "setsid sleep 600 > /dev/null 2>&1 < /dev/null & echo $!")
    (scratch.root / "tasks.py").write_text(tasks)
    process = scratch.start("release.prepare", "deploy", "--how", "run")
    service, shell = (int(pid) for pid in await_file(scratch.root / "pids").split())
    try:
        await_true(lambda: os.getsid(service) == service)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        assert process.returncode == 143
        assert is_running(service) and not is_running(shell)
    finally:
        os.kill(service, signal.SIGKILL)


@pytest.mark.parametrize(
    ("how", "code", "said"),
    [
        ("code", "75", "exit code 75"),
        ("killed", "2", "SIGINT"),
        ("hidden", "2", "exit code 2"),
        ("exit", "130", "exit code 130"),
        ("sys.exit", "143", "exit code 143"),
        ("text", "0", "exit code 1"),
        ("error", "0", "ValueError"),
        ("worker", "0", "exit code 7"),
    ],
)
def test_a_failed_deploy_ends_with_1_and_is_named(scratch: InvokeProject, how: str, code: str, said: str) -> None:
    """2, 75 and 128 plus a signal are exit codes of the stages only; the output of the task stays."""
    (scratch.root / "tasks.py").write_text(TASKS)
    done = scratch.run("release.prepare", "--json", "deploy", "--how", how, "--code", code)
    assert done.returncode == 1
    snapshot = prepared(scratch)["snapshot"]["snapshotId"]
    lines = done.stderr.splitlines()
    assert f"deploy ended with {said}." in lines
    assert any(line.endswith(f"To roll back: inv release.rollback --snapshot {snapshot}") for line in lines)
    assert json.loads(done.stdout)["status"] == "ready"
    assert ("Traceback" in done.stderr) == (how == "error")
    shown = {"hidden": "the reason", "exit": "own words", "text": "own words", "error": "ValueError: own words"}
    assert shown.get(how, "") in done.stderr
    event = events(scratch)[-1]
    assert (event["event"], event["detail"]) == ("chain.failed", f"deploy ended with {said}.")


def test_a_deploy_before_a_stage_has_nothing_to_roll_back(chained: InvokeProject) -> None:
    """It is 1 all the same, and the stage does not run."""
    done = chained.run("deploy", "--how", "code", "--code", "75", "release.prepare")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-2:] == [
        "deploy ended with exit code 75.",
        "Not run: release.preflight, release.prepare.",
    ]
    assert not (chained.root / "pipeline").exists()


def test_a_line_without_a_stage_keeps_the_codes_of_invoke(chained: InvokeProject) -> None:
    """The other tasks of a project are not ours."""
    done = chained.run("clean")
    assert (done.returncode, done.stderr) == (75, "")


def test_a_deploy_that_ends_the_line_with_0_is_no_failure(scratch: InvokeProject) -> None:
    """Exit(code=0) is the task's own decision."""
    (scratch.root / "tasks.py").write_text(TASKS)
    done = scratch.run("release.prepare", "deploy", "--how", "zero", "clean")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "Not run: clean.")
    assert events(scratch)[-1]["event"] != "chain.failed"


def test_a_stage_inside_a_deploy_keeps_its_code(scratch: InvokeProject) -> None:
    """The usage error of the stage is 2, as on the command line."""
    (scratch.root / "tasks.py").write_text(TASKS)
    assert scratch.run("release.recover", "deploy", "--how", "nested").returncode == 2


def test_a_stage_that_fails_inside_a_deploy_breaks_the_chain(scratch: InvokeProject) -> None:
    """The line says how to roll back, and the audit log has the task."""
    (scratch.root / "tasks.py").write_text(TASKS)
    done = scratch.run("release.prepare", "--release-id", "r1", "deploy", "--how", "nested", "clean")
    snapshot = prepared(scratch)["snapshot"]["snapshotId"]
    said = "deploy ended with exit code 2 of a stage in it."
    assert done.returncode == 2
    assert done.stderr.splitlines()[-3:] == [
        said,
        "Not run: clean.",
        f"Release r1 is prepared. To roll back: inv release.rollback --snapshot {snapshot}",
    ]
    event = events(scratch)[-1]
    assert (event["event"], event["detail"], event["taskExitCode"], event["exitCode"]) == ("chain.failed", said, 2, 2)


def test_a_broken_chain_is_the_last_word_under_github_actions(scratch: InvokeProject) -> None:
    """Annotation, summary and outputs name the task, the release and the command that rolls back."""
    (scratch.root / "tasks.py").write_text(TASKS)
    files = {name: scratch.root / name.lower() for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    for path in files.values():
        path.touch()
    scratch.variables.update({name: str(path) for name, path in files.items()}, GITHUB_ACTIONS="true")
    done = scratch.run("release.prepare", "--release-id", "r1", "deploy", "--how", "code")
    assert done.returncode == 1
    outputs = dict(line.split("=", 1) for line in files["GITHUB_OUTPUT"].read_text().splitlines())
    snapshot = prepared(scratch)["snapshot"]["snapshotId"]
    rollback_command = f"inv release.rollback --snapshot {snapshot}"
    assert (
        f"::error title=command line of deploy%3A failed::deploy ended with exit code 7. Release r1 is prepared. "
        f"To roll back: {rollback_command}" in done.stdout.splitlines()
    )
    assert {name: outputs[name] for name in ("status", "chain", "failed_task", "exit_code", "release_id")} == {
        "status": "failed",
        "chain": "failed",
        "failed_task": "deploy",
        "exit_code": "1",
        "release_id": "r1",
    }
    assert outputs["snapshot_id"] == snapshot
    assert "deploy ended with exit code 7" in files["GITHUB_STEP_SUMMARY"].read_text().replace("&#46;", ".")


def test_a_broken_chain_is_notified(scratch: InvokeProject) -> None:
    """The notification has the task, the reason and the command that rolls back."""
    (scratch.root / "tasks.py").write_text(TASKS)
    scratch.configuration["release"]["notices"] = {"log": {"command": "cat > notice.json", "when": ["failed"]}}
    assert scratch.run("release.prepare", "--release-id", "r1", "deploy", "--how", "code").returncode == 1
    notice = json.loads((scratch.root / "notice.json").read_text())
    snapshot = prepared(scratch)["snapshot"]["snapshotId"]
    assert (notice["occasion"], notice["stage"], notice["releaseId"]) == ("failed", "deploy", "r1")
    assert notice["detail"] == "deploy ended with exit code 7."
    assert notice["next"] == f"inv release.rollback --snapshot {snapshot}"


def shown_until_end(terminal: int) -> bytes:
    """Read what a terminal shows until its last process has closed it."""
    shown = b""
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:
            data = b""
        shown += data
        if not data:
            return shown


def test_ctrl_c_at_a_terminal_reaches_each_process_once(scratch: InvokeProject) -> None:
    """The terminal sends SIGINT to the whole group, and a second one would make some tools give up their work."""
    counter = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, lambda *_: open('signals', 'a').write('INT\\\\n'))\n"
        "open('pids', 'w').write('\\\\n')\n"
        "while not open('signals', 'a+').tell(): time.sleep(0.01)\n"
        "time.sleep(1)\n"
    )
    (scratch.root / "counter.py").write_text(counter.replace("\\\\", "\\"))
    (scratch.root / "tasks.py").write_text(TASKS.replace("ctx.run(TREE)", f"ctx.run('{sys.executable} counter.py')"))
    scratch.write()
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(scratch.root)
        os.execve(sys.executable, [*scratch.command, "release.prepare", "deploy"], scratch.variables)
    try:
        await_file(scratch.root / "pids")
        os.write(terminal, b"\x03")
        shown = shown_until_end(terminal)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130, shown
    finally:
        os.close(terminal)
    assert (scratch.root / "signals").read_text() == "INT\n"
    assert b"deploy was stopped by SIGINT." in shown and b"Traceback" not in shown


# Notes each signal; a process that it started would end at one, and may end first.
HANDLING = """
import signal, subprocess, sys, time

def note(number, _):
    open("signals", "a").write(f"{number}\\n")
    sys.exit(1)

for number in (signal.SIGINT, signal.SIGQUIT):
    signal.signal(number, note)
started = subprocess.Popen(["sleep", "600"])
open("pids", "w").write("\\n")
time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_a_signal_to_inv_alone_at_a_terminal_is_passed_on(scratch: InvokeProject, number: signal.Signals) -> None:
    """The terminal would have sent it to the processes of the deploy, too; `kill -INT` did not."""
    (scratch.root / "handling.py").write_text(HANDLING)
    leaf = f"{sys.executable} handling.py"
    (scratch.root / "tasks.py").write_text(TASKS.replace("ctx.run(TREE)", f"ctx.run({leaf!r})"))
    scratch.write()
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(scratch.root)
        os.execve(sys.executable, [*scratch.command, "release.prepare", "deploy"], scratch.variables)
    try:
        await_file(scratch.root / "pids")
        os.kill(pid, number)
        shown = shown_until_end(terminal)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 128 + number, shown
    finally:
        os.close(terminal)
    assert (scratch.root / "signals").read_text() == f"{number}\n"
    assert b"Traceback" not in shown


@pytest.mark.parametrize("task", ["pipeline", "cleanup"])
@pytest.mark.parametrize("stdin", [subprocess.DEVNULL, subprocess.PIPE])
def test_ctrl_c_in_a_pre_or_post_task_is_130_and_a_sentence(scratch: InvokeProject, task: str, stdin: int) -> None:
    """Whatever stdin is: Invoke would write to the closed input of the command, and end with a traceback."""
    (scratch.root / "tasks.py").write_text(TASKS)
    scratch.write()
    with subprocess.Popen(
        [*scratch.command, task],
        cwd=scratch.root,
        env=scratch.variables,
        stdin=stdin,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        pids = [int(pid) for pid in await_file(scratch.root / "pids").split()]
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        err = process.stderr.read()
    assert process.returncode == 130
    assert "before was stopped by SIGINT." in err.splitlines() and "Traceback" not in err
    await_true(lambda: not any(map(is_running, pids)))


def test_a_terminal_that_closes_stops_a_deploy_and_is_recorded(scratch: InvokeProject) -> None:
    """The kernel sends SIGHUP, and every write to the terminal fails; the event is in the audit log all the same."""
    (scratch.root / "tasks.py").write_text(TASKS)
    scratch.write()
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(scratch.root)
        os.execve(sys.executable, [*scratch.command, "release.prepare", "deploy"], scratch.variables)
    pids = [int(each) for each in await_file(scratch.root / "pids").split()]
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 129
    await_true(lambda: not any(map(is_running, pids)))
    assert prepared(scratch)["status"] == "ready"
    assert [event["detail"] for event in events(scratch) if event["event"] == "chain.failed"] == [
        "deploy was stopped by SIGHUP."
    ]


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_while_release_tasks_starts_has_no_traceback(scratch: InvokeProject, number: signal.Signals) -> None:
    """At any moment: before and after the handlers are in place the process ends by the signal, as any program does."""
    scratch.command = [sys.executable, "-m", "release_tasks"]
    delays = random.Random(f"{SEED} {number}")
    for _ in range(20 if EVERY else 2):
        process = scratch.start("release.status", "--json")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.15 + delays.random() * 0.4)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
        assert process.returncode in (0, 128 + number, -number), err
        # Python itself loads its own modules before the first line of this package.
        assert "Traceback" not in err or "release_tasks/tasks" not in err, err
        if process.returncode == 0:
            json.loads(out)
