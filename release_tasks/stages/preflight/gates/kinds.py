"""The list of the kinds of gate; one more is a file beside this one and a line here."""

from __future__ import annotations

from release_tasks.stages.preflight.gates import command, http, json_file, mcp, path, plugin

__all__ = ["GATE_KINDS"]

GATE_KINDS = (command.KIND, http.KIND, path.KIND, json_file.KIND, mcp.KIND, plugin.KIND)
