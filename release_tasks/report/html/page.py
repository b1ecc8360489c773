"""What the page of a release tells, as values; nothing here knows of HTML, and every text may be somebody else's."""

from __future__ import annotations

from typing import Literal

from attrs import field, frozen

from release_tasks.archive.diff import Difference

__all__ = [
    "Asset",
    "Attempt",
    "AuditTrail",
    "Bar",
    "Course",
    "Differences",
    "Event",
    "Fact",
    "Gate",
    "HealthStrip",
    "History",
    "Log",
    "Past",
    "Provenance",
    "ReleasePage",
    "Rollback",
    "Snapshot",
    "Step",
    "Tone",
    "Verdict",
    "WayBack",
]

Tone = Literal["good", "bad", "warn", "quiet"]


@frozen(kw_only=True)
class Verdict:
    """How the release stands: one word, a sentence, and what speaks for it."""

    word: str
    tone: Tone
    sentence: str
    reasons: list[str] = field(factory=list)


@frozen(kw_only=True)
class Fact:
    """One thing to know at a glance; ``section`` is where the page says more of it."""

    label: str
    value: str
    note: str
    tone: Tone
    section: str


@frozen(kw_only=True)
class Bar:
    """A phase of the prepare, or a gate within preflight. ``begin`` and ``length`` are shares of the whole time."""

    name: str
    tone: Tone
    seconds: float
    begin: float
    length: float
    is_gate: bool = False


@frozen(kw_only=True)
class Step:
    """Something that happened to the release after its prepare; ``seconds`` is how long it took, if known."""

    at: str
    what: str
    tone: Tone
    detail: str = ""
    seconds: float | None = None


@frozen(kw_only=True)
class Course:
    """The time of a release: what its prepare spent it on, then what happened to it. ``seconds`` is the prepare's."""

    bars: list[Bar]
    steps: list[Step]
    started_at: str | None = None
    seconds: float = 0.0
    more_bars: int = 0


@frozen(kw_only=True)
class Log:
    """The end of a gate's log; ``problem`` says why there is none. ``size`` and ``shown`` are bytes."""

    path: str
    text: str = ""
    size: int = 0
    shown: int = 0
    problem: str = ""


@frozen(kw_only=True)
class Gate:
    """A gate with its evidence. ``facts`` are pairs of a label and what it was."""

    id: str
    subsystem: str
    word: str
    tone: Tone
    detail: str
    seconds: float
    is_advisory: bool
    command: str | None
    facts: list[tuple[str, str]]
    tail: list[str]
    next: str | None
    log: Log | None


@frozen(kw_only=True)
class Attempt:
    """One request to the health endpoint. ``height`` is its share of the slowest one's latency."""

    at: str
    status: str
    tone: Tone
    latency_ms: int | None
    http_status: int | None
    detail: str
    height: float


@frozen(kw_only=True)
class HealthStrip:
    """The attempts at health of one occasion, oldest first; ``left_out`` of ``total`` were not recorded.

    ``unit`` is what one of them is called there.
    """

    occasion: str
    unit: str
    tone: Tone
    detail: str
    url: str
    attempts: list[Attempt]
    total: int
    left_out: int
    slowest_ms: int


@frozen(kw_only=True)
class Asset:
    """One asset as the snapshot holds it. ``size`` is in bytes, ``entries`` counts the names in a folder."""

    key: str
    kind: str
    exists: bool
    size: int
    mode: str
    sha256: str | None
    content_digest: str | None
    entries: int | None
    tone: Tone
    finding: str


@frozen(kw_only=True)
class Snapshot:
    """The snapshot of the release, read again for this page. ``size`` is in bytes over all assets."""

    snapshot_id: str
    folder: str
    is_there: bool
    tone: Tone
    finding: str
    created_at: str | None = None
    size: int = 0
    digest: str = ""
    assets: list[Asset] = field(factory=list)
    findings: list[str] = field(factory=list)
    is_restorable: bool = False
    needs_force: bool = False
    proof_tone: Tone = "quiet"
    proof: str = ""
    proof_at: str | None = None
    more_assets: int = 0


@frozen(kw_only=True)
class Differences:
    """What differs from the newest ready release before this one; ``before`` is None when there is none."""

    before: str | None
    rows: list[Difference] = field(factory=list)
    more: int = 0
    notes: list[str] = field(factory=list)


@frozen(kw_only=True)
class WayBack:
    """How to get back to the state before the release. ``commands`` are pairs of a purpose and what to type."""

    tone: Tone
    sentence: str
    commands: list[tuple[str, str]]
    notes: list[str] = field(factory=list)


@frozen(kw_only=True)
class Rollback:
    """One rollback as the audit log tells it; ``seconds`` is the time to restore, None until it has ended."""

    rollback_id: str
    release_id: str
    snapshot_id: str
    status: str
    started_at: str | None
    ended_at: str | None
    seconds: float | None
    detail: str
    actor: str
    safety_snapshot_id: str | None = None
    health: object = None

    @property
    def took_effect(self) -> bool:
        """Whether its snapshot went live."""
        return self.status in ("restored", "live")


@frozen(kw_only=True)
class Past:
    """One release in the history."""

    release_id: str
    word: str
    tone: Tone
    version: str
    prepared_at: str | None
    gates: str
    snapshot: str
    seconds_to_restore: float | None
    is_this: bool
    detail: str = ""


@frozen(kw_only=True)
class History:
    """The newest releases, newest first. ``failed_share`` is taken back of ready; None without a ready one."""

    rows: list[Past]
    total: int
    ready: int
    blocked: int
    taken_back: int
    failed_share: float | None
    median_seconds: float | None
    longest_seconds: float | None
    problem: str = ""


@frozen(kw_only=True)
class Event:
    """One event of the audit log."""

    seq: int
    at: str
    event: str
    status: str
    tone: Tone
    concerns: str
    actor: str
    detail: str
    hash: str


@frozen(kw_only=True)
class AuditTrail:
    """The state of the chain, and the events that concern this release, newest first."""

    tone: Tone
    word: str
    sentence: str
    problems: list[str]
    notes: list[str]
    events: list[Event]
    more: int


@frozen(kw_only=True)
class Provenance:
    """What the page was made from, and by what."""

    manifest_path: str
    manifest_digest: str | None
    manifest_problem: str
    attested_tone: Tone
    attested: str
    attested_findings: list[str]
    versions: list[tuple[str, str]]


@frozen(kw_only=True)
class ReleasePage:
    """All that the page of one release tells. Times are RFC 3339 in UTC."""

    release_id: str
    app_name: str
    version: str | None
    commit: str | None
    is_dirty: bool
    prepared_at: str | None
    prepared_by: str
    generated_at: str
    verdict: Verdict
    notices: list[str]
    facts: list[Fact]
    course: Course
    gates: list[Gate]
    more_gates: int
    health: list[HealthStrip]
    snapshot: Snapshot | None
    differences: Differences
    way_back: WayBack
    history: History
    audit: AuditTrail
    provenance: Provenance
