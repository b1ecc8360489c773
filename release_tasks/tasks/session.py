"""The frame of every task: signals, exit codes, and one answer, as a JSON document or for people."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from invoke import Context

from release_tasks.core.errors import ExitCode, Interrupted, StageError, describe_error
from release_tasks.core.interrupt import interruptible, uninterrupted
from release_tasks.core.printable import one_line
from release_tasks.core.runner import escape_commands_in_json, is_github_actions
from release_tasks.core.streams import error_tolerant, open_standard_streams
from release_tasks.core.typed import typed_as
from release_tasks.tasks.executor import StageExit, UsageExit
from release_tasks.tasks.executor.form import form_of_run

if TYPE_CHECKING:
    from release_tasks.archive.pipeline import Pipeline
    from release_tasks.config.schema import Settings
    from release_tasks.core.events import Emit
    from release_tasks.report.screen import Screen
    from release_tasks.stages.notifications.sending import Notifications

__all__ = ["Session", "session"]

# The keys of sentences, which may quote others. `jq -r` writes them to a terminal as they are.
_SENTENCES = frozenset(
    {"commands", "detail", "diagnostics", "meaning", "message", "next", "notes", "problem", "problems", "proofProblem"}
    | {"reason", "reasons", "why"}
)

Failure = StageError | OSError | Interrupted | KeyboardInterrupt


class Session:
    """One running task: its settings, its screen, and its one answer."""

    def __init__(self, ctx: Context, as_json: bool) -> None:
        self.ctx = ctx
        self.as_json = as_json
        self.is_dry = bool(ctx.config.run.dry)  # Invoke's own --dry only affects ``ctx.run``
        self.exit_code = ExitCode.DONE
        self._is_concluded = False
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

        Sentences in it become one printable line each, without secrets; ids, names, times and statuses are exact.

        Without ``--json``, ``show`` writes the answer for people immediately.
        """
        from release_tasks.core.codec import encode
        from release_tasks.core.exact import document_without_secrets

        values = {**first, **(document if isinstance(document, dict) else encode(document))}
        self._answer = _with_printable_sentences(document_without_secrets(values))
        if show is not None and not self.as_json:
            show(self.screen)

    def conclude(self, failure: Failure | None) -> None:
        """Print the document and report to the runner; a ``failure`` of the stage becomes the answer.

        stdout must not be redirected any more. A reader or a terminal that is gone changes no result.
        """
        self._is_concluded = True
        if failure is not None:
            self._fail(failure)
        self._print_document()
        self._report_to_runner()

    def await_notifications(self) -> None:
        """Wait until the notifications of the stage are delivered; raises Interrupted."""
        if "notifications" in vars(self):
            self.notifications.finish()

    def interrupt(self, error: Interrupted | KeyboardInterrupt) -> None:
        """End a task that a signal interrupted outside of its stage: the result is final if there is one."""
        if not self._is_concluded:
            self.conclude(error)
        elif self.exit_code is ExitCode.DONE:
            self.exit_code = _code_of(error)
            self._say(f"Interrupted by {self.exit_code.name}; the result above is final.")
        if "notifications" in vars(self):
            self.notifications.give_up()

    def _fail(self, failure: Failure) -> None:
        if os.environ.get("INVOKE_DEBUG"):
            traceback.print_exception(failure)
        if isinstance(failure, (Interrupted, KeyboardInterrupt)):
            self.exit_code = _code_of(failure)
            detail = failure.detail if isinstance(failure, Interrupted) else ""
            message = f"Interrupted by {self.exit_code.name}; nothing is left half-done. {detail}".rstrip()
            if "notifications" in vars(self):
                self.notifications.give_up()
        else:
            self.exit_code = failure.exit_code if isinstance(failure, StageError) else ExitCode.NEGATIVE
            message = describe_error(failure)
        self.answer({"status": "error", "exitCode": int(self.exit_code), "message": message})
        self._say(message)

    def _say(self, message: str) -> None:
        """Write a message to stderr; not by Invoke, which fails when the terminal is gone."""
        from release_tasks.report.screen import wrapped_for_stderr

        print(wrapped_for_stderr(message, os.environ), file=error_tolerant(sys.stderr), flush=True)

    def _print_document(self) -> None:
        if self.as_json and self._answer is not None:
            from release_tasks.core.canonical import canonical_bytes, pretty_bytes

            text = pretty_bytes(self._answer).decode()
            try:
                text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
            except UnicodeEncodeError:  # JSON can escape every character in ASCII
                text = canonical_bytes(self._answer).decode() + "\n"
            stdout = error_tolerant(sys.stdout)
            stdout.write(escape_commands_in_json(text))
            stdout.flush()

    def _report_to_runner(self) -> None:
        if is_github_actions() and self._answer is not None and not self.is_dry:
            from release_tasks.report.github import report_to_github

            stream = error_tolerant(sys.stderr if self.as_json else sys.stdout)
            report_to_github(self._answer, int(self.exit_code), stream, os.environ)

    def fail_unless(self, is_good: bool) -> None:
        """Set exit code 1 for a negative verdict."""
        if not is_good:
            self.exit_code = ExitCode.NEGATIVE


@contextlib.contextmanager
def session(ctx: Context, as_json: bool = False) -> Iterator[Session]:
    """Run one task: turn errors into one message, one document and the documented exit code.

    Raises StageExit with a nonzero code for every error that an operator or a service can cause; its traceback is
    shown only when INVOKE_DEBUG is set. Exceptions from defects of this package are not caught.
    """
    open_standard_streams()
    with typed_as(form_of_run()), _concluded(Session(ctx, as_json)) as current:
        yield current


@contextlib.contextmanager
def _concluded(current: Session) -> Iterator[Session]:
    failure: Failure | None = None
    try:
        with interruptible():
            try:
                with _stdout_reserved() if current.as_json else contextlib.nullcontext():
                    yield current
            except UsageExit:
                raise
            except (StageError, OSError, Interrupted, KeyboardInterrupt) as error:
                failure = error
            with uninterrupted():
                current.conclude(failure)
            current.await_notifications()
    except (Interrupted, KeyboardInterrupt) as error:
        # Nothing may follow an interrupted run, such as a deploy after a prepare.
        with uninterrupted():
            current.interrupt(error)
    if current.exit_code is not ExitCode.DONE:
        raise StageExit(code=int(current.exit_code))


def _with_printable_sentences(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        # The events of a log stay exact: their hashes cover every character.
        return {k: inner if k == "events" else _with_printable_sentences(inner, k) for k, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_printable_sentences(inner, key) for inner in value]
    return one_line(value) if isinstance(value, str) and key in _SENTENCES else value


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
