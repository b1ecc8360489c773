"""Command lines of the suite in children of one warm interpreter, each with a signal at a chosen step.

Starting Python and loading the suite takes longer than most stages; a child of a process that has loaded it starts in
milliseconds, with the same handlers and descriptors as a new one. A step is one event of a stage in the main thread,
the reading of the settings, or the answer.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from attrs import frozen

__all__ = ["Ended", "ForkedInv"]


@frozen
class Ended:
    """A command line that has ended: its exit code, negative for a signal, its output, and the steps it reached."""

    code: int
    out: str
    err: str
    steps: list[str]


class ForkedInv:
    """A warm interpreter that runs command lines one after the other; use it as a context manager."""

    def __init__(self, variables: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.forked_inv"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=variables,
            cwd=Path(__file__).parents[2],
            text=True,
        )

    def __enter__(self) -> ForkedInv:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)
        self._process.stdout.close()

    def run(
        self,
        project: Path,
        *words: str,
        at: int | None = None,
        signals: tuple[int, ...] = (),
        mark: str = "",
        dies_in_swap: bool = False,
        program: str = "inv",
    ) -> Ended:
        """Run one command line in ``project``; before step ``at`` it gets all of ``signals`` at once.

        ``mark`` is in the environment of all its processes, as FORKED_INV_MARK. With ``dies_in_swap`` it is killed when
        all assets are swapped and the journal still exists.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        request = {
            "project": str(project),
            "words": words,
            "at": at,
            "signals": signals,
            "mark": mark,
            "dies": dies_in_swap,
            "program": program,
        }
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        out, err, steps = ((project / f".{name}").read_text() for name in ("out", "err", "steps"))
        for name in ("out", "err", "steps"):
            (project / f".{name}").unlink()
        return Ended(code, out, err, steps.splitlines())


class _Steps:
    """Counts the steps of one command line, and sends the signals at one of them."""

    def __init__(self, log: Path, at: int | None, signals: list[int]) -> None:
        self._log = log.open("w", buffering=1)
        self._at = at
        self._signals = signals
        self._count = 0

    def reach(self, name: str) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        self._count += 1
        self._log.write(name.replace("\n", " ") + "\n")
        if self._count - 1 == self._at:
            signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)
            for number in self._signals:
                # To this thread: another one could take a signal before the others are sent.
                signal.raise_signal(number)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self._signals)


def _watch(steps: _Steps) -> None:
    """Count the steps of every task."""
    from release_tasks.tasks.session import Session

    progress, answer, settings = Session.progress, Session.answer, vars(Session)["settings"]
    read = settings.func

    @contextlib.contextmanager
    def counted_progress(self: Session) -> Iterator[Callable[[Any], None]]:
        with progress(self) as emit:

            def count(event: Any) -> None:
                if type(event).__name__ not in ("BytesMoved", "HealthAnswered"):
                    steps.reach(f"{type(event).__name__} {getattr(event, 'name', '')}".rstrip())
                emit(event)

            yield count

    def counted_answer(self: Session, *args: Any, **kwargs: Any) -> None:
        steps.reach("answer")
        answer(self, *args, **kwargs)

    def counted_read(self: Session) -> Any:
        steps.reach("settings")
        return read(self)

    settings.func = counted_read
    vars_of: Any = Session
    vars_of.progress, vars_of.answer = counted_progress, counted_answer


def _run(request: dict[str, Any]) -> int:
    """Run one command line in this process, with its output in files of the project."""
    from invoke.main import program as inv

    from release_tasks.tasks.program import main as run_release_tasks

    project = Path(request["project"])
    os.chdir(project)
    os.environ["FORKED_INV_MARK"] = request["mark"]
    for descriptor, name in ((0, os.devnull), (1, ".out"), (2, ".err")):
        opened = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.path.insert(0, str(project))
    _watch(_Steps(project / ".steps", request["at"], request["signals"]))
    if request["dies"]:
        from release_tasks.stages.rollback.recorder import Recorder

        recorder: Any = Recorder
        recorder.mark_restored = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
    sys.argv = [request["program"], *request["words"]]
    try:
        {"inv": inv.run, "release-tasks": run_release_tasks}[request["program"]]()
    except SystemExit as stop:
        sys.stdout.flush()
        sys.stderr.flush()
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    sys.stdout.flush()
    return 0


def main() -> None:
    """Run a command line for each line of stdin, and answer with its exit code."""
    import invoke.main  # noqa: F401
    import psutil  # noqa: F401

    import release_tasks.api
    import release_tasks.report.answers
    import release_tasks.report.display
    import release_tasks.report.html.page
    import release_tasks.report.status
    import release_tasks.service.connection
    import release_tasks.tasks.executor.broken
    import release_tasks.tasks.program
    import release_tasks.tasks.suite

    release_tasks.tasks.suite.suite()
    for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            code = 70
            try:
                code = _run(json.loads(line))
            except BaseException:
                import traceback

                traceback.print_exc()
                sys.stderr.flush()
            finally:
                os._exit(code)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
