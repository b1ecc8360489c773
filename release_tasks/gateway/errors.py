"""The errors of the gateway."""

from __future__ import annotations

from collections.abc import Sequence

from release_tasks.core.printable import one_line

__all__ = ["REFUSAL", "GatewayError", "McpError", "SettingsError", "StoreError"]

# Prefix of the log line with the reason why a gateway did not start.
REFUSAL = "gateway: refused: "


class GatewayError(Exception):
    """The gateway cannot start, stop or respond; ``message`` is for the operator, on one printable line.

    ``output`` are the last lines of its log.
    """

    def __init__(self, message: str, output: Sequence[str] = ()) -> None:
        self.message = one_line(message)
        self.output = output
        super().__init__(self.message)


class StoreError(GatewayError):
    """The database is missing, damaged or locked, or a table is missing."""


class SettingsError(GatewayError):
    """A configuration file of the gateway is missing (``is_missing``) or invalid."""

    def __init__(self, message: str, *, is_missing: bool = False) -> None:
        super().__init__(message)
        self.is_missing = is_missing


class McpError(GatewayError):
    """An MCP server could not be started, or its response does not follow the protocol."""
