"""What keeps the gateway, or one request to it, from going on."""

from __future__ import annotations

__all__ = ["REFUSAL", "GatewayError", "McpError", "SettingsError", "StoreError"]

# Marks the one line of the log that says why a gateway did not start.
REFUSAL = "gateway: refused: "


class GatewayError(Exception):
    """The gateway cannot start, stop or answer; ``message`` is a sentence for the operator."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class StoreError(GatewayError):
    """The database does not answer: missing, damaged, locked, or without a table it should have."""


class SettingsError(GatewayError):
    """A config file of the home is missing (``is_missing``) or does not say what it should."""

    def __init__(self, message: str, *, is_missing: bool = False) -> None:
        super().__init__(message)
        self.is_missing = is_missing


class McpError(GatewayError):
    """An MCP server could not be started, or did not answer as the protocol says."""
