"""Stage 4: read every signal there is, say what it means, and which command comes next."""

from __future__ import annotations

from release_tasks.stages.diagnose.guide import GUIDE, Diagnosis, Finding, decide
from release_tasks.stages.diagnose.signals import Signals, read_signals

__all__ = ["GUIDE", "Diagnosis", "Finding", "Signals", "decide", "read_signals"]
