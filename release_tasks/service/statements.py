"""The statements of a JSON health answer: what it says of the service itself, and what it says of each part."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from attrs import evolve, frozen

from release_tasks.core.canonical import excerpt_line
from release_tasks.core.records import HealthWord
from release_tasks.service.words import is_plain_fault, is_resting, read_value, tokens_of, words

__all__ = ["Statement", "own_statements", "part_statements", "reason_of", "worst"]

_MAX_DEPTH = 12
_RANK: dict[HealthWord | None, int] = {None: 0, "ok": 1, "degraded": 2, "failed": 3}

# The keys of an object that say how it is, as the words of their names joined.
_STATUS = words(
    "status health healthcheck healthstatus healthstate overall overallstatus overallhealth aggregatedstatus "
    "servingstatus apistatus appstatus applicationstatus clusterstatus globalstatus serverstatus servicestatus "
    "systemstatus"
)
_SECONDARY = words("state result outcome")
_CODES = words("code statuscode httpstatus httpcode")
_FLAGS = words("healthy ready alive live up available serving operational reachable")
_ENVELOPE_FLAGS = words("ok success")
# False is no fault: a worker rests between two jobs, a client connects when it is used.
_BUSY_FLAGS = words("running online active connected")
_FAULT_FLAGS: dict[str, HealthWord] = {
    **dict.fromkeys(("error", "failed", "unhealthy", "down"), "failed"),
    "degraded": "degraded",
}
_CIRCUITS = words("circuit circuitstate circuitbreaker circuitbreakerstate")
_TEXTS = words("message msg errmsg level res response reply ping answer data payload body content")
_OWN = _STATUS | _SECONDARY | _CODES | _FLAGS | _ENVELOPE_FLAGS | _BUSY_FLAGS | _FAULT_FLAGS.keys() | _CIRCUITS | _TEXTS

# The keys of the objects that wrap an answer, and of the parts of a service.
_WRAPPERS = words("data result response payload body health status overall")
_CHECKS = words(
    "checks check components services dependencies entries results subsystems modules systems probes indicators "
    "healthchecks backends connections databases"
)
_BAGS = words("details info")  # checks in one service, facts such as versions in another
_DEPENDENCIES = words(
    "database db metadatabase sql postgres postgresql mysql mariadb sqlite mongo mongodb redis cache queue broker "
    "rabbitmq kafka nats storage disk search elasticsearch opensearch smtp ldap s3"
)
# The value of such a key is about the past, one piece of work, or a setting.
_UNRELATED = words(
    "last latest previous recent history log logs logging level mode env environment job jobs task tasks event events "
    "record records request requests message messages incident incidents run runs color colour theme version name "
    "title description type kind policy strategy"
)
_NEUTRAL = words(
    "running active busy idle paused enabled connected maintenance degraded debug failed failure failures error errors "
    "down unhealthy leader primary standby required read only readonly"
)
_NAMES = ("id", "name", "service", "component", "Name", "CheckID", "Node", "service_id")
_REASONS = ("error", "reason", "message", "detail", "output", "description")


@frozen
class Statement:
    """What the value ``value`` of the key ``name`` says; ``word`` is None for a status whose word is not known.

    ``path`` is the part that it is about, empty for the whole service.
    """

    path: str
    name: str
    value: Any
    word: HealthWord | None
    reason: str = ""
    is_envelope: bool = False  # `ok` and `success` may say only that the request was answered
    is_wrapped: bool = False
    is_secondary: bool = False  # a `state` is another thing than health in some services

    def rank(self) -> tuple[int, bool]:
        """Return the order of the statement: higher is worse; of two equal ones, the more precise one is higher."""
        return _RANK[self.word], not self.is_envelope

    @property
    def whole(self) -> str:
        """The statement with its key."""
        return (
            f"{self.name}: {str(self.value).lower()}" if isinstance(self.value, bool) else f"{self.name} {self.value}"
        )

    @property
    def shown(self) -> str:
        """The statement of a part: its status alone, every other value with its key."""
        return str(self.value) if _key(self.name) in _STATUS else self.whole


def worst(statements: Iterable[Statement]) -> HealthWord | None:
    """Return the worst known word; None without one."""
    return max((statement.word for statement in statements), key=lambda word: _RANK[word], default=None)


def reason_of(fields: dict[str, Any]) -> str:
    """Return the reason that an object gives for its status, in brackets, or an empty text."""
    details = fields.get("details")
    for source in (fields, details if isinstance(details, dict) else {}):
        for key in _REASONS:
            value = source.get(key)
            if isinstance(value, dict):
                value = value.get("message")
            if isinstance(value, str) and value.strip():
                return f" ({excerpt_line(value)})"
    return ""


def own_statements(fields: dict[str, Any], depth: int = 0) -> list[Statement]:
    """Return what an object says of itself, also in the objects that wrap it, such as ``data``."""
    found: list[Statement] = []
    texts: list[Statement] = []
    for name, value in fields.items():
        key = _key(name)
        if isinstance(value, dict):
            if key in _WRAPPERS and depth < _MAX_DEPTH:
                found += [evolve(inner, is_wrapped=True) for inner in own_statements(value, depth + 1)]
            continue
        found += _read_own(name, key, value)
        word = read_value(value) if isinstance(value, str) else None
        if word is not None and (key in _TEXTS or len(fields) == 1):
            texts.append(Statement("", name, value, word))
    clear = [each for each in found if each.word == "ok" and not each.is_envelope]
    if clear:
        # `healthy: true` next to `state: leader`: an unknown word is no status when another value says ok.
        is_outer = any(not each.is_wrapped for each in clear)
        found = [
            each
            for each in found
            if each.word is not None or not (each.is_secondary or (is_outer and not each.is_wrapped))
        ]
    # A message may be about anything, so it counts only where no other value says how the service is.
    return found or texts


def part_statements(fields: dict[str, Any] | list[Any], path: str = "", depth: int = 0) -> Iterator[Statement]:
    """Yield what an answer says of its parts, to any depth, with the path of each part."""
    if depth > _MAX_DEPTH:
        return
    if isinstance(fields, list):
        yield from _entries(fields, path, depth, is_check=True)
        return
    for name, value in fields.items():
        key = _key(name)
        where = f"{path}.{name}" if path else name
        if _UNRELATED & set(tokens_of(name)):
            continue
        is_group = key in _CHECKS or _is_bag_of_checks(key, value)
        if key in _WRAPPERS and isinstance(value, dict) and not is_group:
            yield from part_statements(value, path, depth + 1)
        elif is_group or isinstance(value, list):
            yield from _entries(value, where, depth, is_check=is_group)
        elif isinstance(value, dict) or key not in _OWN:
            yield from _entry(where, name, value, depth, is_check=False)


def _read_own(name: str, key: str, value: Any) -> Iterator[Statement]:
    """Yield what one value says of the object that has it."""
    word = read_value(value)
    if key in _STATUS:
        if value is not None and not isinstance(value, list):
            yield Statement("", name, value, word, is_envelope=str(value).lower() == "success")
    elif key in _SECONDARY and isinstance(value, str):
        # A client that connects when it is used is disconnected until then.
        if value.lower() != "disconnected" and (word is not None or key == "state"):
            yield Statement("", name, value, word, is_secondary=True)
    elif key in _CODES and isinstance(value, int | str) and not isinstance(value, bool):
        if word is not None:
            yield Statement("", name, value, word, is_envelope=True)
    elif key in _CIRCUITS and isinstance(value, str):
        if value.lower().replace("_", "-") in ("open", "half-open"):
            yield Statement("", name, value, "degraded")
    elif key in _FAULT_FLAGS:
        if value is True:
            yield Statement("", name, value, _FAULT_FLAGS[key])
    elif key in _FLAGS | _ENVELOPE_FLAGS | _BUSY_FLAGS:
        word = read_value(bool(value)) if value in (0, 1) else word
        if word == "ok" or (word is not None and key not in _BUSY_FLAGS):
            yield Statement("", name, value, word, is_envelope=key in _ENVELOPE_FLAGS)


def _entries(value: Any, path: str, depth: int, *, is_check: bool) -> Iterator[Statement]:
    """Yield the statements of a map or a list of parts."""
    if isinstance(value, dict):
        for name, entry in value.items():
            yield from _entry(f"{path}.{name}", name, entry, depth, is_check=is_check)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            name = next((str(item[key]) for key in _NAMES if item.get(key)), "") if isinstance(item, dict) else ""
            where = f"{path}.{name or index}" if path else name or str(index)
            if isinstance(item, dict) or (is_check and path):
                yield from _entry(where, "", item, depth, is_check=is_check)


def _entry(path: str, name: str, entry: Any, depth: int, *, is_check: bool) -> Iterator[Statement]:
    """Yield the statements of one part: an object, a list of objects, a word or a boolean."""
    tokens = set(tokens_of(name))
    if _UNRELATED & tokens:
        return
    if isinstance(entry, dict):
        own = [each for each in own_statements(entry) if not is_resting(each.value)]
        if entry.get("connected") is False and _is_dependency(name):
            own.append(Statement("", "connected", False, "failed"))
        if own:
            yield evolve(max(own, key=Statement.rank), path=path, reason=reason_of(entry))
        yield from part_statements(entry, path, depth + 1)
    elif isinstance(entry, list):
        for item in entry:
            if isinstance(item, dict):
                yield from _entry(path, "", item, depth + 1, is_check=is_check)
    elif is_resting(entry):
        return
    elif (is_dependency := _is_dependency(name)) or is_check:
        word = read_value(entry) if isinstance(entry, str | bool) else None
        if word is not None and (is_dependency or entry is not False or not _NEUTRAL & tokens):
            yield Statement(path, "status", entry, word)
    elif is_plain_fault(entry):
        yield Statement(path, "status", entry, read_value(entry))


def _is_bag_of_checks(key: str, value: Any) -> bool:
    """Return whether ``details`` or the like has nothing but checks: booleans, known words, objects with a status."""
    if key not in _BAGS or not isinstance(value, dict) or any(_key(name) in _OWN for name in value):
        return False
    return all(
        bool(own_statements(item)) if isinstance(item, dict) else read_value(item) is not None
        for item in value.values()
    )


def _is_dependency(name: str) -> bool:
    """Return whether a key next to the status names a part: ``redis``, ``db_connected``, ``databaseStatus``."""
    first, *rest = tokens_of(name) or ("",)
    return first in _DEPENDENCIES and (not rest or rest[-1] in _STATUS | _FLAGS | _BUSY_FLAGS | {"ok", "state"})


def _key(name: str) -> str:
    key = "".join(tokens_of(name))
    bare = key.removeprefix("is")
    return bare if bare in _FLAGS | _FAULT_FLAGS.keys() | _BUSY_FLAGS else key
