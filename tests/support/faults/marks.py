"""Marks of tests that need root, strace or mounts; a skipped test says NOT TESTED and why."""

from __future__ import annotations

import os
import sys

import pytest

from tests.support.faults.tracing import STRACE

__all__ = ["MOUNTS", "NEEDS_MOUNTS", "NEEDS_ROOT", "NEEDS_STRACE"]

NEEDS_STRACE = pytest.mark.skipif(STRACE is None, reason="NOT TESTED: no strace here (Debian: apt install strace)")
NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: only root makes devices")
NEEDS_MOUNTS = pytest.mark.skipif(
    os.geteuid() != 0 or sys.platform != "linux", reason="NOT TESTED: needs root on Linux to mount"
)
MOUNTS = [pytest.mark.root, NEEDS_MOUNTS]  # both marks of a test that mounts
