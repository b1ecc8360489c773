"""The decision about a message: which of its ids are approved, revoked, or ids of the same person.

A WhatsApp message can contain several ids of its sender: a phone number and a business-scoped id. An approval is always
an approval of one id and is never extended to another id. A revocation counts for the person: for every id that was
seen with the revoked one in one message.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from attrs import field, frozen

from release_tasks.pairing.channels import Channel, senders_of
from release_tasks.pairing.dialects import ApprovedDocument, joined

__all__ = ["NO_APPROVALS", "Approvals", "approvals_of"]


@frozen(kw_only=True)
class Approvals:
    """The approvals of one channel, all ids normalised.

    ``revoked`` are ids whose last decision is a revocation. ``persons`` contains, for an id that was seen with other
    ids, all ids of that person.
    """

    approved: frozenset[str] = frozenset()
    revoked: frozenset[str] = frozenset()
    persons: Mapping[str, frozenset[str]] = field(factory=dict)

    def person(self, senders: Iterable[str]) -> frozenset[str]:
        """Return these ids and all ids that were seen with one of them."""
        return frozenset().union(*({sender} | self.persons.get(sender, frozenset()) for sender in senders))

    def admitted(self, senders: Sequence[str]) -> str | None:
        """Return the first approved id of a message with these ids; None if it is not admitted.

        A message is admitted when one of its ids is approved and no id of its sender is revoked.
        """
        if not self.revoked.isdisjoint(self.person(senders)):
            return None
        return next((sender for sender in senders if sender in self.approved), None)

    def is_unlinked(self, senders: Sequence[str]) -> bool:
        """Return whether decisions about several of these ids exist, which are not known as ids of one person."""
        decided = [sender for sender in senders if sender in self.approved or sender in self.revoked]
        return len(decided) > 1 and not self.persons.get(decided[0], frozenset()).issuperset(decided)


NO_APPROVALS = Approvals()


def approvals_of(channel: Channel, document: ApprovedDocument) -> Approvals:
    """Return the approvals in a file, without invalid and shared ids.

    An id in both lists is approved: another program, which does not know the list of revoked ids, approved it later.
    """
    approved = frozenset(senders_of(channel, document.entries))
    groups = [senders_of(channel, group) for group in document.persons.groups]
    return Approvals(
        approved=approved,
        revoked=frozenset(senders_of(channel, document.persons.revoked)) - approved,
        persons={sender: group for group in joined(groups) for sender in group},
    )
