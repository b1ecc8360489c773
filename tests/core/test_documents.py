"""JSON in one spelling, a strict reader, and records that come back as they were."""

from __future__ import annotations

import json
import os
import typing
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from release_tasks.core import records
from release_tasks.core.canonical import InvalidDocument, canonical_bytes, parse_object, pretty_bytes, read_document
from release_tasks.core.codec import decode, encode

RECORDS = [cls for name in records.__all__ if isinstance(cls := getattr(records, name), type) and attrs.has(cls)]

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
)
OBJECTS = st.dictionaries(st.text(), VALUES, max_size=5)


def shuffled(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: shuffled(inner) for key, inner in reversed(value.items())}
    return [shuffled(inner) for inner in value] if isinstance(value, list) else value


@settings(max_examples=40, deadline=None)
@given(OBJECTS)
def test_canonical_json_does_not_depend_on_the_order_of_keys(value: dict[str, Any]) -> None:
    """Equal values give equal bytes."""
    assert canonical_bytes(value) == canonical_bytes(shuffled(value))


@settings(max_examples=40, deadline=None)
@given(OBJECTS)
def test_canonical_and_pretty_json_come_back_as_they_were(value: dict[str, Any]) -> None:
    """Both spellings are read by the strict reader; the canonical one is ASCII on one line."""
    compact = canonical_bytes(value)
    assert parse_object(compact, "x") == value
    assert compact.isascii() and b"\n" not in compact
    assert parse_object(pretty_bytes(value), "x") == value


@pytest.mark.smoke
def test_canonical_json_is_sorted_without_spaces() -> None:
    """The very bytes that hashes are made over."""
    assert canonical_bytes({"b": [1, True, None], "a": "\u00e9\n"}) == b'{"a":"\\u00e9\\n","b":[1,true,null]}'


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_json_is_never_written(value: float) -> None:
    """NaN and Infinity have no spelling in JSON."""
    with pytest.raises(ValueError):
        canonical_bytes({"x": value})
    with pytest.raises(ValueError):
        pretty_bytes({"x": value})


def test_names_that_are_not_utf8_can_be_written() -> None:
    """A file name of arbitrary bytes arrives as text with surrogates and has to get into the metadata."""
    value = {"path": os.fsdecode(b"caf\xe9")}
    assert parse_object(pretty_bytes(value), "x") == value


@settings(max_examples=100, deadline=None)
@given(st.binary() | OBJECTS.map(lambda value: json.dumps(value).encode()[:-1]) | st.text().map(str.encode))
def test_the_strict_reader_raises_nothing_but_invalid_document(data: bytes) -> None:
    """Whatever the bytes are, the answer is an object or a sentence."""
    try:
        assert isinstance(parse_object(data, "state.json"), dict)
    except InvalidDocument as error:
        assert "state.json" in str(error)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.binary())
def test_reading_a_file_raises_nothing_but_invalid_document(tmp_path: Path, data: bytes) -> None:
    """The same holds for files."""
    (tmp_path / "file.json").write_bytes(data)
    try:
        read_document(tmp_path / "file.json")
    except InvalidDocument as error:
        assert "file.json" in str(error)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "not valid JSON"),
        (b"[]", "should contain a JSON object, not list"),
        (b"null", "should contain a JSON object"),
        (b"\xff{}", "not UTF-8"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        (b'{"a": 1, "a": 2}', "duplicate key 'a'"),
        (b'{"x": {"a": 1, "a": 2}}', "duplicate key 'a'"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": -Infinity}', "-Infinity is not JSON"),
        (b'{"a": 1} x', "not valid JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "nested too deeply"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a": 1e999}', "not valid JSON"),
    ],
    ids=lambda value: None if isinstance(value, bytes) else value,
)
def test_a_document_that_is_refused_says_why(data: bytes, sentence: str) -> None:
    """Each kind of wrong has its sentence."""
    with pytest.raises(InvalidDocument, match=r"^state\.json ") as error:
        parse_object(data, "state.json")
    assert sentence in str(error.value)


def test_a_document_of_64_levels_is_read() -> None:
    """The limit on nesting is the one that is documented."""
    assert parse_object(b'{"a":' * 64 + b"1" + b"}" * 64, "x")


