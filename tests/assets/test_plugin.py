"""Assets that a plugin captures: whatever it does instead of what it must blocks a release, and nothing is left."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from release_tasks.archive.capture import CaptureRequest, capture_snapshot
from release_tasks.archive.verify import SnapshotVerdict, verify_all
from release_tasks.core.errors import ConfigError, StageFailed
from release_tasks.core.events import BytesMoved, Event
from release_tasks.core.records import PreflightReport, SnapshotMetadata
from tests.support.faults.stages import prepare
from tests.support.project import Project

pytestmark = pytest.mark.slow

Install = Callable[..., None]
WHO = "the asset kind 'custom'"
COPY = "open(copy, 'wb').write(open(source, 'rb').read())"
COPY_FOLDER = "shutil.copytree(source, copy, symlinks=True)"


@pytest.fixture
def custom(project: Project) -> Any:
    """Return a project in which mcp.json is captured by the plugin ``custom``."""
    project.overrides["assets.mcp"] = {"python": "custom", "path": "state/mcp.json"}
    return project


def as_folder(project: Project) -> None:
    """Let the plugin capture identity/ instead."""
    project.overrides["assets.mcp"] = {"file": "state/mcp.json"}
    project.overrides["assets.identity"] = {"python": "custom", "path": "state/identity"}


def refused(project: Project) -> str:
    """Hold that no snapshot can be taken, that nothing is left, and that live bytes are as before; return why."""
    before = project.content()
    with pytest.raises(StageFailed) as error:
        project.capture()
    assert project.content() == before
    assert project.strays() == []
    assert project.pipeline.catalogue.published() == ([], [])
    return error.value.message


def verified(project: Project) -> SnapshotVerdict:
    """Verify the one snapshot as ``release.verify`` does."""
    (verdict,) = verify_all(project.pipeline.catalogue, assets=project.settings.release.assets)
    return verdict


def stored(project: Project, snapshot: SnapshotMetadata, key: str) -> Path:
    """Return where the copy of an asset lies."""
    record = snapshot.asset(key)
    assert record is not None
    path: Path = project.pipeline.catalogue.path(snapshot.snapshot_id) / record.relative_path
    return path


def test_copy_of_a_plugin_is_a_file_like_any_other(custom: Any, install_kind: Install) -> None:
    """Digested, private, with the live mode and its plugin on record; the snapshot's digest is that of a file asset."""
    os.chmod(custom.mcp, 0o640)
    install_kind()
    snapshot = custom.capture()
    record = snapshot.asset("mcp")
    assert record is not None
    assert (record.kind, record.plugin, record.exists, record.mode) == ("file", "custom", True, 0o640)
    assert stored(custom, snapshot, "mcp").stat().st_mode & 0o777 == 0o600
    assert (verified(custom).status, verified(custom).notes) == ("verified", [])
    del custom.overrides["assets.mcp"]
    assert custom.capture("v2").digest == snapshot.digest


def test_folder_of_a_plugin_keeps_modes_links_and_empty_folders(custom: Any, install_kind: Install) -> None:
    """What it wrote is what is recorded: the same entries that a folder asset has."""
    install_kind(COPY_FOLDER, form="directory")
    as_folder(custom)
    through_plugin = custom.capture("v1").asset("identity")
    custom.overrides["assets.identity"] = {"directory": "state/identity"}
    assert through_plugin.entries == custom.capture("v2").asset("identity").entries
    assert through_plugin.plugin == "custom"


def test_absent_asset_is_recorded_as_absent_without_the_plugin(custom: Any, install_kind: Install) -> None:
    """There is nothing that it could copy."""
    install_kind("raise AssertionError")
    custom.mcp.unlink()
    record = custom.capture().asset("mcp")
    assert (record.exists, record.plugin) == (False, None)


