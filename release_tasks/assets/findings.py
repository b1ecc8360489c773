"""What the kinds of assets report: state that cannot be read, differences, the results of checks."""

from __future__ import annotations

from pathlib import Path

from attrs import field, frozen

from release_tasks.core.canonical import excerpt_line
from release_tasks.core.errors import StageFailed

__all__ = ["AssetFinding", "Busy", "CopyCheck", "Damaged", "Drift", "Inspection", "Listing", "RowCounts"]


class Damaged(StageFailed):
    """The live state of an asset cannot be read as an asset of its kind."""


class Busy(StageFailed):
    """Other processes hold a lock on the live state at ``path``; ``holders`` names them where the system reports it."""

    def __init__(self, path: Path, holders: str, seconds: float, advice: str = "") -> None:
        super().__init__(
            f"{path} stayed locked by {holders} for {seconds:g} s. End the transaction that holds the lock, or stop "
            f"the service, and try again. {advice}".rstrip()
        )
        self.path = path
        self.holders = holders


@frozen(kw_only=True)
class AssetFinding:
    """One difference between an asset and its record. ``found`` is None when the asset is missing."""

    key: str
    what: str
    expected: str | None = None
    found: str | None = None

    def __str__(self) -> str:
        text = f"asset {excerpt_line(self.key)}: {excerpt_line(self.what, 1000)}"
        if self.expected is None:
            return text
        return f"{text} (recorded {excerpt_line(self.expected)}, found {excerpt_line(self.found or 'nothing')})"


@frozen
class RowCounts:
    """The rows of one table in a captured database and in the live one; None where they cannot be counted."""

    captured: int | None
    live: int | None


@frozen(kw_only=True)
class Drift:
    """How the live state of an asset differs from a captured state.

    ``form`` has the differences in what a service does not write as data: files, modes, owners, presence; ``schema``
    those of a database's schema. State with either is not the captured state. ``rows`` has the tables whose numbers of
    rows differ or are unknown, ``has_other_data`` is True for any other content. ``is_lost``: the state is missing or
    cannot be read. ``notes`` are for the operator.
    """

    form: list[str] = field(factory=list)
    schema: list[str] = field(factory=list)
    rows: dict[str, RowCounts] = field(factory=dict)
    has_other_data: bool = False
    is_lost: bool = False
    notes: list[str] = field(factory=list)

    @property
    def is_in_place(self) -> bool:
        """Whether only data differs, which a service writes while it runs."""
        return not (self.form or self.schema)


@frozen(kw_only=True)
class CopyCheck:
    """The result of a check of the content of a copy. ``unchecked`` is what was not checked and why, or None."""

    problems: list[str]
    unchecked: str | None = None


@frozen(kw_only=True)
class Inspection:
    """The result of reading the content of a copy. ``problem`` is empty for an intact copy; ``rows`` has row counts.

    ``unchecked`` is the reason why the content was not read; it is no problem.
    """

    problem: str = ""
    unchecked: str = ""
    rows: dict[str, int | None] = field(factory=dict)


@frozen
class Listing:
    """The parts of a copy by name, to be compared with another copy. ``is_shown``: the values may be printed."""

    name: str
    values: dict[str, str]
    is_shown: bool = False
