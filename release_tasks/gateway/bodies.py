"""The bodies of requests while they are read: each has a size and a time limit, and all together have one more."""

from __future__ import annotations

import anyio
from attrs import define, field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

__all__ = ["Bodies"]

_READ_SECONDS = 10.0
_MAX_BYTES_IN_FLIGHT = 16 * 1024 * 1024


@define(eq=False)
class _Body:
    """One body that is being read."""

    scope: anyio.CancelScope
    content: bytearray = field(factory=bytearray)
    gives_way: bool = False


class Bodies:
    """Reads bodies that are not authenticated yet, within ``limit`` bytes for all of them.

    When the limit is reached, the body that began first gives way: a body of a well-behaved client arrives at once.
    """

    def __init__(self, limit: int = _MAX_BYTES_IN_FLIGHT) -> None:
        self._limit = limit
        self._size = 0
        self._reading: dict[_Body, None] = {}  # in the order of their beginning

    async def read(self, request: Request, limit: int) -> bytes:
        """Return the body of a request.

        Raises HTTPException: 413 if it is larger than ``limit`` bytes, 408 if it takes longer than 10 s, 503 if it
        gives way to others, 400 if the client disconnects.
        """
        announced = request.headers.get("content-length", "")
        if announced.isdigit() and int(announced[:20]) > limit:
            raise _too_large(limit)
        with anyio.move_on_after(_READ_SECONDS) as scope:
            body = _Body(scope)
            self._reading[body] = None
            try:
                async for chunk in request.stream():
                    if len(body.content) + len(chunk) > limit:
                        raise _too_large(limit)
                    body.content += chunk
                    self._size += len(chunk)
                    self._make_room()
                return bytes(body.content)
            except ClientDisconnect:
                raise HTTPException(400, "the client disconnected") from None
            finally:
                del self._reading[body]
                self._size -= len(body.content)
        if body.gives_way:
            raise HTTPException(503, "too many bodies are being read; send the request again")
        raise HTTPException(408, "timeout while reading the body")

    def _make_room(self) -> None:
        excess = self._size - self._limit
        for body in self._reading:
            if excess <= 0:
                return
            body.gives_way = True
            body.scope.cancel()
            excess -= len(body.content)


def _too_large(limit: int) -> HTTPException:
    return HTTPException(413, f"the body is larger than {limit} bytes")
