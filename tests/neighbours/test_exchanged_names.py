"""Another user owns the folders of the state, and exchanges names in them while root runs a stage.

The exchange is done by a process of that user. The stage is stopped for it after a lookup of a name, at every one of
them in turn: between two lookups root has found one thing and will find another. Whatever the stage does then, files
that only root may see stay as they are, stay secret, and no file of root gets the setuid bit.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest

from tests.support.faults.marks import NEEDS_MOUNTS, NEEDS_STRACE
from tests.support.neighbours.neighbour import NEEDS_NEIGHBOUR
from tests.support.neighbours.siege import Attack, Siege

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.timeout(1500),
    NEEDS_STRACE,
    NEEDS_NEIGHBOUR,
]

# Tries; EVERY_CALL=1 in the environment tries every lookup.
_TRIES = 200
_HALF = 100  # of two tests about the same: an asset, and the side files of a database
_FEWER = 50

# A stage, and the state of everything before it.
_CHANGING = (("rollback", "damaged"), ("recover", "interrupted"), ("prepare", "damaged"))
_LOOKING = (("plan", "damaged"), ("diagnose", "damaged"), ("drill", "damaged"))

# What is exchanged with what.
_FOLDER_ABOVE = (
    ("data", "link-vault"),
    ("data", "links-data"),
    ("data", "mirror-links"),
    ("data", "mirror-files"),
    ("data", "twin"),
    ("data", "root-link"),
)
_ASSETS = (
    ("data/app.db", "link-app.db"),
    ("data/conf.json", "link-conf.json"),
    ("data/ident", "link-ident"),
    ("data/ident", "links-ident"),
    ("data/ident", "mirror-links"),
    ("data/ident/sub", "link-ident-sub"),
)
# A mount point: its content is overwritten in place, and the other user can exchange names inside it only.
_IN_MOUNT = (
    ("data/ident/sub", "../data/ident/link-now"),
    ("data/ident/key", "../data/ident/link-now"),
    ("data/ident/tool", "../data/ident/link-now"),
)
_SIDE_FILES = (
    ("data/app.db-journal", "link-shadow"),
    ("data/app.db-wal", "link-shadow"),
    ("data/app.db-shm", "link-shadow"),
)
_STAGED = (
    ("data/.*release-tasks-*", "link-ident"),
    ("data/.*release-tasks-*", "links-ident"),
    ("data/.*release-tasks-*", "mirror-links"),
    ("data/.*release-tasks-*", "mirror-files"),
    ("data/.*release-tasks-*/sub", "link-ident-sub"),
)
_HARD_LINKS = (
    ("data/app.db", "hard-app.db"),
    ("data/conf.json", "hard-conf.json"),
    ("data/app.db-journal", "hard-shadow"),
    ("data/app.db-wal", "hard-shadow"),
    ("data/app.db-shm", "hard-shadow"),
)
_OTHER_TYPES = (
    ("data/app.db", "pipe"),
    ("data/app.db", "folder"),
    ("data/conf.json", "pipe"),
    ("data/conf.json", "folder"),
    ("data/ident", "file"),
    ("data", "file"),
    ("data", "folder"),
)


def attacks(stages: Iterable[tuple[str, str]], exchanges: Iterable[tuple[str, str]]) -> list[Attack]:
    """Return each exchange during each stage."""
    pairs = itertools.product(stages, exchanges)
    return [Attack(stage, target, bait, template) for (stage, template), (target, bait) in pairs]


@pytest.mark.parametrize(
    ("tried", "count"),
    [
        pytest.param(attacks(_CHANGING, _FOLDER_ABOVE), _TRIES, id="folder above"),
        pytest.param(attacks(_CHANGING, _ASSETS), _HALF, id="asset"),
        pytest.param(attacks(_CHANGING, _SIDE_FILES), _HALF, id="side file of the database"),
        pytest.param(attacks(_CHANGING[:2], _STAGED), _TRIES, id="staged copy"),
        pytest.param(
            attacks([("recover", "planted"), ("prepare", "planted")], _STAGED), _TRIES, id="planted leftovers"
        ),
        pytest.param(attacks([("rollback", "lost")], _FOLDER_ABOVE + _STAGED), _FEWER, id="lost folder"),
        pytest.param(attacks([("rollback", "mounted")], _IN_MOUNT), _FEWER, id="mount point", marks=NEEDS_MOUNTS),
        pytest.param(attacks(_CHANGING, _HARD_LINKS), _FEWER, id="hard link"),
        pytest.param(attacks(_CHANGING, _OTHER_TYPES), _FEWER, id="other type"),
        pytest.param(
            attacks(_LOOKING, _FOLDER_ABOVE + _ASSETS + _SIDE_FILES + _HARD_LINKS), _FEWER, id="while looking"
        ),
    ],
)
def test_name_exchanged_at_a_lookup_leads_root_nowhere(siege: Siege, tried: list[Attack], count: int) -> None:
    """The state is whole after the next recovery and rollback, when the names are in order again."""
    assert siege.attack(tried, count) == []


@pytest.mark.parametrize("siege", ["wal"], indirect=True)
def test_name_exchanged_at_a_lookup_of_a_wal_database_leads_root_nowhere(siege: Siege) -> None:
    """SQLite makes a WAL and its index next to the database when it reads."""
    database = [exchange for exchange in _ASSETS + _SIDE_FILES + _HARD_LINKS if "app.db" in exchange[0]]
    assert siege.attack(attacks(_CHANGING + _LOOKING[:1], database), _FEWER) == []


def test_names_exchanged_before_a_stage_lead_root_nowhere(siege: Siege) -> None:
    """The stage refuses them, or finishes on the right state."""
    exchanges = _FOLDER_ABOVE + _ASSETS + _SIDE_FILES + _STAGED + _HARD_LINKS + _OTHER_TYPES
    stages = (*_CHANGING, *_LOOKING, ("recover", "planted"))
    found = [damage for attack in attacks(stages, exchanges) for damage in siege.before(attack)]
    assert found == []
    assert siege.tries > 150


@pytest.mark.parametrize(
    ("target", "bait"), [("data", "link-vault"), ("data/app.db", "link-app.db"), ("data/ident", "links-ident")]
)
def test_names_exchanged_all_the_time_lead_root_nowhere(siege: Siege, target: str, bait: str) -> None:
    """Without strace: the other user exchanges them in a loop, as fast as possible."""
    assert siege.storm(target, bait, 70) == []


def test_the_siege_sees_what_a_careless_program_does(siege: Siege) -> None:
    """A program that looks twice at a path harms the vault: these tests can fail."""
    found = siege.attack([Attack("careless", "data", "link-vault")], 5)
    assert any("vault: conf.json" in damage for damage in found)


def test_the_neighbour_has_no_rights_of_root(siege: Siege) -> None:
    """The process of the other user cannot enter the vault, so what happens there root has done."""
    assert not siege.neighbour.exchange("../../vault/ident", "spare/folder")
    assert siege.street.damages() == []
