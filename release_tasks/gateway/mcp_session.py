"""A conversation with one MCP server (JSON-RPC 2.0), over its stdio or over HTTP."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import IO, Any
from urllib.parse import urlsplit

from release_tasks.config.gateway import child_environment
from release_tasks.gateway.errors import McpError
from release_tasks.gateway.mcp_config import McpServer

__all__ = ["HttpSession", "Session", "StdioSession", "open_session"]

_PROTOCOL_VERSION = "2025-06-18"
_MAX_MESSAGE_BYTES = 4 * 1024 * 1024
_END_SECONDS = 0.25


class Session(ABC):
    """One open conversation; every method raises McpError."""

    def __init__(self) -> None:
        self._last_id = 0

    def handshake(self, timeout: float) -> int:
        """Introduce ourselves and return how many tools the server offers."""
        deadline = time.monotonic() + timeout
        client = {"name": "release-tasks gateway", "version": "1.0.0"}
        introduction = {
            "protocolVersion": _PROTOCOL_VERSION,
            "capabilities": {},
            "clientInfo": client,
        }
        result = self.request("initialize", introduction, deadline)
        if not isinstance(result.get("protocolVersion"), str):
            raise McpError("the answer to initialize names no protocolVersion")
        self.notify("notifications/initialized", deadline)
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
        """Send one request and return its result; ``deadline`` is on the monotonic clock."""
        self._last_id += 1
        message = {"jsonrpc": "2.0", "id": self._last_id, "method": method, "params": params}
        answer = self._exchange(message, deadline)
        error, result = answer.get("error"), answer.get("result")
        if isinstance(error, dict):
            raise McpError(f"{method} was answered with error {error.get('code')}")
        if not isinstance(result, dict):
            raise McpError(f"the answer to {method} has no result")
        return result

    @abstractmethod
    def notify(self, method: str, deadline: float) -> None:
        """Send a notification, which has no answer."""

    @abstractmethod
    def listen(self, seconds: float) -> None:
        """Stay in the conversation for up to ``seconds``; raises McpError when it is lost."""

    @abstractmethod
    def cancel(self) -> None:
        """Make a call that another thread waits in raise McpError soon."""

    @abstractmethod
    def close(self) -> None:
        """End the conversation and whatever was started for it."""

    @abstractmethod
    def _exchange(self, message: dict[str, Any], deadline: float) -> dict[str, Any]:
        """Send a request and return the response that carries its id."""


def open_session(server: McpServer) -> Session:
    """Start the server's command, or get ready to call its URL; raises McpError."""
    return StdioSession(server) if server.url is None else HttpSession(server)


class StdioSession(Session):
    """A server that we started, one JSON message a line, in a process group of its own."""

    def __init__(self, server: McpServer) -> None:
        super().__init__()
        # The gateway's own secret is nobody else's business.
        environment = child_environment()
        environment.update(server.env)
        program = shutil.which(server.command[0], path=environment.get("PATH"))
        if program is None:
            raise McpError(f"the command '{server.command[0]}' was not found")
        try:
            self._process = subprocess.Popen(
                [program, *server.command[1:]],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=server.cwd,
                env=environment,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise McpError(f"the command '{server.command[0]}' could not be started: {error}") from error
        self._pending = b""
        self._cancelled, self._cancel = os.pipe()
        # Non-blocking: a server that reads nothing must not hold up its thread for ever.
        os.set_blocking(self._pipe(self._process.stdin).fileno(), False)

    @property
    def pid(self) -> int:
        """The process (and group) that was started."""
        return self._process.pid

    def notify(self, method: str, deadline: float) -> None:
        """Send a notification, which is never answered."""
        self._write({"jsonrpc": "2.0", "method": method}, deadline)

    def listen(self, seconds: float) -> None:
        """Take what the server sends unasked, for so many seconds."""
        # Read even with nothing asked: a server whose output nobody takes blocks on a full pipe.
        deadline = time.monotonic() + seconds
        while True:
            message = self._read(deadline)
            if message is None:
                return
            self._answer(message)

    def cancel(self) -> None:
        """End a call that waits, from another thread."""
        os.write(self._cancel, b"x")

    def close(self) -> None:
        """End the session, and the server if this side started it."""
        # Asked first by the end of its input, then told, then killed; children in its group go with
        # it.
        process = self._process
        with contextlib.suppress(OSError):
            self._pipe(process.stdin).close()
        for number in (None, signal.SIGTERM, signal.SIGKILL):
            if number is not None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_END_SECONDS)
                if number is not None:
                    break
        self._pipe(process.stdout).close()
        os.close(self._cancelled)
        os.close(self._cancel)

    def _exchange(self, message: dict[str, Any], deadline: float) -> dict[str, Any]:
        self._write(message, deadline)
        while True:
            answer = self._read(deadline)
            if answer is None:
                raise McpError(f"no answer to {message['method']} in time")
            if answer.get("id") == message["id"] and "method" not in answer:
                return answer
            self._answer(answer)

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
        pipe = self._pipe(self._process.stdin)
        while rest:
            try:
                rest = rest[os.write(pipe.fileno(), rest) :]
            except BlockingIOError:
                if not self._is_ready(pipe, selectors.EVENT_WRITE, deadline):
                    raise McpError("the server does not read its input") from None
            except (OSError, ValueError) as error:
                raise McpError(self._how_it_ended()) from error

    def _read(self, deadline: float) -> dict[str, Any] | None:
        """Return the next message, or None at the deadline; other lines are skipped."""
        pipe = self._pipe(self._process.stdout)
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
                if not self._is_ready(pipe, selectors.EVENT_READ, deadline):
                    return None
                chunk = os.read(pipe.fileno(), 65536)
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

    @staticmethod
    def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
        assert pipe is not None
        return pipe


