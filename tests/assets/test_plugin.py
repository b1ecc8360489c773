"""Assets that a plugin captures: wrong behaviour of the plugin blocks a release and leaves no file."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import textwrap
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from release_tasks.archive.capture import CaptureRequest, capture_snapshot
from release_tasks.archive.verify import SnapshotVerdict, verify_all
from release_tasks.core.errors import ConfigError, StageFailed
from release_tasks.core.events import BytesMoved, Event
from release_tasks.core.records import PreflightReport, SnapshotMetadata
from tests.support.asset_kind import InstallKind
from tests.support.faults.stages import prepare
from tests.support.project import Project

pytestmark = pytest.mark.slow

KIND = "the asset kind 'custom'"
COPY = "open(copy, 'wb').write(open(source, 'rb').read())"
COPY_FOLDER = "shutil.copytree(source, copy, symlinks=True)"


@pytest.fixture
def plugin_project(project: Project) -> Project:
    """Return a project in which the plugin ``custom`` captures mcp.json."""
    project.overrides["assets.mcp"] = {"python": "custom", "path": "state/mcp.json"}
    return project


def capture_identity(project: Project) -> None:
    """Let the plugin capture identity/ instead of mcp.json."""
    project.overrides["assets.mcp"] = {"file": "state/mcp.json"}
    project.overrides["assets.identity"] = {"python": "custom", "path": "state/identity"}


def refusal(project: Project) -> str:
    """Check that a capture fails, changes no live byte and leaves no file; return the message."""
    before = project.content()
    with pytest.raises(StageFailed) as error:
        project.capture()
    assert project.content() == before
    assert project.leftovers() == []
    assert project.pipeline.catalogue.published() == ([], [])
    return error.value.message


def verdict_of(project: Project) -> SnapshotVerdict:
    """Verify the only snapshot as ``release.verify`` does."""
    (verdict,) = verify_all(project.pipeline.catalogue, assets=project.settings.release.assets)
    return verdict


def stored_copy(project: Project, snapshot: SnapshotMetadata, key: str) -> Path:
    """Return the path of the copy of an asset."""
    record = snapshot.asset(key)
    assert record is not None
    path: Path = project.pipeline.catalogue.path(snapshot.snapshot_id) / record.relative_path
    return path


def test_copy_of_a_plugin_is_recorded_like_a_file_asset(plugin_project: Project, install_kind: InstallKind) -> None:
    """Digest, private mode, live mode and plugin are recorded; the digest of the snapshot is that of a file asset."""
    os.chmod(plugin_project.mcp, 0o640)
    install_kind()
    snapshot = plugin_project.capture()
    record = snapshot.asset("mcp")
    assert record is not None
    assert (record.kind, record.plugin, record.exists, record.mode) == ("file", "custom", True, 0o640)
    assert stored_copy(plugin_project, snapshot, "mcp").stat().st_mode & 0o777 == 0o600
    assert (verdict_of(plugin_project).status, verdict_of(plugin_project).notes) == ("verified", [])
    del plugin_project.overrides["assets.mcp"]
    assert plugin_project.capture("v2").digest == snapshot.digest


def test_folder_of_a_plugin_keeps_modes_links_and_empty_folders(
    plugin_project: Project, install_kind: InstallKind
) -> None:
    """The recorded entries are those of a folder asset."""
    install_kind(COPY_FOLDER, form="directory")
    capture_identity(plugin_project)
    by_plugin = plugin_project.capture("v1").asset("identity")
    plugin_project.overrides["assets.identity"] = {"directory": "state/identity"}
    by_suite = plugin_project.capture("v2").asset("identity")
    assert by_plugin is not None and by_suite is not None
    assert by_plugin.entries == by_suite.entries
    assert by_plugin.plugin == "custom"


def test_absent_asset_is_recorded_as_absent_without_the_plugin(
    plugin_project: Project, install_kind: InstallKind
) -> None:
    """The plugin is not called for an asset that does not exist."""
    install_kind("raise AssertionError")
    plugin_project.mcp.unlink()
    record = plugin_project.capture().asset("mcp")
    assert record is not None
    assert (record.exists, record.plugin) == (False, None)


def test_options_and_progress_are_passed_and_a_class_is_accepted(
    plugin_project: Project, install_kind: InstallKind
) -> None:
    """Options under ``with`` reach the plugin, its progress is reported, and a class works like a module."""
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
    plugin_project.overrides["assets.mcp.with"] = {"deep": [1, {"on": True}]}
    events: list[Event] = []
    settings = plugin_project.settings
    request = CaptureRequest(snapshot_id="s", release_id="s", kind="release", retention_limit=5)
    snapshot = capture_snapshot(plugin_project.pipeline.catalogue, settings.release.assets, request, events.append)
    assert stored_copy(plugin_project, snapshot, "mcp").read_text() == "mcp {'deep': [1, {'on': True}]}"
    assert any(isinstance(event, BytesMoved) and (event.key, event.done) == ("mcp", 3) for event in events)
    assert verdict_of(plugin_project).status == "verified"


@pytest.mark.parametrize(
    ("capture", "expected"),
    [
        ("pass", f"{KIND} wrote no copy"),
        ("os.mkdir(copy)", f"{KIND} did not write a file"),
        ("os.symlink(source, copy)", f"{KIND} did not write a file"),
        ("os.link(source, copy)", f"{KIND} wrote an invalid copy: mcp.json is a hard link"),
        ("os.mkfifo(copy)", f"{KIND} did not write a file"),
        (f"{COPY}; open(str(copy) + '.lock', 'w')", f"{KIND} wrote mcp.json.lock next to its copy"),
        (f"{COPY}; os.mkdir(copy.parents[1] / 'extra')", "assets/extra was written into the snapshot"),
        (f"{COPY}; open(copy.parents[2] / 'extra', 'w')", "extra was written into the snapshot"),
        ("raise ValueError('no luck')", "failed in capture: ValueError: no luck (custom_kind.py, line 6)"),
        ("raise PluginError('Stop the importer first: importer stop')", "Stop the importer first: importer stop."),
        ("sys.exit(0)", "the asset kind 'custom' of custom-kind 1.0 failed in capture: SystemExit: 0"),
        ("os._exit(3)", f"{KIND} exited in capture without a result (exit code 3)"),
        ("ctypes.string_at(0)", f"{KIND} exited in capture without a result (signal 11)"),
        ("print('x' * 1_000_000); os.write(1, b'{}\\n'); os.write(2, b'loud')", f"{KIND} wrote no copy"),
    ],
)  # fmt: skip
def test_wrong_capture_blocks_and_leaves_no_file(
    plugin_project: Project, install_kind: InstallKind, capture: str, expected: str
) -> None:
    """No copy, another form, links, extra files, exceptions, crashes and prints: the message names the asset."""
    install_kind(capture)
    message = refusal(plugin_project)
    assert expected in message, message
    if "written into" not in expected:
        assert message.startswith(f"{plugin_project.mcp} (asset mcp): ")


@pytest.mark.parametrize(
    ("capture", "expected"),
    [
        (
            "os.mkdir(copy); os.symlink('/etc', copy / 'out')",
            "identity/out is a link to a path outside the copy",
        ),
        ("os.mkdir(copy); os.symlink('../../x', copy / 'out')", "identity/out is a link to a path outside the copy"),
        ("os.mkdir(copy); os.mkfifo(copy / 'pipe')", "pipe is a named pipe: only files, folders and links"),
        ("os.mkdir(copy); os.chdir(copy); socket.socket(socket.AF_UNIX).bind('s')", "s is a socket"),
        ("os.mkdir(copy); os.link(source / 'identity.json', copy / 'same')", "identity/same is a hard link"),
        ("open(copy, 'w')", f"{KIND} did not write a folder"),
    ],
)
def test_folder_with_a_forbidden_entry_blocks_and_leaves_no_file(
    plugin_project: Project, install_kind: InstallKind, capture: str, expected: str
) -> None:
    """Links out of the copy, devices, pipes, sockets and hard links are refused."""
    install_kind(capture, form="directory")
    capture_identity(plugin_project)
    assert expected in refusal(plugin_project)


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: state of another user: needs root")
@pytest.mark.parametrize("is_folder", [False, True], ids=["file in a folder of the user", "folder of the user"])
def test_root_runs_no_plugin_on_state_that_another_user_can_exchange(
    plugin_project: Project, install_kind: InstallKind, is_folder: bool
) -> None:
    """A plugin opens files by their paths. A rollback goes on with a plain copy."""
    if is_folder:
        install_kind(COPY_FOLDER, form="directory")
        capture_identity(plugin_project)
    else:
        install_kind()
    plugin_project.capture()
    os.chown(plugin_project.identity if is_folder else plugin_project.state, 54321, 54321)
    with pytest.raises(StageFailed, match=r"uid 54321 can exchange files in it.* Run the command as uid 54321"):
        plugin_project.capture()
    changed = plugin_project.identity / "identity.json" if is_folder else plugin_project.mcp
    changed.write_text("{}")
    outcome = plugin_project.roll_back()
    assert outcome.status == "restored" and changed.read_text() != "{}"
    assert "uid 54321 can exchange files in it" in " ".join(outcome.diagnostics)


@pytest.mark.parametrize(
    ("capture", "expected"),
    [
        ("os.rename(source, copy)", "it was missing after its capture"),
        (f"{COPY}; os.chmod(source, 0o777)", "its mode, owner or type had changed after its capture"),
        (
            f"{COPY}; os.unlink(source); os.symlink('x', source)",
            "its mode, owner or type had changed after its capture",
        ),
    ],
)
def test_capture_that_changes_the_live_state_blocks(
    plugin_project: Project, install_kind: InstallKind, capture: str, expected: str
) -> None:
    """A removed asset, another form or another mode cannot come from the service."""
    install_kind(capture)
    with pytest.raises(StageFailed, match=expected):
        plugin_project.capture()
    assert plugin_project.pipeline.catalogue.published() == ([], [])
    assert plugin_project.leftovers() == []


@pytest.mark.parametrize(
    ("check", "expected"),
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
def test_check_with_findings_or_changes_blocks(
    plugin_project: Project, install_kind: InstallKind, check: str, expected: str
) -> None:
    """A damaged copy, or one changed after its digest was taken, is never published."""
    install_kind(check=check)
    if "chmod" in check:  # the mode of a stored file is no part of its digest, that of one in a folder is
        capture_identity(plugin_project)
        install_kind(COPY_FOLDER, check.replace("copy,", "copy / 'identity.json',"), form="directory")
    assert expected in refusal(plugin_project)


@pytest.mark.parametrize(
    ("setup", "expected"),
    [
        ({"before": "import nonesuch"}, "cannot be loaded (custom_kind): ModuleNotFoundError: No module named"),
        ({"form": "pipe"}, "its form should be 'file' or 'directory' (custom_kind)"),
        ({"value": "custom_kind:form"}, "its form should be 'file' or 'directory' (custom_kind:form)"),
        ({"before": "class Kind:\n    form = 'file'", "value": "custom_kind:Kind"}, "has no function capture"),
        ({"form": "directory"}, "captures a folder, but "),
    ],
)
def test_broken_package_is_named_with_the_command_to_fix_it(
    plugin_project: Project, install_kind: InstallKind, setup: dict[str, str], expected: str
) -> None:
    """The import fails, the form is invalid, or a function is missing."""
    install_kind(**setup)
    message = refusal(plugin_project)
    assert expected in message and "custom-kind 1.0" in message, message
    assert f"Type: {sys.executable} -m pip" in message or "captures a folder" in expected


def test_missing_plugin_is_reported_with_the_command_to_install_it(plugin_project: Project) -> None:
    """No installed package has an entry point of that name."""
    message = refusal(plugin_project)
    assert "no installed package offers the asset kind 'custom' (offered: none)" in message
    assert f"Type: {sys.executable} -m pip install PACKAGE." in message


@pytest.mark.parametrize(
    "capture",
    [
        "time.sleep(60)",
        "context.cancelled.wait(60); time.sleep(60)",
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)",
        "subprocess.Popen(['sh', '-c', 'sleep 60; : TAG'], start_new_session=True); time.sleep(60)",
    ],
)
def test_capture_past_its_timeout_is_ended_with_its_children(
    plugin_project: Project, install_kind: InstallKind, capture: str
) -> None:
    """The message names the key that sets the timeout."""
    tag = uuid.uuid4().hex
    install_kind(capture.replace("TAG", tag))
    plugin_project.overrides["assets.mcp.timeout"] = "1s"
    start = time.monotonic()
    message = refusal(plugin_project)
    assert f"{KIND} had no result in capture after 1s and was stopped." in message
    assert "To allow more time, raise release.assets.mcp.timeout." in message
    assert time.monotonic() - start < 6
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            assert tag.encode() not in path.read_bytes()


def test_cancelled_capture_ends_within_a_second(plugin_project: Project, install_kind: InstallKind) -> None:
    """When another asset fails, the plugin is notified and has half a second to end."""
    install_kind("open(copy, 'w').write('x')\ncontext.cancelled.wait(60)")
    os.mkfifo(plugin_project.identity / "pipe")
    start = time.monotonic()
    with pytest.raises(StageFailed, match="named pipe"):
        plugin_project.capture()
    assert time.monotonic() - start < 4
    assert plugin_project.leftovers() == []


def test_plugin_ends_with_the_run_that_started_it(
    plugin_project: Project, install_kind: InstallKind, tmp_path: Path
) -> None:
    """Its process ends when its parent is killed, too."""
    heartbeat = tmp_path / "heartbeat"
    install_kind(f"while True:\n    open({str(heartbeat)!r}, 'a').write('x')\n    time.sleep(0.01)")
    script = (
        "import sys; from pathlib import Path;"
        "from release_tasks.assets.plugin_host.calls import KindCall, capture_copy;"
        "capture_copy(KindCall(plugin='custom', key='k', options={}, timeout=60), Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script, str(plugin_project.mcp), str(tmp_path / "copy")]
    with subprocess.Popen(command, env=environment) as process:
        until = time.monotonic() + 20
        while not heartbeat.exists() and time.monotonic() < until:
            time.sleep(0.01)
        process.kill()
    size = -1
    while size != (size := heartbeat.stat().st_size) and time.monotonic() < until:
        time.sleep(0.1)
    assert time.monotonic() < until, "the plugin still runs"


def test_prepare_is_blocked_until_the_plugin_is_installed(plugin_project: Project, install_kind: InstallKind) -> None:
    """The manifest names the asset, the key and the command; nothing is captured until then."""
    report = PreflightReport(passed=True, checks=[], failed_checks=[])
    manifest = prepare(plugin_project.settings, report, "v1")
    assert (manifest.status, manifest.snapshot) == ("blocked", None)
    assert manifest.diagnostics == [
        "mcp: no installed package offers the asset kind 'custom' (offered: none). "
        f"Type: {sys.executable} -m pip install PACKAGE (release.assets.mcp.python)"
    ]
    install_kind()
    assert prepare(plugin_project.settings, report, "v1").status == "ready"


# Verification


def test_verify_runs_the_check_of_the_plugin(plugin_project: Project, install_kind: InstallKind) -> None:
    """Findings of the check are damage; a missing or broken plugin is a note, because every byte is as recorded."""
    install_kind()
    plugin_project.capture()
    install_kind(check="return ['record 7 is torn']")
    verdict = verdict_of(plugin_project)
    assert (verdict.status, [finding.what for finding in verdict.findings]) == ("damaged", ["record 7 is torn"])
    install_kind(check="raise ValueError('broken')")
    verdict = verdict_of(plugin_project)
    assert (verdict.status, len(verdict.notes)) == ("verified", 1)
    assert verdict.notes[0].startswith(
        "mcp: every byte is as recorded, but its plugin could not check it: the asset kind"
    )
    install_kind(value="custom_kind", before="import nonesuch")
    assert "No module named 'nonesuch'" in verdict_of(plugin_project).notes[0]


def test_verify_detects_a_check_that_changed_the_stored_copy(
    plugin_project: Project, install_kind: InstallKind
) -> None:
    """A later version of the plugin wrote into the snapshot."""
    install_kind()
    plugin_project.capture()
    install_kind(check="open(copy, 'a').write('x'); return []")
    verdict = verdict_of(plugin_project)
    assert (verdict.status, verdict.findings[0].what) == ("damaged", "was altered")


# Configuration


@pytest.mark.parametrize(
    ("asset", "expected"),
    [
        ({"python": "custom"}, "release.assets.a: path: needs the key python, and python needs path"),
        ({"file": "x", "path": "y"}, "release.assets.a: path: needs the key python, and python needs path"),
        ({"file": "x", "with": {"a": 1}}, "release.assets.a: with: allowed only with python"),
        ({"file": "x", "timeout": "1s"}, "release.assets.a: timeout: allowed only with python"),
        ({"python": "custom", "path": "x", "file": "y"}, "got file and python"),
        ({"python": "custom", "path": 7}, "release.assets.a.path: expected a path, got the number 7"),
        ({"python": "custom", "path": "pipeline/x"}, "overlaps with release.assets.a"),
    ],
)  # fmt: skip
def test_wrong_configuration_of_a_plugin_asset_is_explained(
    project: Project, asset: dict[str, Any], expected: str
) -> None:
    """Each mistake has its dotted path, as in invoke.yaml."""
    project.overrides["assets"] = {"a": asset}
    with pytest.raises(ConfigError) as error:
        _ = project.settings
    assert expected in str(error.value)
