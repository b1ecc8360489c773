"""Assets that a plugin captures, rolled back: with the plugin, and without it at three in the morning."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from release_tasks.assets import base, plugin
from release_tasks.core.records import AssetRecord, RollbackOutcome
from release_tasks.pairing.channels import Channel
from release_tasks.pairing.policy import Pairing
from release_tasks.stages.rollback.engine import RollbackRequest, rollback
from release_tasks.stages.rollback.plan import plan_rollback
from release_tasks.stages.rollback.recovery import recover
from tests.support.project import Project

pytestmark = pytest.mark.slow

Install = Callable[..., None]
Roll = Callable[..., RollbackOutcome]
COPY_FOLDER = "shutil.copytree(source, copy, symlinks=True)"
# What keeps a plugin from doing its work, and a part of the sentence about it.
BROKEN = {
    "missing": ({"value": ""}, "no installed package offers the asset kind 'custom'"),
    "unloadable": ({"before": "import nonesuch"}, "No module named 'nonesuch'"),
    "raising": ({"capture": "raise ValueError('no luck')"}, "ValueError: no luck"),
    "crashing": ({"capture": "os._exit(9)"}, "exited in capture without a result (exit code 9)"),
    "hanging": ({"capture": "time.sleep(60)"}, "had no result in capture after 2s and was stopped"),
    "writing nothing": ({"capture": "pass"}, "wrote no copy"),
    "finding it bad": ({"check": "return ['record 3 is torn']"}, "found problems in its own copy: record 3 is torn"),
    "of another form": ({"form": "directory"}, "captures a folder"),
}
# After some writes there is half a record at the end for a while.
WRITER = """
import sys, time
print("writing", flush=True)
with open(sys.argv[1], "ab", buffering=0) as file:
    while True:
        file.write(b"half")
        file.write(b" and half\\n")
