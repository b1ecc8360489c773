"""Look at live state without any change of it: copies in a scratch folder, compared with a snapshot."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from release_tasks.assets.base import AssetConfig
from release_tasks.config.schema import Settings
from release_tasks.core.errors import StageFailed
from release_tasks.core.holes import most_data
from release_tasks.core.scratch import scratch_folder

__all__ = ["look_folder"]


@contextlib.contextmanager
def look_folder(settings: Settings, assets: Iterable[AssetConfig]) -> Iterator[Path]:
    """Make a private folder with space for copies of ``assets``, and remove it after the block.

    It is outside the live state, and outside the pipeline folder where another folder has the space. Raises
    NoScratchSpace, OSError.
    """
    release = settings.release
    outside = [release.root, *(asset.path for asset in release.assets.values())]
    with scratch_folder(sum(map(_size, assets)), outside, release.root) as folder:
        yield folder


def _size(asset: AssetConfig) -> int:
    size = 0
    with contextlib.suppress(StageFailed, OSError):
        size = asset.kind.size(asset)
        with asset.found() as live:
            size += sum(most_data(info) for place in asset.kind.side_files(live) if (info := place.look()) is not None)
    return size
