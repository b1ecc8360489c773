"""What every task does around its stage: signals, exit codes, one JSON document or a readable answer."""

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
    """One task at work: its settings, what a person follows it on, and its one answer."""

    def __init__(self, ctx: Context, as_json: bool) -> None:
        self.ctx = ctx
        self.as_json = as_json
        self.is_dry = bool(ctx.config.run.dry)  # Invoke itself only silences ``ctx.run`` then
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
        """Where a person reads along; with ``--json`` all of it goes to stderr."""
        from release_tasks.report.screen import Screen

        return Screen(sys.stderr if self.as_json else sys.stdout)

    @contextlib.contextmanager
    def progress(self) -> Iterator[Emit]:
        """Show on stderr what a stage tells while the block runs; what comes after it is written below."""
        from release_tasks.report.display import display_for

        with display_for(self.screen) as display:
            yield display

    @functools.cached_property
    def notices(self) -> Notifications:
        """What the stage announces with; the task waits for it once its own answer is given."""
        from release_tasks.stages.notifications.sending import Notifications

        return Notifications(self.settings, self.screen.step, pipeline=self.pipeline)

    def answer(self, document: object, show: Callable[[Screen], None] | None = None, **first: Any) -> None:
        """Answer with ``document``, a record or JSON values, after the keys of ``first``: printed when the task ends.

        Without ``--json`` a person reads at once what ``show`` writes.
        """
        from release_tasks.core.codec import encode

        self._answer = {**first, **(document if isinstance(document, dict) else encode(document))}
        if show is not None and not self.as_json:
            show(self.screen)

    def print_document(self) -> None:
        """Print it; stdout must be the task's own again."""
        if self.as_json and self._answer is not None:
            from release_tasks.core.canonical import canonical_bytes, pretty_bytes

            text = pretty_bytes(self._answer).decode()
            try:
                text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
            except UnicodeEncodeError:  # JSON can spell every letter in ASCII
                text = canonical_bytes(self._answer).decode() + "\n"
            sys.stdout.write(escape_commands_in_json(text))
            sys.stdout.flush()

    def tell_runner(self) -> None:
        """Tell the runner of GitHub Actions, where one listens, how it ended."""
        if is_github_actions() and self._answer is not None and not self.is_dry:
            from release_tasks.report.github import tell_github
            from release_tasks.report.screen import unfailing

            stream = unfailing(sys.stderr) if self.as_json else sys.stdout
            tell_github(self._answer, int(self.exit_code), stream, os.environ)

    def fail_unless(self, is_good: bool) -> None:
        """End with 1 when the verdict is negative, once everything is shown."""
        if not is_good:
            self.exit_code = ExitCode.NEGATIVE


@contextlib.contextmanager
def session(ctx: Context, as_json: bool = False) -> Iterator[Session]:
    """Run one task: turn what can go wrong into a sentence, one document and the documented exit code.

    Raises invoke.Exit with a code other than 0 for everything an operator or a service can cause; a traceback of
    it is shown only with INVOKE_DEBUG set. Defects of this package come through as they are.
    """
    current = Session(ctx, as_json)
    ended: Exit | None = None
    try:
        with interruptible(), _stdout_kept_free() if as_json else contextlib.nullcontext():
            yield current
        current.print_document()
        current.tell_runner()
    except UsageExit:
        raise
    except StageError as error:
        ended = _ended(current, error.exit_code, error.message)
    except (Interrupted, KeyboardInterrupt) as error:
        if "notices" in vars(current):
            current.notices.give_up()
        ended = _ended(current, _code_of(error), "Interrupted; nothing is left half-done.")
    except BrokenPipeError:
        # The reader of our output went away; pointing stdout elsewhere keeps Python from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        ended = Exit(code=int(current.exit_code))
    except OSError as error:
        ended = _ended(current, ExitCode.NEGATIVE, describe_error(error))
    if ended is None and current.exit_code is not ExitCode.DONE:
        ended = Exit(code=int(current.exit_code))
    try:
        if "notices" in vars(current):
            with interruptible():
                current.notices.finish()
    except (Interrupted, KeyboardInterrupt) as error:
        # The result stands, but nothing may go on after a run that was stopped, such as a deploy after a prepare.
        sentence = "Interrupted while notices were sent; the result above stands."
        ended = ended or Exit(message=sentence, code=int(_code_of(error)))
    if ended is not None:
        raise ended


def _code_of(error: Interrupted | KeyboardInterrupt) -> ExitCode:
    return error.exit_code if isinstance(error, Interrupted) else ExitCode.SIGINT


@contextlib.contextmanager
def _stdout_kept_free() -> Iterator[None]:
    """Send to stderr whatever a plugin prints, also below Python or in a process of its own.

    With ``--json`` stdout belongs to the document alone.
    """
    with contextlib.ExitStack() as undo:
        with contextlib.suppress(OSError, ValueError):  # a stream that is no file has no number
            stdout, stderr = sys.stdout.fileno(), sys.stderr.fileno()
            sys.stdout.flush()
            kept = os.dup(stdout)
            undo.callback(os.close, kept)
            undo.callback(os.dup2, kept, stdout)
            os.dup2(stderr, stdout)
        undo.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield


def _ended(current: Session, code: ExitCode, message: str) -> Exit:
    if os.environ.get("INVOKE_DEBUG"):
        traceback.print_exc()
    current.exit_code = code
    current.answer({"status": "error", "exitCode": int(code), "message": message})
    current.print_document()
    with contextlib.suppress(BrokenPipeError):
        current.tell_runner()
    from release_tasks.report.screen import for_person

    return Exit(message=for_person(message, os.environ), code=int(code))