"""


@pytest.fixture
def custom(project: Project, install_kind: Install) -> Any:
    """Return a damaged project whose mcp.json was captured by the plugin ``custom``."""
    project.overrides["assets.mcp"] = {"python": "custom", "path": "state/mcp.json"}
    install_kind()
    project.before = project.content()
    project.capture()
    project.damage()
    project.mcp.write_text('{"live": true}')
    return project


def break_plugin(install_kind: Install, project: Project, way: str) -> str:
    """Break the plugin in one way and return what is said of it."""
    setup, sentence = BROKEN[way]
    if way == "missing":
        info = project.folder / "site" / "custom_kind-1.0.dist-info"
        (info / "entry_points.txt").write_text("[console_scripts]\n")
    else:
        install_kind(**setup)
    if way == "hanging":
        project.overrides["assets.mcp.timeout"] = "2s"
    return sentence


def safety_of(project: Project, outcome: RollbackOutcome) -> AssetRecord:
    """Return the record of mcp.json as it was before the rollback."""
    record: AssetRecord = project.pipeline.catalogue.get(outcome.safety_snapshot_id).asset("mcp")
    return record


def test_with_its_plugin_it_comes_back_and_the_way_back_is_captured_too(custom: Any, roll: Roll) -> None:
    """Restored whole; the safety snapshot was taken through the plugin, and leads back."""
    damaged = custom.content()
    outcome = roll(custom)
    assert (outcome.status, outcome.diagnostics) == ("restored", [])
    assert custom.content() == custom.before
    safety = safety_of(custom, outcome)
    assert (safety.plugin, safety.plugin_problem) == ("custom", None)
    assert roll(custom, snapshot_id=outcome.safety_snapshot_id).status == "restored"
    assert custom.content() == damaged
    assert custom.strays() == []


@pytest.mark.parametrize("way", BROKEN)
def test_no_restore_needs_the_plugin(custom: Any, roll: Roll, install_kind: Install, way: str) -> None:
    """However broken it is: restored; the safety copy is a plain one, is said to be, and leads back byte for byte."""
    sentence = break_plugin(install_kind, custom, way)
    damaged = custom.content()
    outcome = roll(custom)
    assert outcome.status == "restored"
    assert custom.content() == custom.before
    safety = safety_of(custom, outcome)
    assert (safety.kind, safety.plugin) == ("file", None)
    assert safety.plugin_problem is not None and sentence in safety.plugin_problem
    (told,) = outcome.diagnostics
    assert told.startswith(f"mcp: {outcome.safety_snapshot_id} contains a plain copy.") and sentence in told
    back = roll(custom, snapshot_id=outcome.safety_snapshot_id)
    assert back.status == "restored"
    assert any("may end in the middle of a record" in told for told in back.diagnostics)
    assert custom.content() == damaged
    assert custom.strays() == []


@pytest.fixture
def busy(custom: Any) -> Iterator[None]:
    """Let a process append to mcp.json as fast as it can."""
    command = [sys.executable, "-c", WRITER, str(custom.mcp)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "writing\n"
        yield
        process.kill()


def test_a_file_that_never_holds_still_does_not_keep_a_rollback_without_its_plugin(
    custom: Any, roll: Roll, install_kind: Install, busy: None
) -> None:
    """The plain copy takes what it gets; of an asset of kind ``file`` that would be refused."""
    break_plugin(install_kind, custom, "missing")
    assert roll(custom).status == "restored"
    assert custom.content()["files"]["mcp.json"] == custom.before["files"]["mcp.json"]


def test_folder_of_a_plugin_comes_back_without_it_over_whatever_is_there(
    custom: Any, roll: Roll, install_kind: Install
) -> None:
    """Also where a file, a link or nothing has taken its place."""
    custom.overrides["assets.mcp"] = {"file": "state/mcp.json"}
    custom.overrides["assets.identity"] = {"python": "custom", "path": "state/identity"}
    install_kind(COPY_FOLDER, form="directory")
    before = custom.content()
    custom.capture("v2")
    break_plugin(install_kind, custom, "missing")
    aside = custom.folder / "aside"
    for take_place in (
        lambda: custom.identity.write_text("a file"),
        lambda: os.symlink("elsewhere", custom.identity),
        lambda: None,
    ):
        custom.identity.rename(aside)
        take_place()
        assert roll(custom, snapshot_id="v2_snapshot", force=True).status == "restored"
        assert custom.content() == before
        subprocess.run(["rm", "-r", str(aside)], check=True)


def test_what_was_absent_goes_and_what_is_missing_comes(custom: Any, roll: Roll, install_kind: Install) -> None:
    """Neither needs the plugin."""
    custom.mcp.unlink()
    custom.capture("v2")
    custom.mcp.write_text("new")
    break_plugin(install_kind, custom, "missing")
    assert roll(custom, snapshot_id="v2_snapshot").removed_assets == ["mcp"]
    assert not custom.mcp.exists()
    assert "mcp" in roll(custom, snapshot_id="v1_snapshot").restored_assets
    assert custom.content() == custom.before


# A second rollback


def test_what_the_service_wrote_since_is_left_alone(custom: Any, roll: Roll) -> None:
    """``noop`` although the bytes differ, as for a database; ``--force`` restores."""
    assert roll(custom).status == "restored"
    custom.mcp.write_text('{"written": "since"}')
    outcome = roll(custom)
    assert (outcome.status, outcome.diagnostics) == ("noop", [])
    assert custom.mcp.read_text() == '{"written": "since"}'
    assert any("is a noop" in told for told in plan_rollback(custom.settings).diagnostics)
    assert roll(custom, force=True).status == "restored"
    assert custom.content() == custom.before


@pytest.mark.parametrize("way", ["finding it bad", "told so"])
def test_what_the_plugin_finds_bad_is_restored_again(custom: Any, roll: Roll, install_kind: Install, way: str) -> None:
    """As a database that fails its check is; a PluginError says the same."""
    assert roll(custom).status == "restored"
    custom.mcp.write_text("bad")
    bad = "open(copy).read() == 'bad'"
    if way == "told so":
        install_kind("if open(source).read() == 'bad': raise PluginError('It is torn.')\nopen(copy, 'w')")
    else:
        install_kind(check=f"return ['torn'] if {bad} else []")
    assert roll(custom).status == "restored"
    assert custom.content() == custom.before


@pytest.mark.parametrize("way", [way for way in BROKEN if way not in ("finding it bad", "of another form")])
def test_what_a_broken_plugin_cannot_examine_is_left_alone(
    custom: Any, roll: Roll, install_kind: Install, way: str
) -> None:
    """What the service wrote is not thrown away for a plugin's sake; it is said, with the flag that restores."""
    assert roll(custom).status == "restored"
    custom.mcp.write_text('{"written": "since"}')
    sentence = break_plugin(install_kind, custom, way)
    outcome = roll(custom)
    assert outcome.status == "noop"
    assert custom.mcp.read_text() == '{"written": "since"}'
    (told,) = outcome.diagnostics
    assert sentence in told and told.endswith("To restore it too, add --force.")
    assert custom.strays() == []


