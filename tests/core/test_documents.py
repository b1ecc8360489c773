"""Canonical JSON, a strict reader, and records that are read back unchanged."""

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
def test_canonical_and_pretty_json_are_read_back_unchanged(value: dict[str, Any]) -> None:
    """The strict reader reads both forms; the canonical form is ASCII on one line."""
    compact = canonical_bytes(value)
    assert parse_object(compact, "x") == value
    assert compact.isascii() and b"\n" not in compact
    assert parse_object(pretty_bytes(value), "x") == value


@pytest.mark.smoke
def test_canonical_json_is_sorted_without_spaces() -> None:
    """Hashes are computed over these bytes."""
    assert canonical_bytes({"b": [1, True, None], "a": "\u00e9\n"}) == b'{"a":"\\u00e9\\n","b":[1,true,null]}'


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_are_never_written(value: float) -> None:
    """JSON has no form for NaN and Infinity."""
    with pytest.raises(ValueError):
        canonical_bytes({"x": value})
    with pytest.raises(ValueError):
        pretty_bytes({"x": value})


def test_names_that_are_not_utf8_can_be_written() -> None:
    """A file name of arbitrary bytes is text with surrogates in Python and is valid in metadata."""
    value = {"path": os.fsdecode(b"caf\xe9")}
    assert parse_object(pretty_bytes(value), "x") == value


@settings(max_examples=100, deadline=None)
@given(st.binary() | OBJECTS.map(lambda value: json.dumps(value).encode()[:-1]) | st.text().map(str.encode))
def test_strict_reader_raises_only_invalid_document(data: bytes) -> None:
    """For any bytes the result is an object or a message."""
    try:
        assert isinstance(parse_object(data, "state.json"), dict)
    except InvalidDocument as error:
        assert "state.json" in str(error)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.binary())
def test_reading_a_file_raises_only_invalid_document(tmp_path: Path, data: bytes) -> None:
    """The same is true for files."""
    (tmp_path / "file.json").write_bytes(data)
    try:
        read_document(tmp_path / "file.json")
    except InvalidDocument as error:
        assert "file.json" in str(error)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not valid JSON"),
        (b"[]", "should contain a JSON object, not list"),
        (b"null", "should contain a JSON object"),
        (b"\xff{}", "not UTF-8"),
        (b"\xef\xbb\xbf{}", "not valid JSON: it starts with a byte order mark"),
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
def test_refused_document_has_a_reason(data: bytes, message: str) -> None:
    """Each kind of error has its message."""
    with pytest.raises(InvalidDocument, match=r"^state\.json ") as error:
        parse_object(data, "state.json")
    assert message in str(error.value)


def test_document_of_64_levels_is_read() -> None:
    """The documented limit of nesting is the real one."""
    assert parse_object(b'{"a":' * 64 + b"1" + b"}" * 64, "x")


@pytest.mark.parametrize("existing", ["link", "folder", "pipe", "device", "large", "dangling"])
def test_document_that_is_no_regular_file_is_refused_immediately(tmp_path: Path, existing: str) -> None:
    """A pipe or a device does not make the reader wait; links are not followed."""
    path = tmp_path / "file.json"
    if existing == "link":
        (tmp_path / "real").write_text("{}")
        path.symlink_to("real")
    elif existing == "dangling":
        path.symlink_to("nowhere")
    elif existing == "folder":
        path.mkdir()
    elif existing == "pipe":
        os.mkfifo(path)
    elif existing == "device":
        path = Path("/dev/null")
    else:
        with path.open("wb") as file:
            file.truncate((16 << 20) + 1)
    with pytest.raises(InvalidDocument, match=str(path)):
        read_document(path)


def test_missing_document_raises_file_not_found(tmp_path: Path) -> None:
    """Absence differs from damage."""
    with pytest.raises(FileNotFoundError):
        read_document(tmp_path / "nothing.json")


def test_refused_documents_leave_no_descriptor_open(tmp_path: Path) -> None:
    """A long-running program does not run out of descriptors."""
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(InvalidDocument):
            read_document(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("cls", RECORDS, ids=lambda cls: cls.__name__)
@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(data=st.data())
def test_decoding_raises_only_invalid_document(cls: type, data: st.DataObject) -> None:
    """An object with the right keys and any values is a record or a message that names the document."""
    keys = list(encode(_smallest(cls)))
    value = data.draw(st.fixed_dictionaries({}, optional=dict.fromkeys(keys, VALUES)))
    try:
        assert isinstance(decode(cls, value, "state.json"), cls)
    except InvalidDocument as error:
        assert str(error).startswith("state.json does not have the expected form (")


@pytest.mark.parametrize("cls", RECORDS, ids=lambda cls: cls.__name__)
def test_records_are_read_back_unchanged_and_ignore_new_keys(cls: type) -> None:
    """A file of a later release with more keys is still read."""
    record = _smallest(cls)
    value = parse_object(canonical_bytes(encode(record)), "x")
    assert decode(cls, value, "x") == record
    assert decode(cls, {**value, "addedLater": {"x": 1}}, "x") == record


@pytest.mark.parametrize("cls", RECORDS, ids=lambda cls: cls.__name__)
def test_keys_on_disk_are_camel_case(cls: type) -> None:
    """Keys have no underscore and start with a lower-case letter."""
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
def test_value_of_a_wrong_type_is_named(change: dict[str, Any], finding: str) -> None:
    """Values are never converted: true is no number, 1.0 no count, 7 no name."""
    value = {"snapshotId": "s", "status": "success", "updatedAt": "t", "detail": ""}
    assert decode(records.RollbackState, value, "x").snapshot_id == "s"
    with pytest.raises(InvalidDocument) as error:
        decode(records.RollbackState, {**value, **change}, "x")
    assert finding in str(error.value)


def test_missing_key_is_named_as_in_the_file() -> None:
    """An operator can search the file for the name."""
    with pytest.raises(InvalidDocument, match=r"snapshotId: is missing"):
        decode(records.RollbackState, {"status": "success", "updatedAt": "t", "detail": ""}, "x")


def _smallest(cls: type) -> Any:
    """Return a record of ``cls`` with defaults where they exist."""
    hints = typing.get_type_hints(cls)
    required = [field.name for field in attrs.fields(cls) if field.default is attrs.NOTHING]
    return cls(**{name: _sample(hints[name]) for name in required})


def _sample(kind: Any) -> Any:
    arguments = typing.get_args(kind)
    if type(None) in arguments:
        return None
    if typing.get_origin(kind) is typing.Literal:
        return arguments[0]
    if typing.get_origin(kind) is list:
        return [_sample(arguments[0])]
    samples = {str: "x", int: 1, bool: True}
    return samples[kind] if kind in samples else _smallest(kind)
