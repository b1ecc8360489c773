"""The public API for plugins that provide a gate or an asset kind; docs/plugins.md explains it.

The names in this module are stable. Plugins must not rely on any other name of this package.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from release_tasks.assets.plugin_host.contract import AssetContext, AssetKind
from release_tasks.core.errors import PluginError
from release_tasks.stages.preflight.gates.base import Gate, GateContext, Verdict, context_of

__all__ = ["AssetContext", "AssetKind", "Gate", "GateContext", "PluginError", "Verdict", "gate_context"]


def gate_context(project: Path, options: Mapping[str, Any] | None = None, name: str = "gate") -> GateContext:
    """Return the context that a gate of this name gets in ``project``, for the tests of a plugin.

    Raises ConfigError for options that invoke.yaml could not contain.
    """
    from release_tasks.tasks.project import load_settings

    gate = {"python": name, "with": dict(options or {})}
    settings = load_settings({"release": {"gates": {name: gate}}}, project)
    return context_of(settings, name, project)
