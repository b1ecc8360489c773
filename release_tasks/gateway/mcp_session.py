"""A conversation with one MCP server (JSON-RPC 2.0) over its stdin and stdout."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import time
from typing import IO, Any

from release_tasks.config.gateway import child_environment
from release_tasks.config.mcp_servers import McpServer
from release_tasks.gateway.errors import McpError

__all__ = ["McpSession"]

_PROTOCOL_VERSION = "2025-06-18"
_MAX_MESSAGE_BYTES = 4 * 1024 * 1024
_END_SECONDS = 0.25


class McpSession:
    """A server that we started, one JSON message a line, in a process group of its own.

    The constructor and every method that talks raise McpError. A ``deadline`` is on the monotonic clock.
    """

    def __init__(self, server: McpServer) -> None:
        assert server.command is not None
        # The gateway's own secret is nobody else's business.
        environment = {**child_environment(), **server.env}
        program = shutil.which(server.command, path=environment.get("PATH"))
        if program is None:
            raise McpError(f"the command '{server.command}' was not found")
        try:
            self._process = subprocess.Popen(
                [program, *server.args],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=server.cwd,
                env=environment,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise McpError(f"the command '{server.command}' could not be started: {error}") from error
        assert self._process.stdin is not None and self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        self._last_id = 0
        self._pending = b""
        self._cancelled, self._cancel = os.pipe()
        # Non-blocking: a server that reads nothing must not hold up its thread for ever.
        os.set_blocking(self._input.fileno(), False)

    @property
    def pid(self) -> int:
        """The process (and group) that was started."""
        return self._process.pid

    def handshake(self, timeout: float) -> int:
        """Introduce ourselves and return how many tools the server offers."""
        deadline = time.monotonic() + timeout
        introduction = {
            "protocolVersion": _PROTOCOL_VERSION,
            "capabilities": {},
            "clientInfo": {"name": "release-tasks gateway", "version": "1.0.0"},
        }
        result = self.request("initialize", introduction, deadline)
        if not isinstance(result.get("protocolVersion"), str):
            raise McpError("the answer to initialize names no protocolVersion")
        self._write({"jsonrpc": "2.0", "method": "notifications/initialized"}, deadline)
        return self.count_tools(deadline)

    def count_tools(self, deadline: float) -> int:
        """Return how many tools the server lists now, all pages together."""
        total, cursor = 0, None
        for _ in range(100):
            page = self.request("tools/list", {"cursor": cursor} if cursor else {}, deadline)
            tools = page.get("tools")
            if not isinstance(tools, list):
                raise McpError("the answer to tools/list holds no list of tools")
            total, cursor = total + len(tools), page.get("nextCursor")
            if not cursor:
                return total
        raise McpError("tools/list never ends")

    def request(self, method: str, params: dict[str, Any], deadline: float) -> dict[str, Any]:
        """Send one request and return its result."""
        self._last_id += 1
        self._write({"jsonrpc": "2.0", "id": self._last_id, "method": method, "params": params}, deadline)
        while True:
            message = self._read(deadline)
            if message is None:
                raise McpError(f"no answer to {method} in time")
            if message.get("id") == self._last_id and "method" not in message:
                break
            self._answer(message)
        error, result = message.get("error"), message.get("result")
        if isinstance(error, dict):
            raise McpError(f"{method} was answered with error {error.get('code')}")
        if not isinstance(result, dict):
            raise McpError(f"the answer to {method} has no result")
        return result

    def listen(self, seconds: float) -> None:
        """Take what the server sends unasked, for so many seconds."""
        # Read even with nothing asked: a server whose output is not taken blocks on a full pipe.
        deadline = time.monotonic() + seconds
        while (message := self._read(deadline)) is not None:
            self._answer(message)

    def cancel(self) -> None:
        """Make a call that another thread waits in raise McpError soon."""
        os.write(self._cancel, b"x")

    def close(self) -> None:
        """End the server: asked by the end of its input, then by SIGTERM, then killed; its group goes with it."""
        with contextlib.suppress(OSError):
            self._input.close()
        for number in (None, signal.SIGTERM, signal.SIGKILL):
            if number is not None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_SECONDS)
                if number is not None:
                    break
        self._output.close()
        os.close(self._cancelled)
        os.close(self._cancel)

    def _answer(self, message: dict[str, Any]) -> None:
        """Answer a server that asks something of us: it may ping, and we offer nothing else."""
        if "method" not in message or "id" not in message:
            return
        answer: dict[str, Any] = {"jsonrpc": "2.0", "id": message["id"]}
        if message["method"] == "ping":
            answer["result"] = {}
        else:
            answer["error"] = {"code": -32601, "message": "Method not found"}
        self._write(answer, time.monotonic() + 1.0)

    def _write(self, message: dict[str, Any], deadline: float) -> None:
        rest = json.dumps(message).encode() + b"\n"
        while rest:
            try:
                rest = rest[os.write(self._input.fileno(), rest) :]
            except BlockingIOError:
                if not self._is_ready(self._input, selectors.EVENT_WRITE, deadline):
                    raise McpError("the server does not read its input") from None
            except (OSError, ValueError) as error:
                raise McpError(self._how_it_ended()) from error

    def _read(self, deadline: float) -> dict[str, Any] | None:
        """Return the next message, or None at the deadline; other lines are skipped."""
        while True:
            line, newline, rest = self._pending.partition(b"\n")
            if newline:
                self._pending = rest
                with contextlib.suppress(ValueError, RecursionError):
                    message = json.loads(line)
                    if isinstance(message, dict):
                        return message
                continue
            if len(self._pending) > _MAX_MESSAGE_BYTES:
                raise McpError("the server sent a message of more than 4 MiB")
            try:
                if not self._is_ready(self._output, selectors.EVENT_READ, deadline):
                    return None
                chunk = os.read(self._output.fileno(), 65536)
            except (OSError, ValueError):
                chunk = b""
            if not chunk:
                raise McpError(self._how_it_ended())
            self._pending += chunk

    def _is_ready(self, pipe: IO[bytes], event: int, deadline: float) -> bool:
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, event)
            selector.register(self._cancelled, selectors.EVENT_READ)
            ready = selector.select(max(deadline - time.monotonic(), 0.0))
        if any(key.fd == self._cancelled for key, _ in ready):
            raise McpError("the conversation was ended")
        return bool(ready)

    def _how_it_ended(self) -> str:
        try:
            code = self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            return "the server closed its output"
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"the server's process ended with {how}"
