"""The gate that every direct message passes: an approved sender's goes on, a stranger's goes nowhere."""

from __future__ import annotations

import hashlib
from typing import Literal

from release_tasks.gateway.direct import DirectMessage
from release_tasks.gateway.store import Store
from release_tasks.pairing.policy import Pairing, PendingRequest

__all__ = ["INBOUND", "REPLIED", "Admission", "Verdict"]

INBOUND = "inbound."  # begins the channel of what came in, as against what goes out to a sender
REPLIED = "replied."  # begins the key of a reply to a stranger, which is sent once for each code

Verdict = Literal["queued", "duplicate", "asked", "silent"]


class Admission:
    """Decides over messages one by one. Threads may share it."""

    def __init__(self, pairing: Pairing, store: Store) -> None:
        self._pairing = pairing
        self._store = store

    def receive(self, message: DirectMessage) -> Verdict:
        """Queue the message of an approved sender, once; of a stranger's keep nothing, and answer the first alone.

        Raises StoreError, StoreUnusable, LockHeld or OSError when it cannot be decided; nothing got in then, and the
        channel may send the message again.
        """
        if self._pairing.is_admitted(message.channel, message.sender):
            return self._queue(message)
        outcome = self._pairing.request(message.channel, message.sender)
        if outcome.status == "admitted":  # while this message was on its way
            return self._queue(message)
        if outcome.request is None:
            return "silent"
        # Also when they ask again: the first answer may not have been queued when something failed.
        channel, code = message.channel.value, outcome.request.code
        key = f"{REPLIED}{channel}/{hashlib.sha256(code.encode()).hexdigest()[:32]}"
        is_new = self._store.add_message_once(key, channel, message.sender, _answer(message, outcome.request))
        return "asked" if is_new else "silent"

    def _queue(self, message: DirectMessage) -> Verdict:
        channel = message.channel.value
        key = f"{INBOUND}{channel}/{message.key}"
        is_new = self._store.add_message_once(key, f"{INBOUND}{channel}", message.sender, message.text)
        return "queued" if is_new else "duplicate"


def _answer(message: DirectMessage, request: PendingRequest) -> str:
    minutes = max(round(request.time_left / 60), 1)
    return (
        f"This service does not know you yet, and has not read your message. Your pairing code is {request.code}. "
        f"It is valid for {minutes} min. Whoever runs the service can admit you with it:\n\n"
        f"inv pairing.approve {message.channel.value} {request.code}\n\nThen write again."
    )