@pytest.mark.parametrize("damage", ["gone", "a folder"])
def test_what_is_not_there_is_restored_again(custom: Any, roll: Roll, damage: str) -> None:
    """No plugin has to be asked for that."""
    assert roll(custom).status == "restored"
    custom.mcp.unlink()
    if damage == "a folder":
        custom.mcp.mkdir()
    assert roll(custom).status == "restored"
    assert custom.content() == custom.before


# The configuration has changed since


def test_other_kinds_since_take_the_copy_as_it_is_or_say_no(custom: Any, roll: Roll) -> None:
    """A plugin of another name, or none: bytes are bytes. A database is none."""
    custom.overrides["assets.mcp"] = {"python": "other", "path": "state/mcp.json"}
    outcome = roll(custom)
    assert outcome.status == "restored"
    assert (
        "mcp: plugin custom took this copy, but other is configured now; the copy is restored unchanged."
        in outcome.diagnostics
    )
    custom.mcp.write_text("again")
    custom.overrides["assets.mcp"] = {"file": "state/mcp.json"}
    assert roll(custom).status == "restored"
    assert custom.content() == custom.before
    custom.overrides["assets.mcp"] = {"directory": "state/mcp.json"}
    custom.mcp.write_text("again")
    outcome = roll(custom)
    assert "Asset mcp is configured as directory, but snapshot v1_snapshot contains a file." in outcome.diagnostics[0]


def test_a_file_asset_of_before_can_be_restored_to_a_plugins(
    project: Project, roll: Roll, install_kind: Install
) -> None:
    """The snapshots of the time before the plugin stay good."""
    before = project.content()
    project.capture()
    project.damage()
    install_kind()
    project.overrides["assets.mcp"] = {"python": "custom", "path": "state/mcp.json"}
    assert roll(project).status == "restored"
    assert project.content() == before


def test_a_snapshot_of_the_older_tool_is_taken_over_without_the_plugin(project: Project, roll: Roll) -> None:
    """What lies in it is no live state: it is read as the file it is."""
    project.overrides["assets.mcp"] = {"python": "custom", "path": "state/mcp.json"}
    snapshot_id = "v0_snapshot_20240101000000"
    folder = project.pipeline.catalogue.store.folder / snapshot_id
    (folder / "assets" / "state").mkdir(parents=True)
    (folder / "assets" / "state" / "mcp.json").write_text("of the older tool")
    asset = {"key": "mcp-servers", "relativePath": "state/mcp.json", "kind": "file", "exists": True}
    document = {"snapshotId": snapshot_id, "releaseId": "v0", "createdAt": "2024-01-01T00:00:00Z", "assets": [asset]}
    (folder / "metadata.json").write_text(json.dumps({**document, "metadataPath": str(folder / "metadata.json")}))
    outcome = roll(project, snapshot_id=snapshot_id, force=True)
    assert outcome.status == "restored", outcome.diagnostics
    assert project.mcp.read_text() == "of the older tool"


def test_a_plan_says_what_the_way_back_would_be(custom: Any, install_kind: Install) -> None:
    """Before anything is done."""
    sentence = break_plugin(install_kind, custom, "missing")
    told = plan_rollback(custom.settings).diagnostics
    assert any(
        one.startswith("mcp: the safety snapshot would contain a plain copy.") and sentence in one for one in told
    )
    assert custom.strays() == []


# Approvals


def test_who_was_revoked_since_stays_out_of_stores_that_a_plugin_captured(
    project: Project, roll: Roll, install_kind: Install
) -> None:
    """A plugin's folder is amended as any other."""
    install_kind(COPY_FOLDER, form="directory")
    project.overrides["assets.credentials"] = {"python": "custom", "path": "memory/credentials"}
    (project.folder / "memory" / "credentials").mkdir(parents=True)
    pairing = Pairing(project.settings.pairing)
    for sender in ("1001", "1002"):
        request = pairing.request(Channel.TELEGRAM, sender).request
        assert request is not None
        pairing.approve(Channel.TELEGRAM, request.code)
    project.capture()
    pairing.revoke(Channel.TELEGRAM, "1002")
    project.damage()
    assert roll(project).status == "restored"
    assert pairing.approved(Channel.TELEGRAM) == ["1001"]


# Interrupted


