"""The words of health answers: those that say ok, degraded or failed. Every other word says nothing."""

from __future__ import annotations

import functools
import re
from typing import Any

from release_tasks.core.records import HealthWord

__all__ = ["is_plain_fault", "is_resting", "read_value", "tokens_of", "words"]


def words(text: str) -> frozenset[str]:
    """Return the words of a text as a set."""
    return frozenset(text.split())


_OK_WORDS = words(
    "ok okay pass passed passing up healthy success successful succeeded alive live ready running green serving online "
    "available operational active good fine normal nominal started connected reachable pong imok true yes"
)
_DEGRADED_WORDS = words("degraded warn warning yellow amber impaired unstable")
_FAILED_WORDS = words(
    "fail failed failing failure err error errored down unhealthy critical crit fatal red unready dead offline "
    "unavailable unreachable disconnected timeout refused crashed broken faulty invalid missing unusable bad outage ko "
    "nok false no"
)
_PHRASES: dict[str, HealthWord] = {
    "i'm alive": "ok",
    "i am alive": "ok",
    "all systems operational": "ok",
    "partially degraded": "degraded",
    "partially up": "degraded",
    "degraded performance": "degraded",
    "partial outage": "degraded",
    "circuit open": "degraded",
    "circuit half open": "degraded",
    "connection refused": "failed",
    "timed out": "failed",
    "out of service": "failed",
    "major outage": "failed",
    "internal server error": "failed",
}
_WORDS: dict[str, HealthWord] = {
    **dict.fromkeys(_OK_WORDS, "ok"),
    **dict.fromkeys(_DEGRADED_WORDS, "degraded"),
    **dict.fromkeys(_FAILED_WORDS, "failed"),
    **{f"not {word}": "failed" for word in _OK_WORDS},
    **_PHRASES,
}
# A word may follow one of these: `Server available`, `HEALTH_WARN`, `all good`.
_WHOLE = re.compile(r"(?:all|api|app|application|everything|health|server|service|status|system) (.+)")
_RESTING = words(
    "not_running not_active not_connected not_online"
)  # a worker between two jobs, a client before its use
# Next to a status, a value such as `tls: no` or `slot: red` is a fact, and no fault.
_FACTS = words("no false bad red yellow amber warn warning invalid missing")
_NOTHING = words("none no nothing null nil false ok")
_QUALIFIED = re.compile(
    r"\b(no(t|ne|thing|body|r|n)?|never|neither|without|except|but|if|unless|until|whether|can't|isn't)\b",
    re.IGNORECASE,
)
_MAX_SENTENCE = 80  # characters; a longer text is a page
_SENTENCE = re.compile(r"(?P<subject>(?:[\w.:/()'-]+ ){1,5})(?:is|check) (?P<word>[\w ]+)", re.ASCII)
_ALL = re.compile(r"(?P<subject>all [\w ]+) are (?P<word>\w+)", re.ASCII | re.IGNORECASE)
_LABELLED = re.compile(r"(?P<word>[A-Z]+): (?P<first>[A-Za-z]+)\b.*")
_HTTP_STATUS = re.compile(r"([1-5]\d\d) [a-z' -]+")
_TOKEN = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


def _read_word(text: str) -> HealthWord | None:
    """Return what a word says, in any case and with any separator: ``Out_Of_Service``; None for an unknown word."""
    if len(text) > _MAX_SENTENCE:
        return None
    word = " ".join(re.split(r"[\s_-]+", text.strip().rstrip(".!").lower()))
    if status := _HTTP_STATUS.fullmatch(word):
        return _read_number(int(status[1]))
    whole = _WHOLE.fullmatch(word)
    return _WORDS.get(word) or (_WORDS.get(whole[1]) if whole else None)


def _read_sentence(text: str) -> HealthWord | None:
    """Return what a line says: ``healthy``, ``NAME is healthy``, ``NAME check passed``, ``WARN: a reason``."""
    line = text.strip().rstrip(".!")
    if (word := _read_word(line)) is not None or len(line) > _MAX_SENTENCE:
        return word
    if labelled := _LABELLED.fullmatch(line):
        # `ERROR: none` is good news, and after `OK:` anything may follow.
        word = None if labelled["first"].lower() in _NOTHING else _read_word(labelled["word"])
        return word if word != "ok" else None
    sentence = _SENTENCE.fullmatch(line) or _ALL.fullmatch(line)
    if sentence is None or _QUALIFIED.search(sentence["subject"]):
        return None
    return _read_word(sentence["word"])


def read_value(value: Any) -> HealthWord | None:
    """Return what the value of a status says: a word, a boolean, or a number that is an HTTP status."""
    if isinstance(value, bool):
        return "ok" if value else "failed"
    if isinstance(value, str):
        return _read_sentence(value)
    return _read_number(value) if isinstance(value, int) else None


def is_plain_fault(value: Any) -> bool:
    """Return whether a text is a bad word that cannot be a mere fact, whatever its key is."""
    return (
        isinstance(value, str) and _read_word(value) in ("degraded", "failed") and value.strip().lower() not in _FACTS
    )


def is_resting(value: Any) -> bool:
    """Return whether a text says that a part has nothing to do, which is no fault of it."""
    return isinstance(value, str) and value.strip().lower().replace(" ", "_").replace("-", "_") in _RESTING


@functools.lru_cache(maxsize=4096)
def tokens_of(name: str) -> tuple[str, ...]:
    """Return the words of a key in lower case: ``databaseStatus`` and ``database_status`` have the same two."""
    return tuple(token.lower() for token in _TOKEN.findall(name[:100]))


def _read_number(number: int) -> HealthWord | None:
    """Return what an HTTP status says. Other numbers are ambiguous: 0 is success here, and false there."""
    return "ok" if 200 <= number < 300 else "failed" if 400 <= number < 600 else None
