"""The dispatcher: a child process of the service that delivers messages from the queue.

    python -m release_tasks.gateway.dispatcher --root FOLDER

A message is delivered to the channel of its recipient, to the URL in gateway.json, or to the outbox file.

The process writes a JSON line to stdout for each heartbeat, wakes up for each line on stdin, and ends when stdin is
closed. The kernel closes that pipe when the service ends, even after a kill, so no dispatcher outlives its service.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from release_tasks.config.gateway import DELIVERY_TOKENS, child_environment
from release_tasks.core.clock import timestamp
from release_tasks.core.process.python import module_line
from release_tasks.gateway.channels import Call, channel_call
from release_tasks.gateway.errors import GatewayError, SettingsError, StoreError
from release_tasks.gateway.logs import begin_log
from release_tasks.gateway.paths import GatewayPaths
from release_tasks.gateway.settings import GatewaySettings, read_settings
from release_tasks.gateway.store import MAX_PAUSE_SECONDS, ClaimedMessage, MessageStore

__all__ = ["DeliveryError", "Dispatcher", "Worker", "deliver", "main"]

_LOG = logging.getLogger("gateway.dispatcher")
_HEARTBEAT_SECONDS = 1.0
# Grace period for the current delivery after the service ended.
_LAST_DELIVERY_SECONDS = 1.0
# Longer than one heartbeat, one delivery (10 s) and one wait for the database (10 s).
_HEARTBEAT_TIMEOUT_SECONDS = 25.0
_PAUSE_SECONDS = 5.0  # a shorter pause, as during a restore, is not a problem
_KILL_SECONDS = 0.5


class DeliveryError(GatewayError):
    """The target did not accept the message; another attempt is possible."""


def deliver(delivery: ClaimedMessage, settings: GatewaySettings, outbox: Path) -> None:
    """Deliver one message; raises DeliveryError when the target did not accept it.

    A message to a sender uses the API of the channel if the token is in the environment. Every other message, and every
    inbound message, goes to the delivery URL or to the outbox.
    """
    call = channel_call(delivery.channel, delivery.to, delivery.text, settings)
    if call is not None:
        _post(call, settings.delivery_timeout)
        return
    message = {
        "id": delivery.id,
        "channel": delivery.channel,
        "to": delivery.to,
        "text": delivery.text,
        "attempt": delivery.attempt,
        "sentAt": timestamp(),
    }
    if settings.delivery_url is None:
        _append(outbox, message)
    else:
        headers = {"Idempotency-Key": delivery.id}
        _post(Call("the delivery URL", settings.delivery_url, message, headers), settings.delivery_timeout)


def _append(outbox: Path, message: dict[str, Any]) -> None:
    line = json.dumps(message).encode() + b"\n"
    try:
        fd = os.open(outbox, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(fd).st_size
            if size and os.pread(fd, 1, size - 1) != b"\n":
                line = b"\n" + line  # a crash left an incomplete last line
            if os.write(fd, line) != len(line):
                raise DeliveryError(f"{outbox.name}: the disk is full")
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise DeliveryError(f"{outbox.name}: {error.strerror}") from error


def _post(call: Call, timeout: float) -> None:
    import requests

    try:
        response = requests.post(
            call.url, json=call.body, headers=call.headers, timeout=timeout, allow_redirects=False, stream=True
        )
    except requests.RequestException as error:
        raise DeliveryError(f"{type(error).__name__} at {call.name}") from None  # the text may contain a token
    with contextlib.closing(response):
        if not 200 <= response.status_code < 300:
            raise DeliveryError(f"{call.name} responded with HTTP {response.status_code}")


class Dispatcher:
    """Claims due deliveries one by one, delivers each and records the result.

    A message is delivered at least once: if a worker dies between the delivery and its record, the next worker delivers
    the message again. Receivers recognise a duplicate by the message id.
    """

    def __init__(self, paths: GatewayPaths) -> None:
        self._paths = paths
        self._store = MessageStore(paths.database)
        self._worker = secrets.token_hex(8)
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._problem: str | None = None
        self._last_heartbeat = 0.0

    def run(self) -> None:
        """Deliver until ``stop``. A problem with the database or the settings is reported and retried."""
        pause = 0.0
        while not self._stopping.is_set():
            self._wake.wait(pause)
            self._wake.clear()
            pause = self._run_once()
        self._store.close()

    def wake(self) -> None:
        """Check the queue immediately."""
        self._wake.set()

    def stop(self) -> None:
        """End ``run`` after the current delivery."""
        self._stopping.set()
        self._wake.set()

    def _run_once(self) -> float:
        """Deliver one message if one is due; return the seconds to wait before the next call."""
        try:
            # Read each time: a rollback may have replaced gateway.json. If it cannot be read, nothing is delivered,
            # because the default target may be wrong.
            settings = read_settings(self._paths.settings)
            delivery = self._store.claim(self._worker)
            if delivery is not None:
                self._deliver(delivery, settings)
            self._send_heartbeat(None)
            return 0.0 if delivery is not None else min(settings.poll, _HEARTBEAT_SECONDS)
        except (SettingsError, StoreError) as error:
            self._send_heartbeat(error.message)
            return _HEARTBEAT_SECONDS

    def _deliver(self, delivery: ClaimedMessage, settings: GatewaySettings) -> None:
        try:
            deliver(delivery, settings, self._paths.outbox)
        except DeliveryError as error:
            _LOG.warning(
                "%s: attempt %d of %d failed: %s", delivery.id, delivery.attempt, settings.max_attempts, error.message
            )
            state = "dead" if delivery.attempt >= settings.max_attempts else "failed"
            pause = min(settings.backoff * 2 ** min(delivery.attempt - 1, 16), MAX_PAUSE_SECONDS)
            self._store.record_result(delivery, self._worker, state, error=error.message, pause=pause)
        else:
            self._store.record_result(delivery, self._worker, "sent")

    def _send_heartbeat(self, problem: str | None) -> None:
        now = time.monotonic()
        if problem == self._problem and now - self._last_heartbeat < _HEARTBEAT_SECONDS * 0.9:
            return
        if problem is not None and problem != self._problem:
            _LOG.warning("delivery is paused: %s", problem)
        self._problem, self._last_heartbeat = problem, now
        sys.stdout.write(json.dumps({"heartbeat": time.time(), "problem": problem}) + "\n")
        sys.stdout.flush()


class Worker:
    """The process of the dispatcher. It is started once; health reports if it ended."""

    def __init__(self, paths: GatewayPaths) -> None:
        self._paths = paths
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._last_heartbeat: float | None = None
        self._problem: str | None = None
        self._paused_since: float | None = None

    def start(self) -> None:
        """Start the process; its log output goes to the log of the service."""
        command = module_line("release_tasks.gateway.dispatcher", "--root", str(self._paths.root))
        environment = child_environment(DELIVERY_TOKENS)
        self._started = time.monotonic()
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        assert self._process.stdin is not None
        # A suspended worker (SIGSTOP) must not block the request that wakes it.
        os.set_blocking(self._process.stdin.fileno(), False)
        threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()

    def wake(self) -> None:
        """Tell a running worker to check the queue."""
        process = self._process
        if process is not None and process.stdin is not None and process.poll() is None:
            with contextlib.suppress(OSError, ValueError):
                os.write(process.stdin.fileno(), b"\n")

    def state(self) -> dict[str, Any]:
        """Return the state for the health response; ``lastBeatSec`` is the age of the last heartbeat.

        ``paused`` means that the worker has delivered nothing for some time because of the problem in ``detail``.
        """
        process = self._process
        now = time.monotonic()
        is_running, detail = False, self._problem
        if process is None:
            detail = "not started"
        elif (code := process.poll()) is not None:
            detail = f"the process ended with {f'signal {-code}' if code < 0 else f'exit code {code}'}"
        elif now - (self._last_heartbeat or self._started) > _HEARTBEAT_TIMEOUT_SECONDS:
            detail = f"no heartbeat for {_HEARTBEAT_TIMEOUT_SECONDS:.0f} s"
        else:
            is_running = True
        return {
            "running": is_running,
            "pid": None if process is None else process.pid,
            "lastBeatSec": None if self._last_heartbeat is None else round(now - self._last_heartbeat, 3),
            "paused": is_running and self._paused_since is not None and now - self._paused_since > _PAUSE_SECONDS,
            "detail": detail,
        }

    def stop(self) -> None:
        """Stop the worker; it is killed if the current delivery does not end within the grace period."""
        process = self._process
        if process is None:
            return
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.close()  # the worker ends at the end of its input
        try:
            process.wait(_KILL_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                with contextlib.suppress(ValueError):
                    report: dict[str, Any] = json.loads(line)
                    now, self._problem = time.monotonic(), report.get("problem")
                    self._last_heartbeat = now
                    self._paused_since = None if self._problem is None else self._paused_since or now
        if process.wait() != 0:
            _LOG.error("the dispatcher ended with %s", process.returncode)


def _follow_service(dispatcher: Dispatcher) -> None:
    """Wake the dispatcher for each line of the service; end the process at the end of the input."""
    while os.read(0, 4096):
        dispatcher.wake()
    dispatcher.stop()
    time.sleep(_LAST_DELIVERY_SECONDS)
    os._exit(0)


def main(argv: list[str] | None = None) -> int:
    """Run the dispatcher until the end of its input."""
    parser = argparse.ArgumentParser(prog="python -m release_tasks.gateway.dispatcher")
    parser.add_argument("--root", type=Path, required=True, help="root folder of the gateway")
    paths = GatewayPaths(parser.parse_args(argv).root.absolute())
    # A terminal sends these to the whole process group; the service decides when the worker ends.
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.umask(0o077)
    begin_log()
    dispatcher = Dispatcher(paths)
    threading.Thread(target=_follow_service, args=(dispatcher,), daemon=True).start()
    try:
        dispatcher.run()
    except BrokenPipeError:
        os._exit(0)
    except GatewayError as error:
        _LOG.error("%s", error.message)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
