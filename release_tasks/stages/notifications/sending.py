"""Notices on their way, each in a thread of its own: they are begun at once and waited for when the stage is done.

Whatever happens to them, the stage's result stands: nothing here raises but the signal that asks a run to stop.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from attrs import define, field

from release_tasks.archive.pipeline import Pipeline
from release_tasks.config.schema import NotificationConfig, Settings
from release_tasks.core.errors import Interrupted
from release_tasks.core.interrupt import LONGEST_WAIT, next_item, uninterrupted
from release_tasks.stages.notifications.notification import (
    Delivery,
    Notification,
    SendAttempt,
    notification_bytes,
    notification_redactor,
)

__all__ = ["LONGEST", "Notices", "Notifications"]

LONGEST = 120.0  # seconds from the occasion until everything about it is given up, whatever is configured
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 8.0  # seconds before another attempt, doubled each time
_LONGEST_END = 5.0  # seconds that an attempt may take to end once its time is over


@define(kw_only=True, eq=False)
class _Sending:
    """A notice on its way to one receiver, given up at ``until`` (monotonic seconds).

    ``before`` is what the same receiver is told first: what happened first must not arrive last.
    """

    notice: Notification
    name: str
    config: NotificationConfig
    until: float
    before: _Sending | None
    is_over: threading.Event = field(factory=threading.Event)

    def failed(self, attempts: int, detail: str) -> Delivery:
        return Delivery(name=self.name, status="failed", attempts=attempts, detail=detail)


class Notifications:
    """The notices of one run of a stage. ``tell`` is given a sentence for whoever looks on.

    As a context it waits at its end, and gives up what is on its way when a signal ends it.
    """

    def __init__(
        self,
        settings: Settings,
        tell: Callable[[str], None] = lambda sentence: None,
        *,
        pipeline: Pipeline | None = None,
    ) -> None:
        self._settings = settings
        self._pipeline = pipeline or Pipeline(settings.release.root)
        self._tell = tell
        self._cancelled = threading.Event()
        self._under_way: list[_Sending] = []
        self._done: list[tuple[_Sending, Delivery]] = []
        self._results: queue.SimpleQueue[tuple[_Sending, Delivery]] = queue.SimpleQueue()

    def __enter__(self) -> Notifications:
        return self

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        if error is not None and not isinstance(error, Exception):
            self.give_up()
        else:
            self.finish()

    def announce(self, make: Callable[[], Notification | None]) -> None:
        """Begin to send what ``make`` returns to everybody who wants to know. Returns at once and raises nothing."""
        if not self._settings.release.notices:
            return
        try:
            notice = make()
        except Exception as error:  # of a defect here the stage must not learn either
            self._say(f"notices: {type(error).__name__}: {error}")
            return
        for name, config in self._settings.release.notices.items():
            if notice is not None and notice.occasion in config.when:
                until = time.monotonic() + LONGEST
                before = next((earlier for earlier in reversed(self._under_way) if earlier.name == name), None)
                self._start(_Sending(notice=notice, name=name, config=config, until=until, before=before))

    def finish(self) -> list[Delivery]:
        """Wait for what is on its way, write down what became of it and return that.

        Takes no longer than LONGEST after the last occasion, and some seconds. KeyboardInterrupt and Interrupted end
        it at once, and go on their way when all is written down.
        """
        try:
            if self._under_way:
                self._say(f"notices: {', '.join(sending.name for sending in self._under_way)}")
            while self._under_way:
                self._look()
        except (KeyboardInterrupt, Interrupted):
            self.give_up()
            raise
        return self._settle()

    def give_up(self) -> list[Delivery]:
        """End what is on its way, within seconds, write that down and return it."""
        with uninterrupted():
            self._cancelled.set()
            for sending in self._under_way:
                sending.until = min(sending.until, time.monotonic())
            while self._under_way:
                self._look()
            return self._settle()

    def _start(self, sending: _Sending) -> None:
        self._under_way.append(sending)
        try:
            threading.Thread(target=self._work, args=(sending,), name=f"notice {sending.name}", daemon=True).start()
        except RuntimeError as error:  # no more threads
            sending.is_over.set()
            self._end(sending, sending.failed(0, str(error)))

    def _work(self, sending: _Sending) -> None:
        try:
            if sending.before is not None:
                sending.before.is_over.wait(max(sending.until - time.monotonic(), 0.0))
            delivery = self._deliver(sending)
        except BaseException as error:  # also SystemExit: nobody would be told that this thread is gone
            delivery = sending.failed(0, f"broke: {type(error).__name__}")
        sending.is_over.set()
        self._results.put((sending, delivery))

    def _deliver(self, sending: _Sending) -> Delivery:
        """Try until it is delivered, or another attempt would be in vain or too late."""
        if self._cancelled.is_set():
            return sending.failed(0, "stopped before it began")
        body = notification_bytes(sending.notice)
        attempts, pause = 0, _FIRST_PAUSE
        while True:
            left = sending.until - time.monotonic()
            attempt = self._attempt(sending, body, min(sending.config.timeout, max(left, 0.1)))
            attempts += 1
            if attempt.is_delivered:
                return Delivery(name=sending.name, status="sent", attempts=attempts, detail=attempt.detail)
            is_last = attempt.is_final or attempts > sending.config.retries or self._cancelled.is_set()
            if is_last or time.monotonic() + pause >= sending.until or self._cancelled.wait(pause):
                return sending.failed(attempts, attempt.detail)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _attempt(self, sending: _Sending, body: bytes, timeout: float) -> SendAttempt:
        config, notice = sending.config, sending.notice
        redactor = notification_redactor(self._settings)
        # Imported where they are needed: the start gate of a service does not wait for a library that speaks HTTP.
        if config.command is not None:
            from release_tasks.stages.notifications.command import tell_command

            return tell_command(
                config.command,
                body,
                project=self._settings.project,
                log_path=self._pipeline.logs / f"notice-{notice.id}" / f"{sending.name}.log",
                redactor=redactor,
                timeout=timeout,
                cancelled=self._cancelled,
            )
        unset = [name for name in (config.webhook_env, config.hmac_secret_env) if name and not os.environ.get(name)]
        if unset:
            detail = f"not set in this environment: {', '.join(unset)}"
            return SendAttempt(is_delivered=False, detail=detail, is_final=True)
        from release_tasks.stages.notifications.webhook import tell_webhook

        return tell_webhook(
            config.webhook or os.environ[config.webhook_env or ""],
            body,
            notice_id=notice.id,
            time=notice.time,
            secret=os.environ[config.hmac_secret_env] if config.hmac_secret_env else None,
            redactor=redactor,
            timeout=timeout,
            cancelled=self._cancelled,
        )

    def _look(self) -> None:
        """Wait a moment for the next one to end; what outlives its time is left to itself."""
        if (ended := next_item(self._results, LONGEST_WAIT)) is not None:
            self._end(*ended)
        for sending in [late for late in self._under_way if time.monotonic() > late.until + _LONGEST_END]:
            self._end(sending, sending.failed(1, "never ended, given up"))

    def _end(self, sending: _Sending, delivery: Delivery) -> None:
        if sending in self._under_way:  # what was given up may still have a result
            self._done.append((sending, delivery))
            self._under_way.remove(sending)

    def _settle(self) -> list[Delivery]:
        """Write each delivery into the audit log and tell of those that failed."""
        with uninterrupted():
            settled, self._done = self._done, []
            for sending, delivery in settled:
                if delivery.status == "failed":
                    tried = "1 attempt" if delivery.attempts == 1 else f"{delivery.attempts} attempts"
                    self._say(f"notice {delivery.name} was not delivered ({tried}): {delivery.detail}")
                notice = sending.notice
                try:
                    self._pipeline.audit.append(
                        f"notice.{delivery.status}",
                        status=delivery.status,
                        detail=delivery.detail,
                        release_id=notice.release_id,
                        snapshot_id=notice.snapshot_id,
                        notice=delivery.name,
                        noticeId=notice.id,
                        occasion=notice.occasion,
                        attempts=delivery.attempts,
                    )
                except Exception as error:
                    self._say(f"notice {delivery.name}: the audit log could not be written: {error}")
        return [delivery for _, delivery in settled]

    def _say(self, sentence: str) -> None:
        with contextlib.suppress(Exception):
            self._tell(sentence)


Notices = Notifications  # the former name, for programs that import it