def test_options_progress_and_class_reach_their_places(custom: Any, install_kind: Install) -> None:
    """What stands under ``with`` arrives; what it reports is told; a class is as good as a module."""
    before = textwrap.dedent("""
        class Kind:
            form = "file"
            def capture(self, source, copy, context):
                copy.write_text(f"{context.key} {dict(context.options)}")
                context.report(1, 3)
                context.report(3, 3)
            def check(self, copy, context):
                return [] if dict(context.options) == {"deep": [1, {"on": True}]} else ["other options"]
    """)
    install_kind(before=before, value="custom_kind:Kind")
    custom.overrides["assets.mcp.with"] = {"deep": [1, {"on": True}]}
    told: list[Event] = []
    settings = custom.settings
    request = CaptureRequest(snapshot_id="s", release_id="s", kind="release", retention_limit=5)
    snapshot = capture_snapshot(custom.pipeline.catalogue, settings.release.assets, request, told.append)
    assert stored(custom, snapshot, "mcp").read_text() == "mcp {'deep': [1, {'on': True}]}"
    assert any(isinstance(event, BytesMoved) and (event.key, event.done) == ("mcp", 3) for event in told)
    assert verified(custom).status == "verified"


@pytest.mark.parametrize(
    ("capture", "sentence"),
    [
        ("pass", f"{WHO} wrote no copy"),
        ("os.mkdir(copy)", f"{WHO} did not write a file"),
        ("os.symlink(source, copy)", f"{WHO} did not write a file"),
        ("os.link(source, copy)", f"{WHO} wrote an invalid copy: mcp.json is a hard link"),
        ("os.mkfifo(copy)", f"{WHO} did not write a file"),
        (f"{COPY}; open(str(copy) + '.lock', 'w')", f"{WHO} wrote mcp.json.lock next to its copy"),
        (f"{COPY}; os.mkdir(copy.parents[1] / 'stray')", "assets/stray was written into the snapshot"),
        (f"{COPY}; open(copy.parents[2] / 'stray', 'w')", "stray was written into the snapshot"),
        ("raise ValueError('no luck')", "failed in capture: ValueError: no luck (custom_kind.py, line 6)"),
        ("raise PluginError('Stop the importer first: importer stop')", "Stop the importer first: importer stop."),
        ("sys.exit(0)", "the asset kind 'custom' of custom-kind 1.0 failed in capture: SystemExit: 0"),
        ("os._exit(3)", f"{WHO} exited in capture without a result (exit code 3)"),
        ("ctypes.string_at(0)", f"{WHO} exited in capture without a result (signal 11)"),
        ("print('x' * 1_000_000); os.write(1, b'{}\\n'); os.write(2, b'loud')", f"{WHO} wrote no copy"),
    ],
)  # fmt: skip
def test_capture_that_does_something_else_blocks_and_leaves_nothing(
    custom: Any, install_kind: Install, capture: str, sentence: str
) -> None:
    """Nothing, another form, links, strays, exceptions, crashes and prints: a sentence that names the asset."""
    install_kind(capture)
    told = refused(custom)
    assert sentence in told, told
    if "written into" not in sentence:
        assert told.startswith(f"{custom.mcp} (asset mcp): ")


@pytest.mark.parametrize(
    ("capture", "sentence"),
    [
        (
            "os.mkdir(copy); os.symlink('/etc', copy / 'out')",
            "identity/out is a link to a path outside the copy",
        ),
        ("os.mkdir(copy); os.symlink('../../x', copy / 'out')", "identity/out is a link to a path outside the copy"),
        ("os.mkdir(copy); os.mkfifo(copy / 'pipe')", "pipe is a named pipe: only files, folders and links"),
        ("os.mkdir(copy); os.chdir(copy); socket.socket(socket.AF_UNIX).bind('s')", "s is a socket"),
        ("os.mkdir(copy); os.link(source / 'identity.json', copy / 'same')", "identity/same is a hard link"),
        ("open(copy, 'w')", f"{WHO} did not write a folder"),
    ],
)
def test_folder_with_what_cannot_be_kept_blocks_and_leaves_nothing(
    custom: Any, install_kind: Install, capture: str, sentence: str
) -> None:
    """No link out, no device, pipe or socket, no file with another name outside."""
    install_kind(capture, form="directory")
    as_folder(custom)
    assert sentence in refused(custom)


