"""A session with one MCP server: JSON-RPC 2.0 over its stdin and stdout."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import time
from typing import IO, Any

from release_tasks.config.mcp_launch import McpLaunch
from release_tasks.gateway.errors import McpError

__all__ = ["McpSession"]

_PROTOCOL_VERSION = "2025-06-18"
_MAX_MESSAGE_BYTES = 4 * 1024 * 1024
_END_SECONDS = 0.25


class McpSession:
    """A started MCP server in its own process group; each line is one JSON message.

    The constructor and every method that communicates raise McpError. A ``deadline`` is on the monotonic clock.
    """

    def __init__(self, launch: McpLaunch) -> None:
        assert launch.program is not None
        try:
            self._process = subprocess.Popen(
                [launch.program, *launch.args],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=launch.cwd,
                env=launch.environment,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise McpError(f"the command '{launch.program}' could not be started: {error}") from error
        assert self._process.stdin is not None and self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        self._last_id = 0
        self._pending = b""
        self._cancel_reader, self._cancel_writer = os.pipe()
        # Non-blocking: a server that does not read its input must not block its thread forever.
        os.set_blocking(self._input.fileno(), False)

    @property
    def pid(self) -> int:
        """The id of the started process and of its process group."""
        return self._process.pid

    def handshake(self, timeout: float) -> int:
        """Initialise the session and return the number of tools."""
        deadline = time.monotonic() + timeout
        parameters = {
            "protocolVersion": _PROTOCOL_VERSION,
            "capabilities": {},
            "clientInfo": {"name": "release-tasks gateway", "version": "1.0.0"},
        }
        result = self.request("initialize", parameters, deadline)
        if not isinstance(result.get("protocolVersion"), str):
            raise McpError("the response to initialize contains no protocolVersion")
        self._write({"jsonrpc": "2.0", "method": "notifications/initialized"}, deadline)
        return self.count_tools(deadline)

    def count_tools(self, deadline: float) -> int:
        """Return the number of tools on all pages of the server's list."""
        total, cursor = 0, None
        for _ in range(100):
            page = self.request("tools/list", {"cursor": cursor} if cursor else {}, deadline)
            tools = page.get("tools")
            if not isinstance(tools, list):
                raise McpError("the response to tools/list contains no list of tools")
            total, cursor = total + len(tools), page.get("nextCursor")
            if not cursor:
                return total
        raise McpError("tools/list has too many pages")

    def request(self, method: str, params: dict[str, Any], deadline: float) -> dict[str, Any]:
        """Send one request and return its result."""
        self._last_id += 1
        self._write({"jsonrpc": "2.0", "id": self._last_id, "method": method, "params": params}, deadline)
        while True:
            message = self._read(deadline)
            if message is None:
                raise McpError(f"timeout: no response to {method}")
            if message.get("id") == self._last_id and "method" not in message:
                break
            self._answer(message)
        error, result = message.get("error"), message.get("result")
        if isinstance(error, dict):
            raise McpError(f"{method} failed with error {error.get('code')}")
        if not isinstance(result, dict):
            raise McpError(f"the response to {method} has no result")
        return result

    def listen(self, seconds: float) -> None:
        """Read and handle messages of the server for this many seconds."""
        # Always read: a server blocks on a full pipe if its output is not read.
        deadline = time.monotonic() + seconds
        while (message := self._read(deadline)) is not None:
            self._answer(message)

    def cancel(self) -> None:
        """Make a waiting call in another thread raise McpError."""
        os.write(self._cancel_writer, b"x")

    def close(self) -> None:
        """End the server's process group: close its input, then send SIGTERM, then SIGKILL."""
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
        os.close(self._cancel_reader)
        os.close(self._cancel_writer)

    def _answer(self, message: dict[str, Any]) -> None:
        """Respond to a request of the server: only ping is supported."""
        if "method" not in message or "id" not in message:
            return
        response: dict[str, Any] = {"jsonrpc": "2.0", "id": message["id"]}
        if message["method"] == "ping":
            response["result"] = {}
        else:
            response["error"] = {"code": -32601, "message": "Method not found"}
        self._write(response, time.monotonic() + 1.0)

    def _write(self, message: dict[str, Any], deadline: float) -> None:
        rest = json.dumps(message).encode() + b"\n"
        while rest:
            try:
                rest = rest[os.write(self._input.fileno(), rest) :]
            except BlockingIOError:
                if not self._is_ready(self._input, selectors.EVENT_WRITE, deadline):
                    raise McpError("the server does not read its input") from None
            except (OSError, ValueError) as error:
                raise McpError(self._end_reason()) from error

    def _read(self, deadline: float) -> dict[str, Any] | None:
        """Return the next JSON message, or None at the deadline; skip other lines."""
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
                raise McpError(self._end_reason())
            self._pending += chunk

    def _is_ready(self, pipe: IO[bytes], event: int, deadline: float) -> bool:
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, event)
            selector.register(self._cancel_reader, selectors.EVENT_READ)
            ready = selector.select(max(deadline - time.monotonic(), 0.0))
        if any(key.fd == self._cancel_reader for key, _ in ready):
            raise McpError("the session was cancelled")
        return bool(ready)

    def _end_reason(self) -> str:
        try:
            code = self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            return "the server closed its output"
        status = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"the server's process ended with {status}"
