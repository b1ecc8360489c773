"""Run one gateway in the foreground: ``python -m release_tasks.gateway --root FOLDER``."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

from attrs import evolve

from release_tasks.config.schema import PairingConfig
from release_tasks.core.interrupt import STOP_SIGNALS
from release_tasks.core.lock import FileLock
from release_tasks.core.owned import ForeignFolder
from release_tasks.core.typed import quoted
from release_tasks.gateway.errors import REFUSAL, GatewayError
from release_tasks.gateway.logs import RateLimit, begin_log
from release_tasks.gateway.network import base_url, bind, check_host, is_loopback
from release_tasks.gateway.paths import GatewayPaths
from release_tasks.gateway.pidfile import PidFile

__all__ = ["main", "serve"]

_LOG = logging.getLogger("gateway")
_GATE_KILL_SECONDS = 1.0
_SIGNALS_OF_UVICORN = (signal.SIGTERM, signal.SIGINT)  # it has handlers of its own for these while it serves


class _Terminated(BaseException):
    """A signal that stops the gateway arrived. A BaseException, so that no ``except Exception`` catches it."""


def main(argv: list[str] | None = None) -> int:
    """Serve until a signal and return 0; return 1 if the gateway cannot start. Usage errors exit with 2."""
    parser = argparse.ArgumentParser(
        prog="python -m release_tasks.gateway", description="The embedded reference gateway."
    )
    parser.add_argument("--root", type=Path, required=True, help="root folder of the gateway, initialised if new")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=3100, help="port to listen on; 0 selects a free port")
    parser.add_argument("--allow-remote", action="store_true", help="allow an address other than loopback")
    parser.add_argument("--rehearsal", action="store_true", help="deliver no messages and start no MCP servers")
    parser.add_argument("--release-root", type=Path, help="folder that contains manifests/latest.json")
    parser.add_argument("--credentials", type=Path, help="folder of the pairing stores (default: in the root folder)")
    parser.add_argument("--pairing-ttl", type=float, default=3600.0, help="lifetime of a pairing request in seconds")
    parser.add_argument("--pairing-max-pending", type=int, default=3, help="maximum of pending requests per channel")
    parser.add_argument(
        "--start-gate",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="COMMAND",
        help="command that must succeed before the gateway opens any file or port; must be the last option",
    )
    options = parser.parse_args(argv)
    os.umask(0o077)
    begin_log(RateLimit())
    for number in STOP_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # SIGHUP is ignored under nohup
            signal.signal(number, _stop if number in _SIGNALS_OF_UVICORN else _stop_as_by_sigterm)
    try:
        serve(options)
    except _Terminated:
        _LOG.info("stopped by a signal")
    except (GatewayError, ForeignFolder) as error:
        sys.stderr.write(f"{REFUSAL}{error.message}\n")
        return 1
    return 0


def serve(options: argparse.Namespace) -> None:
    """Run the gateway until a signal arrives; raises GatewayError if it cannot start."""
    paths = GatewayPaths(options.root.absolute())
    check_host(options.host, allow_remote=options.allow_remote)
    try:
        paths.make_root()
        # The kernel releases the lock when this process ends, even after a kill.
        with FileLock(paths.lock_file).held() as is_locked:
            if not is_locked:
                raise GatewayError(f"A gateway is already running in {paths.root}.")
            record = PidFile.of_this_process(options.host)
            record.write(paths.pid_file)
            try:
                if options.start_gate:
                    _pass_start_gate(options.start_gate)
                paths.initialise()
                with contextlib.closing(bind(options.host, options.port)) as listener:
                    port = listener.getsockname()[1]
                    evolve(record, port=port).write(paths.pid_file)
                    _LOG.info("root %s, %s", paths.root, base_url(options.host, port))
                    _serve_http(paths, options, listener)
            finally:
                record.remove(paths.pid_file)
    except OSError as error:
        raise GatewayError(f"The gateway cannot start: {error}.") from error


def _pass_start_gate(command: list[str]) -> None:
    """Run the start gate; raises GatewayError when it fails."""
    typed_gate = " ".join(map(quoted, command))
    reason = f"The gateway does not start: its start gate `{typed_gate}`"
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise GatewayError(f"{reason} cannot be run: {error.strerror}.") from error
    try:
        code = process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_GATE_KILL_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    if code != 0:
        raise GatewayError(f"{reason} ended with exit code {code}. The log contains its output.")


def _serve_http(paths: GatewayPaths, options: argparse.Namespace, listener: socket.socket) -> None:
    try:
        from release_tasks.gateway.server import GatewayServer, Limits
        from release_tasks.gateway.service import create_app
    except ModuleNotFoundError as error:
        raise GatewayError("The embedded gateway needs the extra: pip install 'release-tasks[gateway]'") from error
    app = create_app(
        paths,
        pairing=PairingConfig(
            credentials=(options.credentials or paths.credentials).absolute(),
            ttl=options.pairing_ttl,
            max_pending=options.pairing_max_pending,
        ),
        release_root=options.release_root.absolute() if options.release_root else None,
        only_loopback=is_loopback(options.host),
        is_rehearsal=options.rehearsal,
    )
    server = GatewayServer(app, Limits.of_this_process())
    server.run(sockets=[listener])
    if not server.started:
        raise GatewayError("The gateway did not start; the reason is in its log.")


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise _Terminated


def _stop_as_by_sigterm(number: int, frame: FrameType | None) -> None:
    """End the gateway in order for SIGHUP, as when its terminal closes, and for SIGQUIT."""
    signal.raise_signal(signal.SIGTERM)


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    # Not sys.exit: it waits for threads, which may wait for the database, and a stop may take at most 2 s.
    os._exit(status)