class HttpSession(Session):
    """A server behind a URL (streamable HTTP): each message is a POST of its own."""

    def __init__(self, server: McpServer) -> None:
        import requests

        super().__init__()
        assert server.url is not None
        self._url = server.url
        self._requests = requests
        self._session = requests.Session()
        self._session.headers.update(server.headers)
        self._session.headers["Accept"] = "application/json, text/event-stream"
        if urlsplit(self._url).hostname in ("localhost", "127.0.0.1", "::1"):
            self._session.trust_env = False  # a proxy cannot reach this machine's loopback

    def notify(self, method: str, deadline: float) -> None:
        """Send a notification, which is never answered."""
        self._post({"jsonrpc": "2.0", "method": method}, deadline).close()

    def listen(self, seconds: float) -> None:
        """Take what the server sends unasked, for so many seconds."""
        return  # nothing is open between two calls

    def cancel(self) -> None:
        """End a call that waits, from another thread."""
        return  # each call has its own timeout, and nothing of ours stays behind

    def close(self) -> None:
        """End the session, and the server if this side started it."""
        self._session.close()

    def _exchange(self, message: dict[str, Any], deadline: float) -> dict[str, Any]:
        response = self._post(message, deadline)
        try:
            session_id = response.headers.get("Mcp-Session-Id")
            if session_id:
                self._session.headers["Mcp-Session-Id"] = session_id
            for candidate in _messages(response, deadline):
                if candidate.get("id") == message["id"] and "method" not in candidate:
                    return candidate
        except self._requests.RequestException as error:
            raise McpError(f"{type(error).__name__} while reading the answer") from error
        finally:
            response.close()
        raise McpError(f"no answer to {message['method']}")

    def _post(self, message: dict[str, Any], deadline: float) -> Any:
        left = max(deadline - time.monotonic(), 0.1)
        try:
            response = self._session.post(self._url, json=message, timeout=left, allow_redirects=False, stream=True)
        except self._requests.RequestException as error:
            raise McpError(f"{type(error).__name__} at the server's URL") from error
        if not 200 <= response.status_code < 300:
            response.close()
            raise McpError(f"the server answered HTTP {response.status_code}")
        return response


def _messages(response: Any, deadline: float) -> Iterator[dict[str, Any]]:
    """Yield the JSON messages of an answer, from one JSON body or from the data lines of events."""
    is_stream = "text/event-stream" in response.headers.get("Content-Type", "")
    body = b""
    # Byte by byte from an event stream: it stays open after the answer, and a larger read would
    # wait.
    for chunk in response.iter_content(1 if is_stream else 65536):
        body += chunk
        if len(body) > _MAX_MESSAGE_BYTES:
            raise McpError("the server sent a message of more than 4 MiB")
        if time.monotonic() > deadline:
            raise McpError("the answer did not come in time")
        if is_stream and body.endswith(b"\n"):
            if body.startswith(b"data:"):
                yield from _parsed(body[5:])
            body = b""
    if not is_stream:
        yield from _parsed(body)


def _parsed(text: bytes) -> list[dict[str, Any]]:
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        return []
    return [message] if isinstance(message, dict) else []