@pytest.mark.parametrize("obstacle", ["link", "folder", "pipe", "device", "large", "dangling"])
def test_what_is_no_plain_file_is_refused_at_once(tmp_path: Path, obstacle: str) -> None:
    """Neither a pipe nor a device can make the reader wait; links are not followed."""
    path = tmp_path / "file.json"
    if obstacle == "link":
        (tmp_path / "real").write_text("{}")
        path.symlink_to("real")
    elif obstacle == "dangling":
        path.symlink_to("nowhere")
    elif obstacle == "folder":
        path.mkdir()
    elif obstacle == "pipe":
        os.mkfifo(path)
    elif obstacle == "device":
        path = Path("/dev/null")
    else:
        with path.open("wb") as file:
            file.truncate((16 << 20) + 1)
    with pytest.raises(InvalidDocument, match=str(path)):
        read_document(path)


def test_an_absent_document_is_its_own_case(tmp_path: Path) -> None:
    """Absence is told from damage."""
    with pytest.raises(FileNotFoundError):
        read_document(tmp_path / "nothing.json")


def test_refused_documents_leave_no_descriptor_open(tmp_path: Path) -> None:
    """A long-running program that reads often does not run out of descriptors."""
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(InvalidDocument):
            read_document(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("cls", RECORDS, ids=lambda cls: cls.__name__)
@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(data=st.data())
def test_decoding_raises_nothing_but_invalid_document(cls: type, data: st.DataObject) -> None:
    """An object with the right keys and arbitrary values is a record or a sentence that names the document."""
    keys = list(encode(_smallest(cls)))
    value = data.draw(st.fixed_dictionaries({}, optional=dict.fromkeys(keys, VALUES)))
    try:
        assert isinstance(decode(cls, value, "state.json"), cls)
    except InvalidDocument as error:
        assert str(error).startswith("state.json does not have the expected form (")


@pytest.mark.parametrize("cls", RECORDS, ids=lambda cls: cls.__name__)
def test_records_come_back_as_they_were_and_ignore_new_keys(cls: type) -> None:
    """A file of a later release with more keys is still read."""
    record = _smallest(cls)
    value = parse_object(canonical_bytes(encode(record)), "x")
    assert decode(cls, value, "x") == record
    assert decode(cls, {**value, "addedLater": {"x": 1}}, "x") == record


@pytest.mark.parametrize("cls", RECORDS, ids=lambda cls: cls.__name__)
def test_keys_on_disk_are_camel_case(cls: type) -> None:
    """No underscore, no capital at the front."""
    for key in encode(_smallest(cls)):
        assert key.isalnum() and key[0].islower(), key


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        ({"status": "maybe"}, "status"),
        ({"restored": 1}, "restored: expected bool, got int"),
        ({"snapshotId": 7}, "expected str, got int"),
        ({"snapshotId": None}, "expected str, got NoneType"),
        ({"audit": {"seq": True, "hash": "x"}}, "expected int, got bool"),
        ({"audit": {"seq": 1.0, "hash": "x"}}, "expected int, got float"),
        ({"audit": []}, "expected object, got list"),
        ({"audit": {"seq": 1}}, "audit.hash: is missing"),
    ],
)
def test_a_wrong_value_is_named(change: dict[str, Any], finding: str) -> None:
    """Values are never bent into shape: true is no number, 1.0 no count, 7 no name."""
    value = {"snapshotId": "s", "status": "success", "updatedAt": "t", "detail": ""}
    assert decode(records.RollbackState, value, "x").snapshot_id == "s"
    with pytest.raises(InvalidDocument) as error:
        decode(records.RollbackState, {**value, **change}, "x")
    assert finding in str(error.value)


def test_a_missing_key_is_named_as_the_file_spells_it() -> None:
    """An operator can search the file for the name in the sentence."""
    with pytest.raises(InvalidDocument, match=r"snapshotId: is missing"):
        decode(records.RollbackState, {"status": "success", "updatedAt": "t", "detail": ""}, "x")


def _smallest(cls: type) -> Any:
    """Make a record of ``cls``, defaults where there are any."""
    hints = typing.get_type_hints(cls)
    wanted = [field.name for field in attrs.fields(cls) if field.default is attrs.NOTHING]
    return cls(**{name: _sample(hints[name]) for name in wanted})


def _sample(kind: Any) -> Any:
    arguments = typing.get_args(kind)
    if type(None) in arguments:
        return None
    if typing.get_origin(kind) is typing.Literal:
        return arguments[0]
    if typing.get_origin(kind) is list:
        return [_sample(arguments[0])]
    plain = {str: "x", int: 1, bool: True}
    return plain[kind] if kind in plain else _smallest(kind)
