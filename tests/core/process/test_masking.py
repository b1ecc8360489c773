"""The secrets in a log that a service writes are masked, also those that it writes in two pieces."""

from __future__ import annotations

from pathlib import Path

import pytest

from release_tasks.core import redact
from release_tasks.core.process.masking import LogMask

_LETTERS = "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7aB0cD3eF6"
_KEY = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj"
PIECES = {
    "token": (f"using ghp_{_LETTERS[:20]}", f"{_LETTERS[20:]} now"),
    "bearer": (f"Bearer {_LETTERS[:16]}", f"{_LETTERS[16:]} now"),
    "known": ("value zebra-cross", "ing-0123456789 now"),
    "named": (f"password={_LETTERS[:10]}", f"{_LETTERS[10:]} now"),
    "cookie": (f"Set-Cookie: sid={_LETTERS[:8]}", f"{_LETTERS[8:]}; Path=/"),
    "key": (f"-----BEGIN PRIVATE KEY-----\n{_KEY}\n{_KEY[:13]}", f"{_KEY[13:]}\n-----END PRIVATE KEY-----"),
    "long line": (f"{'.' * 9000} using ghp_{_LETTERS[:20]}", f"{_LETTERS[20:]} {'.' * 9000}"),
}


@pytest.mark.parametrize("before", ["", "line\n" * 9])
@pytest.mark.parametrize("pieces", PIECES.values(), ids=PIECES)
def test_a_secret_in_two_pieces_is_masked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pieces: tuple[str, str], before: str
) -> None:
    """A mask over its first half would hide what the second half is."""
    monkeypatch.setenv("API_TOKEN", "zebra-crossing-0123456789")
    mask = LogMask(tmp_path / "log")
    with mask.log.open("a") as log:
        for text in (before + pieces[0], f"{pieces[1]}\n", "end\n"):
            log.write(text)
            log.flush()
            mask.observe()
    mask.finish()
    shown, written = mask.log.read_text(), f"{before}{pieces[0]}{pieces[1]}\nend\n"
    assert shown.endswith("\nend\n") and len(shown) == len(written)
    assert redact.Redactor.of_process().redact_text(written).count("[REDACTED]") == shown.count("[REDACTED]") == 1
    assert pieces[1][:6] not in shown and pieces[0][-6:] not in shown


def test_whole_lines_are_masked_while_the_service_runs(tmp_path: Path) -> None:
    """Only the last lines, which the next ones may continue, wait for the end; what is masked is not read again."""
    mask = LogMask(tmp_path / "log")
    mask.log.write_text(f"password={_LETTERS}\n" * 9)
    mask.observe()
    assert mask.log.read_text().count(_LETTERS) == 4
    mask.observe()
    assert mask.log.read_text().count(_LETTERS) == 4
    mask.finish()
    assert _LETTERS not in mask.log.read_text()
    mask.log.write_text("cut\n")
    mask.observe()
    assert mask.log.read_text() == "cut\n"


def test_a_secret_between_two_parts_is_masked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large log is read in parts, and a part may end inside a secret."""
    monkeypatch.setattr(redact, "_MASKED_PART", 1024)
    monkeypatch.setattr(redact, "_MASKED_OVERLAP", 512)
    path, token = tmp_path / "log", f"ghp_{_LETTERS}"
    for end in (1024, 1536):
        for shift in range(0, 44, 4):
            path.write_text(("." * (end - shift - 1) + f" {token} ").ljust(4000, "."))
            redact.mask_file(path, redact.Redactor())
            assert path.read_text().strip(".") == " [REDACTED]".ljust(len(token) + 1, "*") + " "
