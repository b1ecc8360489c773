"""The list of all kinds of gate. A new kind is a new module in this package and an entry in this list."""

from __future__ import annotations

from release_tasks.stages.preflight.gates import command, http, json_file, mcp, path, plugin

__all__ = ["GATE_KINDS"]

GATE_KINDS = (command.KIND, http.KIND, path.KIND, json_file.KIND, mcp.KIND, plugin.KIND)
