"""The bundled MCP server: one tool, ``clock.now``, over stdio.

The server ends at the end of its input, so it never outlives the gateway, even after a kill.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

from release_tasks.core.clock import timestamp

__all__ = ["main", "respond"]

PROTOCOL_VERSION = "2025-06-18"
_TOOL = {
    "name": "clock.now",
    "description": "The current time in UTC, as RFC 3339.",
    "inputSchema": {"type": "object", "properties": {}, "additionalProperties": False},
}


def respond(line: bytes) -> dict[str, Any] | None:
    """Return the JSON-RPC response to one request line, or None for a notification."""
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        return _error(None, -32700, "Parse error")
    if not isinstance(request, dict) or not isinstance(request.get("method"), str):
        return _error(None, -32600, "Invalid Request")
    if "id" not in request:
        return None
    method, params = request["method"], request.get("params")
    params = params if isinstance(params, dict) else {}
    result: dict[str, Any] = {}
    if method == "initialize":
        version = params.get("protocolVersion")
        result = {
            "protocolVersion": version if isinstance(version, str) else PROTOCOL_VERSION,
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "clock", "version": "1.0.0"},
        }
    elif method == "tools/list":
        result = {"tools": [_TOOL]}
    elif method == "tools/call":
        if params.get("name") != _TOOL["name"]:
            return _error(request["id"], -32602, f"Unknown tool: {params.get('name')}")
        result = {"content": [{"type": "text", "text": timestamp()}], "isError": False}
    elif method != "ping":
        return _error(request["id"], -32601, "Method not found")
    return {"jsonrpc": "2.0", "id": request["id"], "result": result}


def _error(request_id: Any, code: int, message: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": message}}


def main() -> int:
    """Serve until the end of the input."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):  # the gateway ends it
        signal.signal(number, signal.SIG_IGN)
    try:
        for line in sys.stdin.buffer:
            response = respond(line)
            if response is not None:
                sys.stdout.write(json.dumps(response) + "\n")
                sys.stdout.flush()
    except BrokenPipeError:
        # A normal exit would flush the broken pipe again and print an error.
        os._exit(0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
