"""What a package of yours needs to offer a gate; docs/plugins.md says how.

This module is the whole public face for authors of plugins: what is in it stays. Nothing else of this package is
promised to them.
"""

from __future__ import annotations

from release_tasks.errors import PluginError
from release_tasks.preflight.gate import Gate, GateContext, Verdict

__all__ = ["Gate", "GateContext", "PluginError", "Verdict"]