@pytest.mark.parametrize(
    ("capture", "sentence"),
    [
        ("os.rename(source, copy)", "it was missing after its capture"),
        (f"{COPY}; os.chmod(source, 0o777)", "its mode, owner or type had changed after its capture"),
        (
            f"{COPY}; os.unlink(source); os.symlink('x', source)",
            "its mode, owner or type had changed after its capture",
        ),
    ],
)
def test_capture_that_changes_the_live_state_blocks_where_it_shows(
    custom: Any, install_kind: Install, capture: str, sentence: str
) -> None:
    """What cannot be its service's doing is told: gone, of another form, of another mode."""
    install_kind(capture)
    with pytest.raises(StageFailed, match=sentence):
        custom.capture()
    assert custom.pipeline.catalogue.published() == ([], [])
    assert custom.strays() == []


@pytest.mark.parametrize(
    ("check", "sentence"),
    [
        (
            "return ['line 3 is torn', 'line 9 is torn']",
            "found problems in its own copy: line 3 is torn; line 9 is torn.",
        ),
        ("return None", "check returned NoneType, expected a list of texts"),
        ("return [1]", "check returned list, expected a list of texts"),
        ("raise OSError('cannot')", "failed in check: OSError: cannot"),
        ("open(copy, 'a').write('x'); return []", "changed the copy during its check"),
        ("os.chmod(copy, 0o640); return []", "changed the copy during its check"),
        ("open(str(copy) + '-journal', 'w'); return []", "changed the copy during its check"),
    ],
)
def test_check_that_finds_or_changes_something_blocks(
    custom: Any, install_kind: Install, check: str, sentence: str
) -> None:
    """A copy that is not sound, or no longer the one that was digested, is never published."""
    install_kind(check=check)
    if "chmod" in check:  # the mode of a stored file is no part of its digest, that of one in a folder is
        as_folder(custom)
        install_kind(COPY_FOLDER, check.replace("copy,", "copy / 'identity.json',"), form="directory")
    assert sentence in refused(custom)


@pytest.mark.parametrize(
    ("setup", "sentence"),
    [
        ({"before": "import nonesuch"}, "cannot be loaded (custom_kind): ModuleNotFoundError: No module named"),
        ({"form": "pipe"}, "its form should be 'file' or 'directory' (custom_kind)"),
        ({"value": "custom_kind:form"}, "its form should be 'file' or 'directory' (custom_kind:form)"),
        ({"before": "class Kind:\n    form = 'file'", "value": "custom_kind:Kind"}, "has no function capture"),
        ({"form": "directory"}, "captures a folder, but "),
    ],
)
def test_package_that_is_no_asset_kind_says_whose_it_is_and_what_to_type(
    custom: Any, install_kind: Install, setup: dict[str, str], sentence: str
) -> None:
    """An import that fails, a form that is none, a function that is missing."""
    install_kind(**setup)
    told = refused(custom)
    assert sentence in told and "custom-kind 1.0" in told, told
    assert f"Type: {sys.executable} -m pip" in told or "captures a folder" in sentence


def test_plugin_that_is_missing_names_the_command(custom: Any) -> None:
    """Nobody offers it: what to type stands in the sentence."""
    told = refused(custom)
    assert "no installed package offers the asset kind 'custom' (offered: none)" in told
    assert f"Type: {sys.executable} -m pip install PACKAGE." in told


@pytest.mark.parametrize(
    "capture",
    [
        "time.sleep(60)",
        "context.cancelled.wait(60); time.sleep(60)",
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)",
        "subprocess.Popen(['sh', '-c', 'sleep 60; : TAG'], start_new_session=True); time.sleep(60)",
    ],
)
def test_capture_that_never_ends_is_ended_with_all_that_it_started(
    custom: Any, install_kind: Install, capture: str
) -> None:
    """At its timeout; the sentence names the key that sets it."""
    tag = uuid.uuid4().hex
    install_kind(capture.replace("TAG", tag))
    custom.overrides["assets.mcp.timeout"] = "1s"
    began = time.monotonic()
    assert f"{WHO} had no result in capture after 1s and was stopped (release.assets.mcp.timeout)." in refused(custom)
    assert time.monotonic() - began < 6
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            assert tag.encode() not in path.read_bytes()


def test_capture_that_is_given_up_ends_within_a_second(custom: Any, install_kind: Install) -> None:
    """Another asset that fails does not wait for it; it is told, and has half a second."""
    install_kind("open(copy, 'w').write('x')\ncontext.cancelled.wait(60)")
    os.mkfifo(custom.identity / "pipe")
    began = time.monotonic()
    with pytest.raises(StageFailed, match="named pipe"):
        custom.capture()
    assert time.monotonic() - began < 4
    assert custom.strays() == []


