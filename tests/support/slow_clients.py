"""Clients that hold connections of a gateway: unfinished headers, slow bodies, idle connections, unread responses.

    python -m tests.support.slow_clients PORT COUNT

Each client connects again when it is disconnected. Ends at the end of its input, and prints what it did as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import resource
import sys
from collections import Counter
from collections.abc import Awaitable, Callable

__all__ = ["KINDS"]

_DRIP_SECONDS = 1.0
_RECONNECT_SECONDS = 1.0
_HOST = b"Host: 127.0.0.1\r\n"

Client = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def _drip(writer: asyncio.StreamWriter, piece: bytes) -> None:
    while True:
        await asyncio.sleep(random.uniform(0.5, 1.5) * _DRIP_SECONDS)
        writer.write(piece)
        await writer.drain()


async def unfinished_headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"POST /webhooks/telegram HTTP/1.1\r\n" + _HOST)
    await _either(_drip(writer, b"X-Padding: x\r\n"), reader)


async def slow_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    signature = b"X-Hub-Signature-256: sha256=" + b"0" * 64 + b"\r\n"
    writer.write(
        b"POST /webhooks/whatsapp HTTP/1.1\r\n" + _HOST + signature + b"Content-Length: 1000000\r\n\r\n" + b"x" * 30_000
    )
    await _either(_drip(writer, b"x" * 100), reader)


async def idle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"GET /health/live HTTP/1.1\r\n" + _HOST + b"\r\n")
    await reader.read(-1)


async def unread_responses(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    transport = writer.transport
    assert isinstance(transport, asyncio.ReadTransport)
    transport.pause_reading()
    writer.write((b"GET / HTTP/1.1\r\n" + _HOST + b"\r\n") * 10)
    await _drip(writer, b"GET / HTTP/1.1\r\n" + _HOST + b"\r\n")


KINDS: tuple[Client, ...] = (unfinished_headers, slow_body, idle, unread_responses)


async def _either(work: Awaitable[None], reader: asyncio.StreamReader) -> None:
    """Run ``work`` until the server closes the connection."""
    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(reader.read(-1))]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _client(port: int, kind: Client, seen: Counter[str]) -> None:
    while True:
        writer: asyncio.StreamWriter | None = None
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=16 * 1024)
            seen["connected"] += 1
            seen["open"] += 1
            try:
                await kind(reader, writer)
            finally:
                seen["open"] -= 1
        except OSError:
            seen["refused"] += writer is None
        finally:
            if writer is not None:
                writer.transport.abort()
        await asyncio.sleep(random.uniform(0.5, 1.5) * _RECONNECT_SECONDS)


async def _run(port: int, count: int) -> Counter[str]:
    seen: Counter[str] = Counter()
    tasks = []
    for number in range(count):
        tasks.append(asyncio.create_task(_client(port, KINDS[number % len(KINDS)], seen)))
        if number % 100 == 99:
            await asyncio.sleep(0.05)  # the clients of one machine cannot all connect at once
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, sys.stdin.read)
    seen["heldAtTheEnd"] = seen["open"]
    for task in tasks:
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(*tasks, return_exceptions=True)
    del seen["open"]
    return seen


if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(json.dumps(asyncio.run(_run(int(sys.argv[1]), int(sys.argv[2])))))
