"""The differences between two releases are listed, and no secret is shown."""

from __future__ import annotations

import json
import os
import sqlite3

import pytest
from attrs import evolve

from release_tasks.archive.diff import Comparison, compare
from release_tasks.core.errors import StageFailed, UsageError
from tests.support.asset_kind import InstallKind
from tests.support.project import Project
from tests.support.releases import PASSED, release


def differences(project: Project) -> dict[tuple[str, str], tuple[str, str | None, str | None]]:
    found = compare(project.pipeline, "v1", "v2")
    assert found.notes == []
    return {(d.where, d.what): (d.how, d.before, d.after) for d in found.differences}


def test_equal_releases_have_no_differences(project: Project) -> None:
    """The times of the two releases differ and do not count."""
    release(project, "v1")
    release(project, "v2")
    assert compare(project.pipeline, "v1", "v2") == Comparison(before="v1", after="v2")


def test_every_difference_is_listed(project: Project) -> None:
    """Version, configuration keys, servers, schema, rows, files, modes and presence; equal values are not listed."""
    secret = "hunter2-of-the-first-release"
    project.mcp.write_text(
        json.dumps(
            {
                "mcpServers": {"files": {"command": "a", "env": {"HOME": "/x"}}, "old": {"command": "b"}},
                "botToken": secret,
                "limits": {"queued": 5, "failed": 1},
                "providers": [{"password": secret}, {"args": ["--api-key", secret]}, {"url": f"https://x/?k={secret}"}],
                "auth": secret,
                "gate": {
                    "jwtKey": secret,
                    "appkey": secret,
                    "psk": secret,
                    "tokens": [secret],
                    "basicAuth": f"u:{secret}",
                },
            }
        )
    )
    release(project, "v1")
    project.overrides["app.version"] = "2.0"
    project.mcp.write_text(
        json.dumps(
            {
                "mcpServers": {"files": {"command": "a", "env": {"HOME": "/private"}}},
                "botToken": "another-" + secret,
                "limits": {"queued": 6, "failed": 1},
                "since": "now",
                "providers": [{"password": "x"}, {"args": ["--api-key", "x"]}, {"url": f"https://x/?k={secret}x"}],
                "auth": "x" + secret,
                "gate": {
                    "jwtKey": "x2" * 9,
                    "appkey": "x2" * 9,
                    "psk": "x2" * 9,
                    "tokens": ["x2" * 9],
                    "basicAuth": "x2" * 9,
                },
            }
        )
    )
    database = sqlite3.connect(project.database)
    database.execute("DELETE FROM accounts WHERE id > 9")
    database.execute("CREATE TABLE more(x)")
    database.execute("CREATE INDEX by_amount ON ledger(amount)")
    database.commit()
    database.close()
    (project.identity / "identity.json").write_text("{}")
    (project.identity / "new").write_text("x")
    os.chmod(project.identity, 0o700)
    project.extra.write_text("not JSON")
    release(project, "v2")
    found = differences(project)
    shown = json.dumps(list(found.items()))
    assert secret not in shown and "/private" not in shown
    hidden = ("changed", "[REDACTED]", "[REDACTED]")
    expected = {
        ("version", ""): ("changed", "1.0", "2.0"),
        ("mcp", "mcpServers.files.env.HOME"): hidden,
        ("mcp", "mcpServers.old.command"): ("removed", '"b"', None),
        ("mcp", "botToken"): hidden,
        ("mcp", "auth"): hidden,
        **{("mcp", f"gate.{name}"): hidden for name in ("jwtKey", "appkey", "psk", "tokens.0", "basicAuth")},
        ("mcp", "providers.0.password"): hidden,
        ("mcp", "providers.1.args.1"): hidden,
        ("mcp", "providers.2.url"): ("changed", '"https://x/?[REDACTED]"', '"https://x/?[REDACTED]"'),
        ("mcp", "limits.queued"): ("changed", "5", "6"),
        ("mcp", "since"): ("added", None, '"now"'),
        ("database rows", "accounts"): ("changed", "50", "10"),
        ("database rows", "more"): ("added", None, "0"),
        ("database schema", "table more"): ("added", None, None),
        ("database schema", "index by_amount"): ("added", None, None),
        ("identity", "identity.json"): ("changed", None, None),
        ("identity", "new"): ("added", None, None),
        ("identity", "mode"): ("changed", "755", "700"),
        ("extra", ""): ("added", None, "8 bytes"),
    }
    assert {key: value for key, value in found.items() if key[1] != "bytes"} == expected
    assert {where for where, what in found if what == "bytes"} == {"mcp", "database", "identity"}


def test_difference_without_a_name_is_listed_as_content(project: Project) -> None:
    """A changed value in a row leaves size and counts the same."""
    release(project, "v1")
    database = sqlite3.connect(project.database)
    database.execute("UPDATE accounts SET balance = 7 WHERE id = 3")
    database.commit()
    database.close()
    release(project, "v2")
    assert differences(project) == {("database", "content"): ("changed", None, None)}


@pytest.mark.slow
def test_content_captured_by_a_plugin_is_not_shown(project: Project, install_kind: InstallKind) -> None:
    """The difference and its size are listed; JSON inside is no configuration."""
    install_kind()
    project.overrides["assets.mcp"] = {"python": "custom", "path": "state/mcp.json"}
    release(project, "v1")
    project.mcp.write_text('{"message": "meet me"}')
    release(project, "v2")
    assert differences(project) == {
        ("mcp", "bytes"): ("changed", "18", "22"),
        ("mcp", "content"): ("changed", None, None),
    }


def test_blocked_release_is_compared_by_its_manifest(project: Project) -> None:
    """A note says that it has no snapshot; the failed gates are listed."""
    release(project, "v1")
    failed = evolve(PASSED, status="failed", detail="exit 1")
    release(project, "v2", failed)
    found = compare(project.pipeline, "v1", "v2")
    assert [(d.where, d.before, d.after) for d in found.differences] == [
        ("status", "ready", "blocked"),
        ("gates", "build passed", "build failed"),
    ]
    assert found.notes == ["v2 was blocked and has no snapshot; only the manifests are compared"]


def test_missing_or_damaged_snapshot_is_a_note(project: Project) -> None:
    """Retention removed the snapshot, or its database cannot be read."""
    for number in (1, 2, 3):
        project.mcp.write_text(json.dumps({"number": number}))
        release(project, f"v{number}")
    folder = project.pipeline.catalogue.store.folder
    stored = next(folder.glob("v3_*")) / "assets/database/app.db"
    stored.write_bytes(b"\0" * stored.stat().st_size)
    database = sqlite3.connect(project.database)
    database.execute("DELETE FROM accounts")
    database.commit()
    database.close()
    release(project, "v4")
    found = compare(project.pipeline, "v3", "v4")
    assert len(found.notes) == 1 and found.notes[0].startswith("database cannot be compared")
    next(folder.glob("v1_*")).rename(folder / "elsewhere.bak")
    found = compare(project.pipeline, "v1", "v2")
    assert found.differences == [] and found.notes[0].startswith("the snapshot of v1 does not exist any more")


def test_unknown_release_is_a_usage_error(project: Project) -> None:
    """The message names the known releases."""
    release(project, "v1")
    with pytest.raises(UsageError, match=r"There is no release 'v9'.*v1"):
        compare(project.pipeline, "v1", "v9")
    with pytest.raises(UsageError):
        compare(project.pipeline, "../x", "v1")
    (project.pipeline.manifests / "v2.json").write_text("{")
    with pytest.raises(StageFailed, match="cannot be read"):
        compare(project.pipeline, "v1", "v2")
