"""A delta and its base are the database; what was altered, cut or forged in a delta is refused within limits."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from release_tasks.assets.sqlite.delta import DamagedDelta, Delta, DeltaWriter, WrittenDelta
from release_tasks.assets.sqlite.image import (
    StoredImage,
    image_digest,
    opened_image,
    stored_image,
    write_image,
)
from release_tasks.core.errors import StageFailed
from release_tasks.core.records import AssetRecord, StoredDelta

Pages = list[bytes]
HEAD, FRAME, TAIL = struct.Struct(">4sI"), struct.Struct(">II32s"), struct.Struct(">QQQ32s")


def sha256(data: bytes) -> str:
    """Return the digest of ``data``."""
    return hashlib.sha256(data).hexdigest()


def pipeline(folder: Path, base: bytes) -> tuple[Path, str]:
    """Make a pipeline folder with a base; return the path of a stored delta and the digest of the base."""
    stored = folder / "snapshots" / "v2" / "assets" / "database" / "service.db.rtd1"
    stored.parent.mkdir(parents=True)
    (folder / "bases").mkdir()
    (folder / "bases" / f"{sha256(base)}.db").write_bytes(base)
    return stored, sha256(base)


def write(stored: Path, base: Pages, new: Pages, page_size: int, order: list[int] | None = None) -> WrittenDelta:
    """Write the delta of ``new`` against ``base``; ``order`` has the numbers of the pages that are stored."""
    numbers = order if order is not None else [n for n in range(1, len(new) + 1) if base[n - 1 : n] != new[n - 1 : n]]
    with stored.open("wb") as file:
        writer = DeltaWriter(
            file, page_size=page_size, base_sha256=sha256(b"".join(base)), base_snapshot_id="v1_snapshot"
        )
        for number in numbers:
            writer.add(number, new[number - 1], base[number - 1] if number <= len(base) else None)
        written = writer.finish(pages=len(new), sha256=sha256(b"".join(new)))
    assert (written.size, written.sha256) == (stored.stat().st_size, sha256(stored.read_bytes()))
    assert written.pages_stored == len(numbers)
    return written


def record_of(stored: Path, base: Pages, new: Pages) -> AssetRecord:
    """Return the record of a stored delta."""
    data, result = stored.read_bytes(), b"".join(new)
    base_sha256 = sha256(b"".join(base))
    delta = StoredDelta(base_sha256=base_sha256, base_snapshot_id="v1_snapshot", sha256=sha256(data), size=len(data))
    return AssetRecord(
        key="k", relative_path="", kind="sqlite", exists=True, size=len(result), sha256=sha256(result), delta=delta
    )


@pytest.fixture
def small(tmp_path: Path) -> tuple[Path, Pages, Pages]:
    """A stored delta of a few pages, its base and its result."""
    chance = random.Random(3)
    base = [chance.randbytes(512) for _ in range(6)]
    new = [*base[:2], bytes(200) + base[2][200:], chance.randbytes(512), *base[4:], b"text" * 128]
    stored, _ = pipeline(tmp_path, b"".join(base))
    write(stored, base, new, 512)
    return stored, base, new


@settings(max_examples=150, deadline=None)
@given(
    page_size=st.sampled_from([1 << power for power in range(9, 17)]),
    seed=st.integers(0, 1 << 32),
    pages=st.tuples(st.integers(1, 40), st.integers(0, 40)),
    share=st.floats(0, 1),
)
def test_delta_and_base_are_the_database(
    tmp_path_factory: pytest.TempPathFactory, page_size: int, seed: int, pages: tuple[int, int], share: float
) -> None:
    """For each page size, when the database grew or shrank; a later record of a page wins; in any order."""
    chance = random.Random(seed)
    base = [chance.randbytes(page_size) for _ in range(pages[0])]
    new = [_changed(chance, page, share) for page in base[: pages[1]]]
    new += [chance.choice([chance.randbytes(page_size), bytes(page_size)]) for _ in range(pages[1] - len(base))]
    stored, digest = pipeline(tmp_path_factory.mktemp("delta"), b"".join(base))
    with stored.open("wb") as file:
        writer = DeltaWriter(file, page_size=page_size, base_sha256=digest, base_snapshot_id="v1")
        early = [number for number in range(1, len(new) + 4) if chance.random() < share]
        for number in early:  # these records are replaced, or behind the end
            writer.add(number, chance.randbytes(page_size), base[number - 1] if number <= len(base) else None)
        last = [n for n in range(1, len(new) + 1) if n in early or new[n - 1 : n] != base[n - 1 : n]]
        chance.shuffle(last)
        for number in last:
            writer.add(number, new[number - 1], base[number - 1] if number <= len(base) else None)
        writer.finish(pages=len(new), sha256=None)
    content = b"".join(new)
    with opened_image(stored) as image:
        assert (image.size, image.pages, image.page_size) == (len(content), len(new), page_size)
        assert image.read(0, image.size + 100) == content
        assert image_digest(image) == sha256(content)
        assert [image.page(number) for number in range(1, len(new) + 1)] == new
        assert [image.base_page(number) for number in range(1, len(base) + 2)] == [*base, None]
        for _ in range(10):
            offset, size = chance.randrange(len(content) + 1), chance.randrange(3 * page_size)
            assert image.read(offset, size) == content[offset : offset + size]
    with Delta.open(stored) as delta:
        assert list(delta.numbers()) == sorted({*early, *last})
        assert all(number in delta for number in last)


def _changed(chance: random.Random, page: bytes, share: float) -> bytes:
    if chance.random() >= share:
        return page
    start, size = chance.randrange(len(page)), chance.randrange(len(page))
    return page[:start] + chance.randbytes(len(page[start : start + size])) + page[start + size :]


def test_plain_file_is_its_own_base(tmp_path: Path) -> None:
    """The same interface reads a plain database; its page size is that of its header."""
    content = os.urandom(3 * 1024)
    content = content[:16] + (1024).to_bytes(2, "big") + content[18:]
    plain = tmp_path / "plain.db"
    plain.write_bytes(content)
    record = AssetRecord(key="k", relative_path="", kind="sqlite", exists=True, size=3072, sha256=sha256(content))
    with stored_image(plain, record) as image, (tmp_path / "copy").open("wb", buffering=0) as copy:
        assert (image.page_size, image.pages, image.base_sha256) == (1024, 3, None)
        assert image.page(2) == image.base_page(2) == content[1024:2048]
        assert write_image(image, copy.fileno()) == record.sha256
    assert (tmp_path / "copy").read_bytes() == content


def test_every_altered_byte_of_a_delta_is_refused(small: tuple[Path, Pages, Pages]) -> None:
    """Each byte, with a bit changed, before anything is decoded."""
    stored, base, new = small
    data = stored.read_bytes()
    record = record_of(stored, base, new)
    for position in range(len(data)):
        stored.write_bytes(data[:position] + bytes([data[position] ^ 1 << position % 8]) + data[position + 1 :])
        with pytest.raises(StageFailed), stored_image(stored, record) as image:
            image.read(0, image.size)
    stored.write_bytes(data)
    with stored_image(stored, record) as image:
        assert image.read(0, image.size) == b"".join(new)


def test_every_cut_and_any_addition_is_refused(small: tuple[Path, Pages, Pages]) -> None:
    """A delta of any other length is not the one that was written."""
    stored, _, _ = small
    data = stored.read_bytes()
    for other in [*(data[:length] for length in range(len(data))), data + b"\0", data + data]:
        stored.write_bytes(other)
        with pytest.raises(DamagedDelta):
            Delta.open(stored)


def test_byte_that_changes_while_the_delta_is_open_is_found(small: tuple[Path, Pages, Pages]) -> None:
    """Each frame is compared with its digest when it is read."""
    stored, _, _ = small
    with opened_image(stored) as image:
        with stored.open("r+b") as file:
            file.seek(HEAD.unpack(stored.read_bytes()[:8])[1] + 8 + 5)
            file.write(b"\xff")
        with pytest.raises(DamagedDelta, match="frame 0 was altered"):
            image.read(0, image.size)


def sealed_again(data: bytes) -> bytes:
    """Return a changed delta with the digest of its bytes at its end, as an attacker who knows the format writes it."""
    return data[:-32] + hashlib.sha256(data[:-32]).digest()


def parts(data: bytes) -> tuple[bytes, bytes, bytes, list[tuple[int, int, bytes]], tuple[int, int, int, bytes]]:
    """Return header, frames, numbers, frame table and tail of a delta."""
    tail = TAIL.unpack(data[-32 - TAIL.size : -32])
    table = len(data) - 32 - TAIL.size - FRAME.size * tail[2]
    numbers = table - 4 * tail[1]
    start = HEAD.size + HEAD.unpack(data[:8])[1]
    frames = list(FRAME.iter_unpack(data[table : -32 - TAIL.size]))
    return data[:start], data[start:numbers], data[numbers:table], frames, tail


def joined(
    header: bytes, body: bytes, numbers: bytes, frames: list[tuple[int, int, bytes]], tail: tuple[int, int, int, bytes]
) -> bytes:
    """Return a delta of these parts."""
    table = b"".join(FRAME.pack(*frame) for frame in frames)
    return sealed_again(header + body + numbers + table + TAIL.pack(*tail) + bytes(32))


def _with_body(data: bytes, body: bytes) -> bytes:
    header, _, numbers, frames, tail = parts(data)
    return joined(header, body, numbers, [(len(body), frames[0][1], hashlib.sha256(body).digest())], tail)


def _with_header(data: bytes, header: bytes) -> bytes:
    _, body, numbers, frames, tail = parts(data)
    return joined(HEAD.pack(b"RTD1", len(header)) + header, body, numbers, frames, tail)


def _with_tail(data: bytes, **values: int) -> bytes:
    header, body, numbers, frames, tail = parts(data)
    names = dict(zip(("pages", "records", "frames"), tail, strict=False)) | values
    return joined(header, body, numbers, frames, (*names.values(), tail[3]))  # type: ignore[arg-type]


def _header(**values: object) -> bytes:
    given = {"baseSha256": "0" * 64, "baseSnapshotId": "v1", "pageSize": 512, **values}
    return json.dumps(given).encode()


FORGED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "bomb": (lambda data: _with_body(data, zlib.compress(bytes(1 << 30), 9)), "another size"),
    "short frame": (lambda data: _with_body(data, zlib.compress(b"x")), "another size"),
    "no zlib": (lambda data: _with_body(data, b"x" * 100), "cannot be decoded"),
    "bytes after a frame": (
        lambda data: _with_body(data, zlib.compress(zlib.decompress(parts(data)[1])) + b"x"),
        "another size",
    ),
    "kind of record": (
        lambda data: _with_body(data, zlib.compress(b"\2" + zlib.decompress(parts(data)[1])[1:])),
        "unknown kind",
    ),
    "many pages": (lambda data: _with_tail(data, pages=1 << 40), "invalid numbers"),
    "missing pages": (lambda data: _with_tail(data, pages=1 << 30), "do not have all pages"),
    "many records": (lambda data: _with_tail(data, records=1 << 62), "invalid numbers"),
    "many frames": (lambda data: _with_tail(data, frames=1 << 62), "invalid numbers"),
    "no frames": (lambda data: _with_tail(data, frames=0), "invalid numbers"),
    "page size": (lambda data: _with_header(data, _header(pageSize=500)), "no valid page size"),
    "page size of text": (lambda data: _with_header(data, _header(pageSize="512")), "no valid page size"),
    "base elsewhere": (lambda data: _with_header(data, _header(baseSha256="../../../etc/passwd")), "names no base"),
    "snapshot elsewhere": (lambda data: _with_header(data, _header(baseSnapshotId="../v1")), "names no base"),
    "no JSON": (lambda data: _with_header(data, b"{" * 3000), "not valid JSON|nested"),
    "long header": (lambda data: _with_header(data, b" " * 5000 + _header()), "too long"),
    "page 0": (
        lambda data: joined(
            *parts(data)[:2], bytes(len(parts(data)[2])), *parts(data)[3:]
        ),
        "page 0",
    ),
    "xor behind the base": (
        lambda data: joined(
            *parts(data)[:2], parts(data)[2][:-4] + struct.pack(">I", 7), *parts(data)[3:]
        ),
        "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGED)
def test_forged_delta_is_refused_within_limits(small: tuple[Path, Pages, Pages], name: str) -> None:
    """All digests are right, and the content is not what the format allows: a sentence, and little memory."""
    stored, base, _ = small
    forge, message = FORGED[name]
    data = forge(stored.read_bytes())
    stored.write_bytes(data)
    tracemalloc.start()
    try:
        if not message:
            with opened_image(stored) as image:
                assert image.page(1) == base[0]
            return
        with pytest.raises(StageFailed, match=message), opened_image(stored) as image:
            image.read(0, 16 * 512)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_delta_of_another_record_is_refused(small: tuple[Path, Pages, Pages]) -> None:
    """Each value of the record must be that of the file."""
    stored, base, new = small
    record = record_of(stored, base, new)
    assert record.delta is not None
    with stored_image(stored, record) as image:
        assert image.read(0, image.size) == b"".join(new)
    others = [evolve(record, sha256="0" * 64), evolve(record, size=512), evolve(record, delta=None)]
    for name, value in {"base_sha256": "1" * 64, "base_snapshot_id": "x", "sha256": "2" * 64, "size": 3}.items():
        others.append(evolve(record, delta=evolve(record.delta, **{name: value})))  # type: ignore[arg-type]
    for other in others:
        with pytest.raises(DamagedDelta), stored_image(stored, other):
            pass


def test_missing_base_and_links_are_refused(small: tuple[Path, Pages, Pages]) -> None:
    """The base is a regular file of its own name; a link could lead anywhere."""
    stored, base, _ = small
    path = stored.parents[4] / "bases" / f"{sha256(b''.join(base))}.db"
    moved = path.rename(path.with_suffix(".moved"))
    with pytest.raises(FileNotFoundError, match=path.name), opened_image(stored):
        pass
    path.symlink_to(moved)
    with pytest.raises(OSError, match=path.name), opened_image(stored):
        pass
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(StageFailed, match="is not a regular file"), opened_image(stored):
        pass
    path.unlink()
    path.write_bytes(b"".join(base)[:-512])
    with pytest.raises(StageFailed), opened_image(stored) as image:
        image.read(0, image.size)


def test_memory_of_a_writer_does_not_grow_with_the_database() -> None:
    """Only a frame, and a few bytes for each page, stay in memory."""
    page, base = os.urandom(4096), os.urandom(4096)

    class Sink(io.RawIOBase):
        def write(self, data: object) -> int:
            return len(memoryview(data))  # type: ignore[arg-type]

    tracemalloc.start()
    try:
        writer = DeltaWriter(Sink(), page_size=4096, base_sha256="0" * 64, base_snapshot_id="v1")  # type: ignore[arg-type]
        for number in range(1, 20_000):
            writer.add(number, page, base if number % 2 else None)
        writer.finish(pages=20_000, sha256=None)
        assert tracemalloc.get_traced_memory()[1] < 3 << 20
    finally:
        tracemalloc.stop()


def test_lock_page_may_be_left_out(tmp_path: Path) -> None:
    """SQLite never writes the page of the byte 0x40000000; of a base that ends before it, it is zeros."""
    size = 65536
    lock_page = 0x40000000 // size + 1
    base_file = tmp_path / "base"
    with base_file.open("wb") as file:
        file.truncate((lock_page - 1) * size)
    file_io = io.BytesIO()
    writer = DeltaWriter(file_io, page_size=size, base_sha256="0" * 64, base_snapshot_id="v1")
    writer.add(lock_page + 1, b"x" * size, None)
    writer.finish(pages=lock_page + 1, sha256=None)
    stored = tmp_path / "delta"
    stored.write_bytes(file_io.getvalue())
    with Delta.open(stored) as delta, base_file.open("rb") as base:
        image = StoredImage(base.fileno(), base_file, delta)
        assert image.page(lock_page) == bytes(size)
        assert image.page(lock_page + 1) == b"x" * size
        assert image.base_page(lock_page) is None


def test_arguments_that_no_delta_has_are_refused() -> None:
    """A writer never writes what a reader refuses."""
    file = io.BytesIO()
    for values in ({"page_size": 1000}, {"base_sha256": "x"}, {"base_snapshot_id": "../x"}):
        given = {"page_size": 512, "base_sha256": "0" * 64, "base_snapshot_id": "v1", **values}
        with pytest.raises(ValueError, match="no delta"):
            DeltaWriter(file, **given)  # type: ignore[arg-type]
    writer = DeltaWriter(file, page_size=512, base_sha256="0" * 64, base_snapshot_id="v1")
    for number, content in ((0, bytes(512)), (1, bytes(511)), (1 << 32, bytes(512))):
        with pytest.raises(ValueError, match="page"):
            writer.add(number, content, None)
