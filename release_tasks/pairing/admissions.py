"""Who is admitted, answered from memory for as long as the file of approvals stays the same.

Each answer looks at the file itself, so that an approval or a revocation counts from the next message on.
"""

from __future__ import annotations

from attrs import frozen

from release_tasks.core.versions import FileVersion
from release_tasks.pairing.channels import Channel
from release_tasks.pairing.senders import persons
from release_tasks.pairing.store import Store

__all__ = ["Admissions"]


@frozen
class _Reading:
    version: FileVersion
    people: frozenset[str]


class Admissions:
    """The approvals of one store. Threads may share it: each reading is replaced as a whole."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._readings: dict[Channel, _Reading] = {}

    def people(self, channel: Channel) -> frozenset[str]:
        """Return everybody who is approved, each normalised; raises StoreUnusable."""
        version = self._store.approved_version(channel)
        reading = self._readings.get(channel)
        if version is not None and reading is not None and reading.version == version:
            return reading.people
        is_settled = version is not None and version.is_settled()  # before the reading, which takes its time
        people = frozenset(persons(channel, self._store.approved(channel)))
        if version is not None and is_settled and self._store.approved_version(channel) == version:
            self._readings[channel] = _Reading(version, people)
        return people
