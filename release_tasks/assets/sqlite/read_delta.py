"""Turn a delta of release-tasks and its base into a plain database. Needs only Python, 3.8 or newer.

python3 read-delta.py snapshots/ID/assets/KEY/NAME.rtd1 OUTPUT.db

This file belongs into the pipeline folder, next to ``bases``. docs/formats.md describes the format RTD1.
"""

import hashlib
import json
import os
import struct
import sys
import zlib
from pathlib import Path


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def main(delta: Path, output: Path) -> str:
    """Write the database to ``output``, which must not exist. Ends with a message when a digest is wrong."""
    data = delta.read_bytes()
    if data[:4] != b"RTD1" or hashlib.sha256(data[:-32]).digest() != data[-32:]:
        sys.exit(f"{delta} is damaged, or is no delta.")
    start = 8 + int.from_bytes(data[4:8], "big")
    header = json.loads(data[8:start])
    size = header["pageSize"]
    base = Path(__file__).resolve().parent / "bases" / (header["baseSha256"] + ".db")
    if sha256_of(base) != header["baseSha256"]:
        sys.exit(f"{base} is damaged: its SHA-256 is not its name.")
    pages, records, frames, result = struct.unpack(">QQQ32s", data[-88:-32])
    table = len(data) - 88 - 40 * frames
    numbers = iter(struct.unpack(f">{records}I", data[table - 4 * records : table]))
    with base.open("rb") as source, output.open("xb") as target:
        for block in iter(lambda: source.read(1 << 20), b""):
            target.write(block)
        for length, count, _ in struct.iter_unpack(">II32s", data[table:-88]):
            frame = zlib.decompress(data[start : start + length])
            start += length
            for place in range(count):
                number, page = next(numbers), frame[count + place * size : count + (place + 1) * size]
                if frame[place]:  # the difference to the same page of the base
                    source.seek((number - 1) * size)
                    mixed = int.from_bytes(page, "big") ^ int.from_bytes(source.read(size), "big")
                    page = mixed.to_bytes(size, "big")
                target.seek((number - 1) * size)
                target.write(page)
        target.truncate(pages * size)
    found = sha256_of(output)
    if any(result) and found != result.hex():
        sys.exit(f"{output} is wrong: its SHA-256 is not the one in {delta}.")
    return f"{output}: SHA-256 {found}, {'as recorded' if any(result) else 'which the delta does not record'}"


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python3 read-delta.py DELTA OUTPUT")
    os.umask(0o077)
    sys.stdout.write(main(Path(sys.argv[1]), Path(sys.argv[2])) + "\n")
