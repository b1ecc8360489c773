"""The worker that delivers from the queue: a process of its own, child of the service.

    python -m release_tasks.gateway.dispatcher --root HOME

A message goes to the channel of its recipient, to the URL that gateway.json names, or into the home's outbox file.

It writes a JSON line on stdout for each beat, is woken by a line on stdin, and ends when stdin does: the kernel closes
that pipe however the service ends, so no worker is ever left behind.
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
from release_tasks.gateway.channels import Call, channel_call
from release_tasks.gateway.errors import GatewayError, SettingsError, StoreError
from release_tasks.gateway.paths import GatewayPaths
from release_tasks.gateway.settings import GatewaySettings, read_settings
from release_tasks.gateway.store import ClaimedMessage, MessageStore

__all__ = ["DeliveryError", "Dispatcher", "Worker", "deliver", "main"]

_LOG = logging.getLogger("gateway.dispatcher")
_BEAT_SECONDS = 1.0
_MAX_BACKOFF_SECONDS = 300.0
# How long a delivery under way may take once the service is gone.
_LAST_DELIVERY_SECONDS = 1.0
# A beat comes each second; a delivery may take 10 s and a wait for the database another 10.
_SILENCE_SECONDS = 25.0
_KILL_SECONDS = 0.5


class DeliveryError(GatewayError):
    """The message was not taken; it may be tried again."""


def deliver(delivery: ClaimedMessage, settings: GatewaySettings, outbox: Path) -> None:
    """Hand one message over; raises DeliveryError when it was not taken.

    What goes out to a sender goes through their channel where its token is in the environment. Everything else, and
    what came in, goes to the delivery URL or to the outbox.
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
                line = b"\n" + line  # a crash tore the last line: keep it apart from this one
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
        raise DeliveryError(f"{type(error).__name__} at {call.name}") from None  # its text may hold a token
    with contextlib.closing(response):
        if not 200 <= response.status_code < 300:
            raise DeliveryError(f"{call.name} answered HTTP {response.status_code}")


class Dispatcher:
    """Claims due deliveries one by one, hands each over, and writes down how it went.

    A message is delivered at least once: a worker that dies between handing over and writing that down leaves a row
    that the next one takes again. Receivers tell by the message's id.
    """

    def __init__(self, home: GatewayPaths) -> None:
        self._home = home
        self._store = MessageStore(home.database)
        self._worker = secrets.token_hex(8)
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._trouble: str | None = None
        self._last_beat = 0.0

    def run(self) -> None:
        """Deliver until ``stop``; trouble with database or settings is told and outlasted."""
        pause = 0.0
        while not self._stopping.is_set():
            self._woken.wait(pause)
            self._woken.clear()
            pause = self._turn()
        self._store.close()

    def wake(self) -> None:
        """Look at the queue now."""
        self._woken.set()

    def stop(self) -> None:
        """Take no further delivery."""
        self._stopping.set()
        self._woken.set()

    def _turn(self) -> float:
        """Deliver one message if one is due; return the seconds to wait before the next turn."""
        try:
            # Read each time: a rollback may have put another gateway.json here. With none that can be read nothing is
            # sent, because the default target may be the wrong one.
            settings = read_settings(self._home.settings)
            delivery = self._store.claim(self._worker)
            if delivery is not None:
                self._deliver(delivery, settings)
            self._beat(None)
            return 0.0 if delivery is not None else min(settings.poll, _BEAT_SECONDS)
        except (SettingsError, StoreError) as error:
            self._beat(error.message)
            return _BEAT_SECONDS

    def _deliver(self, delivery: ClaimedMessage, settings: GatewaySettings) -> None:
        try:
            deliver(delivery, settings, self._home.outbox)
        except DeliveryError as error:
            _LOG.warning(
                "%s: attempt %d of %d failed: %s", delivery.id, delivery.attempt, settings.max_attempts, error.message
            )
            state = "dead" if delivery.attempt >= settings.max_attempts else "failed"
            pause = min(settings.backoff * 2 ** min(delivery.attempt - 1, 16), _MAX_BACKOFF_SECONDS)
            self._store.settle(delivery, self._worker, state, error=error.message, pause=pause)
        else:
            self._store.settle(delivery, self._worker, "sent")

    def _beat(self, trouble: str | None) -> None:
        now = time.monotonic()
        if trouble == self._trouble and now - self._last_beat < _BEAT_SECONDS * 0.9:
            return
        if trouble is not None and trouble != self._trouble:
            _LOG.warning("delivery is on hold: %s", trouble)
        self._trouble, self._last_beat = trouble, now
        sys.stdout.write(json.dumps({"beat": time.time(), "trouble": trouble}) + "\n")
        sys.stdout.flush()


class Worker:
    """The dispatcher's process, started once: a dead one stays dead, and health says so."""

    def __init__(self, home: GatewayPaths) -> None:
        self._home = home
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._beat: float | None = None
        self._trouble: str | None = None

    def start(self) -> None:
        """Start the process; its log lines go where the service's go."""
        command = [sys.executable, "-m", "release_tasks.gateway.dispatcher", "--root", str(self._home.root)]
        environment = child_environment(DELIVERY_TOKENS)
        self._started = time.monotonic()
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        assert self._process.stdin is not None
        # A worker that was stopped (SIGSTOP) must not hold up the request that wakes it.
        os.set_blocking(self._process.stdin.fileno(), False)
        threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()

    def wake(self) -> None:
        """Tell the worker that there is something to deliver; a dead one is left alone."""
        process = self._process
        if process is not None and process.stdin is not None and process.poll() is None:
            with contextlib.suppress(OSError, ValueError):
                os.write(process.stdin.fileno(), b"\n")

    def state(self) -> dict[str, Any]:
        """Return what health shows of the process; ``lastBeatSec`` is the age of its last beat."""
        process = self._process
        now = time.monotonic()
        is_running, detail = False, self._trouble
        if process is None:
            detail = "it was not started"
        elif (code := process.poll()) is not None:
            detail = f"its process ended with {f'signal {-code}' if code < 0 else f'exit code {code}'}"
        elif now - (self._beat or self._started) > _SILENCE_SECONDS:
            detail = f"no beat for {_SILENCE_SECONDS:.0f} s"
        else:
            is_running = True
        return {
            "running": is_running,
            "pid": None if process is None else process.pid,
            "lastBeatSec": None if self._beat is None else round(now - self._beat, 3),
            "detail": detail,
        }

    def stop(self) -> None:
        """End the worker: after a moment for the delivery under way, by force."""
        process = self._process
        if process is None:
            return
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.close()  # which asks it to end
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
                    self._beat, self._trouble = time.monotonic(), report.get("trouble")
        if process.wait() != 0:
            _LOG.error("the dispatcher ended with %s", process.returncode)


def _follow_service(dispatcher: Dispatcher) -> None:
    """Wake the dispatcher for each line of the service; end the process when they end."""
    while os.read(0, 4096):
        dispatcher.wake()
    dispatcher.stop()
    time.sleep(_LAST_DELIVERY_SECONDS)
    os._exit(0)


def main(argv: list[str] | None = None) -> int:
    """Run the worker until its input ends."""
    parser = argparse.ArgumentParser(prog="python -m release_tasks.gateway.dispatcher")
    parser.add_argument("--root", type=Path, required=True, help="the gateway's home folder")
    home = GatewayPaths(parser.parse_args(argv).root.absolute())
    # Ctrl-C reaches the whole group; the service decides when the worker ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.umask(0o077)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
    dispatcher = Dispatcher(home)
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
