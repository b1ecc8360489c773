"""This repository's own tasks: the suite, acting on the bundled gateway, and what developers need besides."""

from __future__ import annotations

from release_tasks import ns

__all__ = ["ns"]