def test_signals_reach_a_rollback_while_a_plugin_is_at_work(custom: Any, roll: Roll, install_kind: Install) -> None:
    """Nothing is left of it, neither in the pipeline nor as a process."""
    began = custom.folder / "began"
    install_kind(f"open({str(began)!r}, 'w').close()\ntime.sleep(60)")
    script = (
        "import sys; from pathlib import Path; from release_tasks.tasks.project import load_settings\n"
        "from release_tasks.core.interrupt import interruptible\n"
        "from release_tasks.stages.rollback.engine import RollbackRequest, rollback\n"
        f"settings = load_settings({{'release': {custom.raw!r}}}, Path({str(custom.folder)!r}))\n"
        "with interruptible(): rollback(settings, RollbackRequest())"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    live = custom.content()
    with subprocess.Popen([sys.executable, "-c", script], env=environment, stderr=subprocess.PIPE) as process:
        waited = threading.Event()
        for _ in range(400):
            if began.exists() or waited.wait(0.05):
                break
        process.terminate()
        _, errors = process.communicate(timeout=5)
    assert b"Interrupted" in errors
    assert custom.content() == live
    assert custom.strays() == []


IN_PLACE = """
with open(live, "r+b") as file:
    file.write(open(copy, "rb").read())
    file.truncate()
"""
# What a restore does instead of its work, and a part of the sentence about it; empty where it says that it is done.
MISDEEDS = {
    "missing": ("", "has no function restore"),
    "raising": ("raise ValueError('no luck')", "ValueError: no luck"),
    "judging": ("raise PluginError('the queue is in use.')", "the queue is in use"),
    "crashing halfway": ("open(live, 'wb').write(b'half'); os._exit(9)", "exited in restore without a result"),
    "hanging": ("time.sleep(60)", "had no result in restore after 2s and was stopped"),
    "writing something else": ("open(live, 'wb').write(b'something else')", ""),
    "removing it": ("os.unlink(live)", ""),
    "making a folder of it": ("os.unlink(live); os.makedirs(os.path.join(live, 'more'))", ""),
    "making a link of it": ("os.unlink(live); os.symlink(os.path.join(os.path.dirname(live), 'app.db'), live)", ""),
    "spoiling the copy": ("open(copy, 'wb').write(b'spoiled'); open(live, 'wb').write(b'spoiled')", ""),
    "changing the mode": (IN_PLACE + "os.chmod(live, 0o777)", ""),
}


@pytest.fixture
def restoring(custom: Any) -> Any:
    """Let the plugin put mcp.json back itself."""
    custom.overrides["assets.mcp.restore"] = True
    custom.overrides["assets.mcp.timeout"] = "2s"
    return custom


def test_a_plugin_restores_its_own_state_in_place(restoring: Any, roll: Roll, install_kind: Install) -> None:
    """The file that its service has open gets the content; no other file takes the name."""
    install_kind(restore=IN_PLACE)
    inode = restoring.mcp.stat().st_ino
    outcome = roll(restoring)
    assert outcome.status == "restored", outcome.diagnostics
    assert restoring.mcp.stat().st_ino == inode
    assert restoring.content() == restoring.before
    assert restoring.strays() == [] and not restoring.pipeline.journal_path.exists()
    assert roll(restoring, outcome.safety_snapshot_id).status == "restored"
    assert restoring.mcp.read_text() == '{"live": true}'


@pytest.mark.parametrize("way", MISDEEDS)
def test_whatever_a_restore_of_a_plugin_does_the_state_comes_back(
    restoring: Any, roll: Roll, install_kind: Install, way: str
) -> None:
    """What it left undone is written from the snapshot, and the database beside it is not touched by it."""
    body, sentence = MISDEEDS[way]
    install_kind(restore=body)
    noted: list[str] = []
    outcome = rollback(restoring.settings, RollbackRequest(), lambda event: noted.append(str(event)))
    assert outcome.status == "restored", outcome.diagnostics
    assert restoring.content() == restoring.before
    assert restoring.strays() == []
    assert bool(sentence) == any(sentence and sentence in line for line in noted)


def test_a_restore_of_a_plugin_is_undone_with_the_others(
    restoring: Any, roll: Roll, install_kind: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later step fails: the live state of before is written back, whatever the plugin had written."""
    install_kind(restore=IN_PLACE)
    before = restoring.content()
    monkeypatch.setattr(base, "rename_into_place", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    assert roll(restoring).status == "failed"
    monkeypatch.undo()
    assert recover(restoring.settings).status in ("undone", "clean")
    assert restoring.content() == before


def test_a_kill_while_a_plugin_restores_is_finished_by_recovery(
    restoring: Any, roll: Roll, install_kind: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of its state is written when the run is killed; recovery needs no plugin to finish."""

    class Killed(BaseException):
        pass

    def half(*_: Any) -> None:
        restoring.mcp.write_bytes(b"half")
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(plugin, "restore_copy", half)
        with pytest.raises(Killed):
            roll(restoring)
    break_plugin(install_kind, restoring, "missing")
    assert recover(restoring.settings).status == "finished"
    assert restoring.content() == restoring.before
