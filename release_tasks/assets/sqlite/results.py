"""What the result codes of SQLite mean."""

from __future__ import annotations

import apsw

__all__ = ["extended_code", "is_damage"]

# Results that only damaged content can cause (https://sqlite.org/rescode.html). A missing function, module or collation
# (SQLITE_ERROR), an I/O error, a denied permission or too many open files do not mean damage: a restore would replace
# the file of a "damaged" database while the service has it open.
_DAMAGED = (apsw.NotADBError, apsw.CorruptError, apsw.FormatError)


def extended_code(error: apsw.Error) -> int:
    """Return the extended result code of an error; 0 for an error that Python code raised."""
    return int(getattr(error, "extendedresult", 0))


def is_damage(error: apsw.Error) -> bool:
    """Return whether an error of SQLite means that the content of the file is damaged."""
    if isinstance(error, _DAMAGED) or extended_code(error) == apsw.SQLITE_IOERR_SHORT_READ:
        return True
    # The header has an unknown number of the schema format; the result code is the general one.
    return isinstance(error, apsw.SQLError) and "unsupported file format" in str(error)