def test_a_plugin_cannot_outlive_the_run_that_started_it(custom: Any, install_kind: Install, tmp_path: Path) -> None:
    """Its process ends with its parent, also with one that is killed."""
    beat = tmp_path / "beat"
    install_kind(f"while True:\n    open({str(beat)!r}, 'a').write('x')\n    time.sleep(0.01)")
    script = (
        "import sys; from pathlib import Path;"
        "from release_tasks.assets.plugin_host.calls import KindCall, capture_copy;"
        "capture_copy(KindCall(plugin='custom', key='k', options={}, timeout=60), Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script, str(custom.mcp), str(tmp_path / "copy")]
    with subprocess.Popen(command, env=environment) as process:
        until = time.monotonic() + 20
        while not beat.exists() and time.monotonic() < until:
            time.sleep(0.01)
        process.kill()
    size = -1
    while size != (size := beat.stat().st_size) and time.monotonic() < until:
        time.sleep(0.1)
    assert time.monotonic() < until, "it still writes"


def test_prepare_is_blocked_while_the_plugin_is_missing_and_ready_with_it(custom: Any, install_kind: Install) -> None:
    """The manifest names the asset, the key and the command; nothing is captured until then."""
    report = PreflightReport(passed=True, checks=[], failed_checks=[])
    manifest = prepare(custom.settings, report, "v1")
    assert (manifest.status, manifest.snapshot) == ("blocked", None)
    assert manifest.diagnostics == [
        "mcp: no installed package offers the asset kind 'custom' (offered: none). "
        f"Type: {sys.executable} -m pip install PACKAGE (release.assets.mcp.python)"
    ]
    install_kind()
    assert prepare(custom.settings, report, "v1").status == "ready"


# Verified later


def test_verify_lets_the_plugin_look_and_says_where_it_could_not(custom: Any, install_kind: Install) -> None:
    """Found bad is damaged; missing or broken is a note, for every byte is as recorded."""
    install_kind()
    custom.capture()
    install_kind(check="return ['record 7 is torn']")
    verdict = verified(custom)
    assert (verdict.status, [finding.what for finding in verdict.findings]) == ("damaged", ["record 7 is torn"])
    install_kind(check="raise ValueError('broken')")
    verdict = verified(custom)
    assert (verdict.status, len(verdict.notes)) == ("verified", 1)
    assert verdict.notes[0].startswith(
        "mcp: every byte is as recorded, but its plugin could not check it: the asset kind"
    )
    install_kind(value="custom_kind", before="import nonesuch")
    assert "No module named 'nonesuch'" in verified(custom).notes[0]


def test_verify_finds_a_check_that_changed_the_stored_copy(custom: Any, install_kind: Install) -> None:
    """A later version of the plugin that writes into a snapshot does not go unseen."""
    install_kind()
    custom.capture()
    install_kind(check="open(copy, 'a').write('x'); return []")
    verdict = verified(custom)
    assert (verdict.status, verdict.findings[0].what) == ("damaged", "was altered")


# Configured wrongly


@pytest.mark.parametrize(
    ("asset", "sentence"),
    [
        ({"python": "custom"}, "release.assets.a: path: needs the key python, and python needs path"),
        ({"file": "x", "path": "y"}, "release.assets.a: path: needs the key python, and python needs path"),
        ({"file": "x", "with": {"a": 1}}, "release.assets.a: with: goes with python only"),
        ({"file": "x", "timeout": "1s"}, "release.assets.a: timeout: goes with python only"),
        ({"python": "custom", "path": "x", "file": "y"}, "got file and python"),
        ({"python": "custom", "path": 7}, "release.assets.a.path: expected a path, got 7"),
        ({"python": "custom", "path": "pipeline/x"}, "and release.assets.a lie in one another"),
    ],
)  # fmt: skip
def test_asset_of_a_plugin_that_is_configured_wrongly_is_explained(
    project: Project, asset: dict[str, Any], sentence: str
) -> None:
    """Each mistake has its dotted path, as it is written in invoke.yaml."""
    project.overrides["assets"] = {"a": asset}
    with pytest.raises(ConfigError) as error:
        _ = project.settings
    assert sentence in str(error.value)
