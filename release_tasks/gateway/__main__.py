"""Run one gateway in the foreground: ``python -m release_tasks.gateway --root HOME``."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

from attrs import evolve

from release_tasks.config.schema import PairingConfig
from release_tasks.core.lock import FileLock
from release_tasks.gateway.errors import REFUSAL, GatewayError
from release_tasks.gateway.network import bind, check_host, is_loopback, url_of
from release_tasks.gateway.paths import GatewayPaths
from release_tasks.gateway.pidfile import PidFile

__all__ = ["main", "serve"]

_LOG = logging.getLogger("gateway")
_GATE_KILL_SECONDS = 1.0


class _Ended(BaseException):
    """SIGTERM or SIGINT; no ``except Exception`` may take it for a failure."""


def main(argv: list[str] | None = None) -> int:
    """Serve until a signal (0); 1 when it cannot start, 2 for a wrong command line."""
    parser = argparse.ArgumentParser(
        prog="python -m release_tasks.gateway", description="The embedded reference gateway."
    )
    parser.add_argument("--root", type=Path, required=True, help="home folder, laid out if new")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=3100, help="0 takes any free port")
    parser.add_argument("--allow-remote", action="store_true", help="listen beyond loopback")
    parser.add_argument("--rehearsal", action="store_true", help="deliver nothing and start no MCP server")
    parser.add_argument("--release-root", type=Path, help="folder that holds manifests/latest.json")
    parser.add_argument("--credentials", type=Path, help="folder of the pairing stores (default: in the home)")
    parser.add_argument("--pairing-ttl", type=float, default=3600.0, help="seconds that a pairing request lives")
    parser.add_argument("--pairing-max-pending", type=int, default=3, help="pending pairing requests per channel")
    parser.add_argument(
        "--start-gate",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="COMMAND",
        help="must succeed before anything is opened; takes the rest of the line",
    )
    options = parser.parse_args(argv)
    os.umask(0o077)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO, stream=sys.stderr)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    try:
        serve(options)
    except _Ended:
        _LOG.info("ended by a signal")
    except GatewayError as error:
        sys.stderr.write(f"{REFUSAL}{error.message}\n")
        return 1
    return 0


def serve(options: argparse.Namespace) -> None:
    """Run the gateway that the command line asks for until a signal ends it.

    Raises GatewayError when it cannot start.
    """
    home = GatewayPaths(options.root.absolute())
    check_host(options.host, allow_remote=options.allow_remote)
    try:
        home.make_root()
        # The kernel lets go of the lock however this process ends.
        with FileLock(home.lock_file).held() as is_alone:
            if not is_alone:
                raise GatewayError(f"A gateway is already running in {home.root}.")
            record = PidFile.of_this_process(options.host)
            record.write(home.pid_file)
            try:
                if options.start_gate:
                    _pass_start_gate(options.start_gate)
                home.lay_out()
                with contextlib.closing(bind(options.host, options.port)) as listener:
                    port = listener.getsockname()[1]
                    evolve(record, port=port).write(home.pid_file)
                    _LOG.info("home %s, %s", home.root, url_of(options.host, port))
                    _serve_http(home, options, listener)
            finally:
                record.remove(home.pid_file)
    except OSError as error:
        raise GatewayError(f"The gateway cannot start: {error}.") from error


def _pass_start_gate(command: list[str]) -> None:
    """Run the command that must succeed first; raises GatewayError when it does not."""
    refusal = f"The gateway does not start: its start gate `{shlex.join(command)}`"
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise GatewayError(f"{refusal} cannot be run: {error.strerror}.") from error
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
        raise GatewayError(f"{refusal} ended with {code}; the log has its output.")


def _serve_http(home: GatewayPaths, options: argparse.Namespace, listener: socket.socket) -> None:
    try:
        import uvicorn

        from release_tasks.gateway.service import create_app
    except ModuleNotFoundError as error:
        raise GatewayError("The embedded gateway needs the extra: pip install 'release-tasks[gateway]'") from error
    app = create_app(
        home,
        pairing=PairingConfig(
            credentials=(options.credentials or home.credentials).absolute(),
            ttl=options.pairing_ttl,
            max_pending=options.pairing_max_pending,
        ),
        release_root=options.release_root.absolute() if options.release_root else None,
        only_loopback=is_loopback(options.host),
        is_rehearsal=options.rehearsal,
    )
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        proxy_headers=False,  # no header may claim to come from loopback
        server_header=False,
        ws="none",
        lifespan="on",
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    server.run(sockets=[listener])
    if not server.started:
        raise GatewayError("The gateway did not start; its log says why.")


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise _Ended


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    # Not sys.exit: it would wait for a thread that still waits for the database, and a stop takes 2 s at most.
    os._exit(status)
