"""The frame of every task: signals, exit codes, and one answer, as a JSON document or for people."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from invoke import Context, Exit

from release_tasks.core.errors import ExitCode, Interrupted, StageError, describe_error
from release_tasks.core.interrupt import interruptible
from release_tasks.core.runner import escape_commands_in_json, is_github_actions
from release_tasks.tasks.executor import UsageExit

if TYPE_CHECKING:
    from release_tasks.archive.pipeline import Pipeline
    from release_tasks.config.schema import Settings
    from release_tasks.core.events import Emit
    from release_tasks.report.screen import Screen
    from release_tasks.stages.notifications.sending import Notifications

__all__ = ["Session", "session"]


class Session:
    """One running task: its settings, its screen, and its one answer."""

    def __init__(self, ctx: Context, as_json: bool) -> None:
        self.ctx = ctx
        self.as_json = as_json
        self.is_dry = bool(ctx.config.run.dry)  # Invoke's own --dry only affects ``ctx.run``
        self.exit_code = ExitCode.DONE
        self._answer: dict[str, Any] | None = None

    @functools.cached_property
    def settings(self) -> Settings:
        """The checked configuration; raises ConfigError."""
        from release_tasks.tasks.project import settings_of

        return settings_of(self.ctx)

    @functools.cached_property
    def pipeline(self) -> Pipeline:
        """The pipeline folder of this project."""
        from release_tasks.archive.pipeline import Pipeline

        return Pipeline(self.settings.release.root)

    @functools.cached_property
    def screen(self) -> Screen:
        """The output for people; with ``--json`` all of it goes to stderr."""
        from release_tasks.report.screen import Screen

        return Screen(sys.stderr if self.as_json else sys.stdout)

    @contextlib.contextmanager
    def progress(self) -> Iterator[Emit]:
        """Show the events of a stage on stderr while the block runs."""
        from release_tasks.report.display import display_for

        with display_for(self.screen, answers_here=not self.as_json) as display:
            yield display

    @functools.cached_property
    def notifications(self) -> Notifications:
        """The notifications of the stage; the task waits for them after its answer."""
        from release_tasks.stages.notifications.sending import Notifications

        return Notifications(self.settings, self.screen.step, pipeline=self.pipeline)

    def answer(self, document: object, show: Callable[[Screen], None] | None = None, **first: Any) -> None:
        """Answer with the keys of ``first``, then ``document``: a record or JSON values, printed when the task ends.

        Without ``--json``, ``show`` writes the answer for people immediately.
        """
        from release_tasks.core.codec import encode

        self._answer = {**first, **(document if isinstance(document, dict) else encode(document))}
        if show is not None and not self.as_json:
            show(self.screen)

    def print_document(self) -> None:
        """Print the document; stdout must not be redirected any more."""
        if self.as_json and self._answer is not None:
            from release_tasks.core.canonical import canonical_bytes, pretty_bytes

            text = pretty_bytes(self._answer).decode()
            try:
                text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
            except UnicodeEncodeError:  # JSON can escape every character in ASCII
                text = canonical_bytes(self._answer).decode() + "\n"
            sys.stdout.write(escape_commands_in_json(text))
            sys.stdout.flush()

    def report_to_runner(self) -> None:
        """Report the answer to the runner of GitHub Actions, if there is one."""
        if is_github_actions() and self._answer is not None and not self.is_dry:
            from release_tasks.report.github import report_to_github
            from release_tasks.report.screen import error_tolerant

            stream = error_tolerant(sys.stderr) if self.as_json else sys.stdout
            report_to_github(self._answer, int(self.exit_code), stream, os.environ)

    def fail_unless(self, is_good: bool) -> None:
        """Set exit code 1 for a negative verdict."""
        if not is_good:
            self.exit_code = ExitCode.NEGATIVE


@contextlib.contextmanager
def session(ctx: Context, as_json: bool = False) -> Iterator[Session]:
    """Run one task: turn errors into one message, one document and the documented exit code.

    Raises invoke.Exit with a nonzero code for every error that an operator or a service can cause; its traceback is
    shown only when INVOKE_DEBUG is set. Exceptions from defects of this package are not caught.
    """
    current = Session(ctx, as_json)
    exit_: Exit | None = None
    try:
        with interruptible(), _stdout_reserved() if as_json else contextlib.nullcontext():
            yield current
        current.print_document()
        current.report_to_runner()
    except UsageExit:
        raise
    except StageError as error:
        exit_ = _error_exit(current, error.exit_code, error.message)
    except (Interrupted, KeyboardInterrupt) as error:
        if "notifications" in vars(current):
            current.notifications.give_up()
        exit_ = _error_exit(current, _code_of(error), "Interrupted; nothing is left half-done.")
    except BrokenPipeError:
        # The reader of stdout has exited. Redirect stdout, or Python would report an error at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        exit_ = Exit(code=int(current.exit_code))
    except OSError as error:
        exit_ = _error_exit(current, ExitCode.NEGATIVE, describe_error(error))
    if exit_ is None and current.exit_code is not ExitCode.DONE:
        exit_ = Exit(code=int(current.exit_code))
    try:
        if "notifications" in vars(current):
            with interruptible():
                current.notifications.finish()
    except (Interrupted, KeyboardInterrupt) as error:
        # The result is final, but nothing may follow an interrupted run, such as a deploy after a prepare.
        message = "Interrupted while notifications were sent; the result above is final."
        exit_ = exit_ or Exit(message=message, code=int(_code_of(error)))
    if exit_ is not None:
        raise exit_


def _code_of(error: Interrupted | KeyboardInterrupt) -> ExitCode:
    return error.exit_code if isinstance(error, Interrupted) else ExitCode.SIGINT


@contextlib.contextmanager
def _stdout_reserved() -> Iterator[None]:
    """Redirect stdout to stderr, for Python code, C libraries and child processes alike.

    With ``--json`` stdout must contain only the document, although a plugin may print.
    """
    with contextlib.ExitStack() as undo:
        with contextlib.suppress(OSError, ValueError):  # a stream that is not a file has no descriptor
            stdout, stderr = sys.stdout.fileno(), sys.stderr.fileno()
            sys.stdout.flush()
            kept = os.dup(stdout)
            undo.callback(os.close, kept)
            undo.callback(os.dup2, kept, stdout)
            os.dup2(stderr, stdout)
        undo.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield


def _error_exit(current: Session, code: ExitCode, message: str) -> Exit:
    if os.environ.get("INVOKE_DEBUG"):
        traceback.print_exc()
    current.exit_code = code
    current.answer({"status": "error", "exitCode": int(code), "message": message})
    current.print_document()
    with contextlib.suppress(BrokenPipeError):
        current.report_to_runner()
    from release_tasks.report.screen import wrapped_for_stderr

    return Exit(message=wrapped_for_stderr(message, os.environ), code=int(code))
