"""A running gateway process."""

from __future__ import annotations

from typing import Any

import requests
from attrs import define
from psutil import Process

from release_tasks.gateway.paths import GatewayPaths

__all__ = ["RunningGateway"]


@define
class RunningGateway:
    """A gateway process, its files below ``home``, and its address."""

    home: GatewayPaths
    url: str
    pid: int
    process: Process

    def get(self, path: str, **options: Any) -> requests.Response:
        return requests.get(self.url + path, timeout=10, **options)

    def post(self, path: str, **options: Any) -> requests.Response:
        return requests.post(self.url + path, timeout=10, **options)

    def health(self) -> dict[str, Any]:
        """Return the ``data`` of the health answer, with any status code."""
        data = self.get("/health").json()["data"]
        assert isinstance(data, dict)
        return data
