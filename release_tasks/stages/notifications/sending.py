"""Delivery of notifications, each in its own thread: started immediately, and awaited at the end of the stage.

A failed delivery does not change the result of the stage: only KeyboardInterrupt and Interrupted are raised here.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Callable
from typing import Any

from attrs import define, field

from release_tasks.archive.pipeline import Pipeline
from release_tasks.config.schema import NotificationConfig, Settings
from release_tasks.core.clock import awake
from release_tasks.core.errors import Interrupted
from release_tasks.core.interrupt import LONGEST_WAIT, next_item, uninterrupted, wait_for
from release_tasks.stages.notifications.notification import (
    Delivery,
    Notification,
    SendAttempt,
    notification_bytes,
    notification_redactor,
)

__all__ = ["FIRST_PAUSE_SECONDS", "LONGEST", "Notices", "Notifications"]

LONGEST = 120.0  # seconds from the event until every attempt is cancelled; no configuration extends it
FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 1.0, 8.0  # seconds before another attempt, doubled each time
_GRACE_PERIOD = 5.0  # seconds for an attempt to end after its timeout


@define(kw_only=True, eq=False)
class _Pending:
    """A notification for one receiver that is not finished yet; it is cancelled at ``deadline`` of the awake clock.

    ``previous`` is the earlier notification for the same receiver: notifications arrive in the order of the events.
    """

    notification: Notification
    name: str
    config: NotificationConfig
    deadline: float
    previous: _Pending | None
    is_finished: threading.Event = field(factory=threading.Event)

    def failed(self, attempts: int, detail: str) -> Delivery:
        return Delivery(name=self.name, status="failed", attempts=attempts, detail=detail)


class Notifications:
    """The notifications of one stage. ``tell`` receives messages for the terminal.

    As a context manager it waits at the end for the deliveries, and cancels them when a signal ends the block.
    """

    def __init__(
        self,
        settings: Settings,
        tell: Callable[[str], None] = lambda message: None,
        *,
        pipeline: Pipeline | None = None,
    ) -> None:
        self._settings = settings
        self._pipeline = pipeline or Pipeline(settings.release.root)
        self._report = tell
        self._cancelled = threading.Event()
        self._pending: list[_Pending] = []
        self._completed: list[tuple[_Pending, Delivery]] = []
        self._results: queue.SimpleQueue[tuple[_Pending, Delivery]] = queue.SimpleQueue()

    def __enter__(self) -> Notifications:
        return self

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        if error is not None and not isinstance(error, Exception):
            self.give_up()
        else:
            self.finish()

    def announce(self, make: Callable[[], Notification | None]) -> None:
        """Start to send the notification that ``make`` returns; returns immediately and does not raise."""
        if not self._settings.release.notices:
            return
        try:
            notification = make()
        except Exception as error:  # a defect in a notification must not fail the stage
            self._show(f"notifications: {type(error).__name__}: {error}")
            return
        for name, config in self._settings.release.notices.items():
            if notification is not None and notification.occasion in config.when:
                deadline = awake.now() + LONGEST
                previous = next((earlier for earlier in reversed(self._pending) if earlier.name == name), None)
                self._start(
                    _Pending(notification=notification, name=name, config=config, deadline=deadline, previous=previous)
                )

    def finish(self) -> list[Delivery]:
        """Wait for the deliveries, write them to the audit log and return them.

        Takes at most LONGEST plus a few seconds after the last event. KeyboardInterrupt and Interrupted cancel the
        deliveries immediately and are re-raised after the audit log is written.
        """
        try:
            if self._pending:
                self._show(f"sending notifications: {', '.join(pending.name for pending in self._pending)}")
            while self._pending:
                self._collect()
        except (KeyboardInterrupt, Interrupted):
            self.give_up()
            raise
        return self._record()

    def give_up(self) -> list[Delivery]:
        """Cancel the deliveries within seconds, write them to the audit log and return them."""
        with uninterrupted():
            self._cancelled.set()
            for pending in self._pending:
                pending.deadline = min(pending.deadline, awake.now())
            while self._pending:
                self._collect()
            return self._record()

    def _start(self, pending: _Pending) -> None:
        self._pending.append(pending)
        try:
            thread = threading.Thread(
                target=self._run, args=(pending,), name=f"notification {pending.name}", daemon=True
            )
            thread.start()
        except RuntimeError as error:  # no more threads
            pending.is_finished.set()
            self._complete(pending, pending.failed(0, str(error)))

    def _run(self, pending: _Pending) -> None:
        try:
            if pending.previous is not None:
                wait_for(pending.previous.is_finished.wait, pending.deadline - awake.now())
            delivery = self._deliver(pending)
        except BaseException as error:  # also SystemExit: without a result the stage would wait for this thread
            delivery = pending.failed(0, f"failed with {type(error).__name__}")
        pending.is_finished.set()
        self._results.put((pending, delivery))

    def _deliver(self, pending: _Pending) -> Delivery:
        """Try until the notification is delivered, or until another attempt is useless or too late."""
        if self._cancelled.is_set():
            return pending.failed(0, "cancelled before it started")
        body = notification_bytes(pending.notification)
        attempts, pause = 0, FIRST_PAUSE_SECONDS
        while True:
            left = pending.deadline - awake.now()
            attempt = self._attempt(pending, body, min(pending.config.timeout, max(left, 0.1)))
            attempts += 1
            if attempt.is_delivered:
                return Delivery(name=pending.name, status="sent", attempts=attempts, detail=attempt.detail)
            is_last = attempt.is_final or attempts > pending.config.retries or self._cancelled.is_set()
            if is_last or awake.now() + pause >= pending.deadline or wait_for(self._cancelled.wait, pause):
                return pending.failed(attempts, attempt.detail)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    def _attempt(self, pending: _Pending, body: bytes, timeout: float) -> SendAttempt:
        config, notification = pending.config, pending.notification
        redactor = notification_redactor(self._settings)
        # Imported here, because `release.recover` as a start gate must not load the HTTP client.
        if config.command is not None:
            from release_tasks.stages.notifications.command import notify_command

            return notify_command(
                config.command,
                body,
                project=self._settings.project,
                log_path=self._pipeline.logs / f"notice-{notification.id}" / f"{pending.name}.log",
                redactor=redactor,
                timeout=timeout,
                cancelled=self._cancelled,
            )
        unset = [name for name in (config.webhook_env, config.hmac_secret_env) if name and not os.environ.get(name)]
        if unset:
            detail = f"missing environment variables: {', '.join(unset)}"
            return SendAttempt(is_delivered=False, detail=detail, is_final=True)
        from release_tasks.stages.notifications.webhook import notify_webhook

        return notify_webhook(
            config.webhook or os.environ[config.webhook_env or ""],
            body,
            notice_id=notification.id,
            time=notification.time,
            secret=os.environ[config.hmac_secret_env] if config.hmac_secret_env else None,
            redactor=redactor,
            timeout=timeout,
            cancelled=self._cancelled,
        )

    def _collect(self) -> None:
        """Wait briefly for the next result; abandon the threads that are past their deadline and grace period."""
        if (result := next_item(self._results, LONGEST_WAIT)) is not None:
            self._complete(*result)
        for pending in [late for late in self._pending if awake.now() > late.deadline + _GRACE_PERIOD]:
            self._complete(pending, pending.failed(1, "did not end within its time limit"))

    def _complete(self, pending: _Pending, delivery: Delivery) -> None:
        if pending in self._pending:  # an abandoned thread may still report a result
            self._completed.append((pending, delivery))
            self._pending.remove(pending)

    def _record(self) -> list[Delivery]:
        """Write each delivery to the audit log and report those that failed."""
        with uninterrupted():
            completed, self._completed = self._completed, []
            for pending, delivery in completed:
                if delivery.status == "failed":
                    attempts = "1 attempt" if delivery.attempts == 1 else f"{delivery.attempts} attempts"
                    self._show(f"notification to {delivery.name} was not delivered ({attempts}): {delivery.detail}")
                notification = pending.notification
                try:
                    self._pipeline.audit.append(
                        f"notice.{delivery.status}",
                        status=delivery.status,
                        detail=delivery.detail,
                        release_id=notification.release_id,
                        snapshot_id=notification.snapshot_id,
                        notice=delivery.name,
                        noticeId=notification.id,
                        occasion=notification.occasion,
                        attempts=delivery.attempts,
                    )
                except Exception as error:
                    self._show(f"notification to {delivery.name}: the audit log cannot be written: {error}")
        return [delivery for _, delivery in completed]

    def _show(self, message: str) -> None:
        with contextlib.suppress(Exception):
            self._report(message)


Notices = Notifications  # the former name, for programs that import it
