"""Root uses its own folders only if no other user can change them; another user wrote there before root came."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from release_tasks.archive.pipeline import Pipeline
from release_tasks.core import scratch
from release_tasks.core.errors import ConfigError
from release_tasks.core.owned import ForeignFolder, exposure_of
from release_tasks.core.process.find import start_ticks
from release_tasks.report.github import report_to_github
from release_tasks.stages.preflight.missing import find_missing
from release_tasks.tasks.project import load_project
from tests.support.forked_inv import Ended, ForkedInv

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        os.geteuid() != 0 or sys.platform != "linux", reason="NOT TESTED: needs root on Linux to act as two users"
    ),
]

NEIGHBOUR = 4711  # of no account
GROUP = 4712
_WRITTEN_BY_THE_TEST = (".out", ".err", ".steps")


@frozen
class Site:
    """A project of root in ``home``, and ``system``, a folder of root that the neighbour wants root to change."""

    inv: ForkedInv
    home: Path
    system: Path

    @property
    def memory(self) -> Path:
        return self.home / "memory"

    @property
    def pipeline(self) -> Path:
        return self.memory / "release-pipeline"

    @property
    def credentials(self) -> Path:
        return self.memory / "credentials"

    @property
    def gateway(self) -> Path:
        return self.memory / "gateway"

    def run(self, *words: str) -> Ended:
        return self.inv.run(self.home, *words)

    def everything(self) -> dict[str, Any]:
        """Return mode, owner and content of every path of the project and of the system folder."""
        found: dict[str, Any] = {}
        for path in sorted(self.home.parent.rglob("*")):
            if path.name in _WRITTEN_BY_THE_TEST:
                continue
            info = path.lstat()
            content: Any = os.readlink(path) if path.is_symlink() else None
            if stat.S_ISREG(info.st_mode):
                content = path.read_bytes()
            found[str(path)] = (info.st_mode, info.st_uid, info.st_gid, info.st_ino, content)
        return found


@pytest.fixture(scope="module")
def inv() -> Iterator[ForkedInv]:
    hidden = ("INVOKE_", "GITHUB_", "GITLAB_", "CI")
    variables = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    with ForkedInv({**variables, "PYTHONDONTWRITEBYTECODE": "1", "NO_COLOR": "1", "COLUMNS": "1000"}) as warm:
        yield warm


@pytest.fixture
def site(inv: ForkedInv, tmp_path: Path) -> Iterator[Site]:
    folder = Path(tempfile.mkdtemp(prefix="release-tasks-", dir=tmp_path))
    home, system = folder / "home", folder / "system"
    (home / "state").mkdir(parents=True)
    (home / "state" / "app.json").write_text("one")
    os.chown(home / "state", NEIGHBOUR, NEIGHBOUR)
    os.chown(home / "state" / "app.json", NEIGHBOUR, NEIGHBOUR)
    system.mkdir(mode=0o755)
    for name in ("rollback-audit.log", "telegram-pairing.json", "gateway.log", "v1.json"):
        (system / name).write_text("of the system")
        os.chmod(system / name, 0o644)
    (home / "tasks.py").write_text("from release_tasks import ns\n")
    section = {
        "app": {"name": "demo", "version": "1"},
        "gates": {"always": {"command": "true"}},
        "assets": {"app": {"file": "state/app.json"}},
    }
    project = {"release": section, "gateway": {}, "tasks": {"executor_class": "release_tasks.executor.StageExecutor"}}
    (home / "invoke.yaml").write_text(json.dumps(project))
    yield Site(inv, home, system)
    shutil.rmtree(folder)


def give(path: Path, *, link: Path | None = None) -> None:
    """Let the neighbour own ``path``, which is created as a folder, or as a link to ``link``."""
    if link is not None:
        path.symlink_to(link)
    elif not os.path.lexists(path):
        path.mkdir()
    os.lchown(path, NEIGHBOUR, NEIGHBOUR)


def make(*folders: Path, mode: int = 0o700) -> None:
    for folder in folders:
        folder.mkdir(exist_ok=True)
        os.chmod(folder, mode)


def give_file(path: Path) -> None:
    path.write_text("planted")
    give(path)


def give_pipe(path: Path) -> None:
    os.mkfifo(path)
    give(path)


def let_write(folder: Path, mode: int, group: int = 0) -> None:
    make(folder)
    os.chown(folder, 0, group)
    os.chmod(folder, mode)


def access_list(*entries: tuple[int, int, int]) -> bytes:
    """Return an access list as the kernel stores it: tag, permissions and id of each entry (acl(5))."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


NO_ID = 0xFFFFFFFF
OWNER, GROUP_OBJECT, OTHER = (0x01, 7, NO_ID), (0x04, 5, NO_ID), (0x20, 5, NO_ID)


def grant(folder: Path, *entries: tuple[int, int, int], mask: int = 7) -> None:
    make(folder)
    listed = sorted([OWNER, GROUP_OBJECT, *entries, (0x10, mask, NO_ID), OTHER])
    try:
        os.setxattr(folder, "system.posix_acl_access", access_list(*listed))
    except OSError as error:
        pytest.skip(f"NOT TESTED: {folder} has no access lists: {error.strerror}")


def inside(*folders: str, plant: Callable[[Site], None]) -> Callable[[Site], None]:
    """Return ``plant`` for a site where root has made ``folders`` in memory/ before."""

    def planted(site: Site) -> None:
        make(site.memory, *(site.memory / folder for folder in folders))
        plant(site)

    return planted


def in_pipeline(plant: Callable[[Site], None]) -> Callable[[Site], None]:
    return inside("release-pipeline", plant=plant)


def below(name: str, plant: Callable[[Site], None]) -> Callable[[Site], None]:
    return inside("release-pipeline", f"release-pipeline/{name}", plant=plant)


def name_in_a_shared_folder(site: Site) -> None:
    let_write(site.memory, 0o1777)
    give(site.pipeline)


def link_of_root_to_a_folder_of_the_neighbour(site: Site) -> None:
    make(site.memory)
    give(site.home / "elsewhere")
    (site.pipeline).symlink_to("../elsewhere")


Plant = Callable[[Site], None]
OWNS, LINKED = r"belongs to uid 4711\.", r"is a link that uid 4711 made\."
# Each entry: what the neighbour left behind, and what the message says about which path.
PIPELINE: dict[str, tuple[Plant, str, str]] = {
    "the project": (lambda site: give(site.home), "home", OWNS),
    "the folder above": (lambda site: give(site.memory), "home/memory", OWNS),
    "the folder": (inside(plant=lambda site: give(site.pipeline)), "memory/release-pipeline", OWNS),
    "a link above": (lambda site: give(site.memory, link=site.system), "home/memory", LINKED),
    "a link": (
        inside(plant=lambda site: give(site.pipeline, link=site.system)),
        "memory/release-pipeline",
        LINKED,
    ),
    "a dangling link": (
        inside(plant=lambda site: give(site.pipeline, link=site.system / "new")),
        "memory/release-pipeline",
        LINKED,
    ),
    "a link of root that leads to it": (link_of_root_to_a_folder_of_the_neighbour, "home/elsewhere", OWNS),
    **{
        f"{name} inside": (in_pipeline(lambda site, name=name: give(site.pipeline / name)), name, OWNS)  # type: ignore[misc]
        for name in ("manifests", "snapshots", "logs", "drills", "reports")
    },
    **{
        f"{name} as a link": (
            in_pipeline(lambda site, name=name: give(site.pipeline / name, link=site.system)),  # type: ignore[misc]
            name,
            LINKED,
        )
        for name in ("manifests", "snapshots", "logs", "rollback-audit.log", "lock", ".gitignore", "start-gate")
    },
    "the log": (in_pipeline(lambda site: give_file(site.pipeline / "rollback-audit.log")), "rollback-audit.log", OWNS),
    "a pipe as the lock": (in_pipeline(lambda site: give_pipe(site.pipeline / "lock")), "release-pipeline/lock", OWNS),
    "a manifest": (
        below("manifests", lambda site: give_file(site.pipeline / "manifests" / "v1.json")),
        "manifests/v1.json",
        OWNS,
    ),
    "the logs of a release": (
        below("logs", lambda site: give(site.pipeline / "logs" / "v1", link=site.system)),
        "logs/v1",
        LINKED,
    ),
    "a snapshot": (below("snapshots", lambda site: give(site.pipeline / "snapshots" / "v1")), "snapshots/v1", OWNS),
    "a folder inside that all may write": (
        in_pipeline(lambda site: let_write(site.pipeline / "manifests", 0o777)),
        "manifests",
        r"may be written by every user\.",
    ),
    "a group": (lambda site: let_write(site.memory, 0o770, GROUP), "home/memory", r"may be written by group 4712\."),
    "every user": (lambda site: let_write(site.memory, 0o707), "home/memory", r"may be written by every user\."),
    "a shared folder": (
        lambda site: let_write(site.memory, 0o1777),
        "memory/release-pipeline",
        r"does not exist, and other users may create it in ",
    ),
    "a name in a shared folder": (
        name_in_a_shared_folder,
        "memory/release-pipeline",
        OWNS,
    ),
    "an access list": (
        lambda site: grant(site.memory, (0x02, 7, NEIGHBOUR)),
        "home/memory",
        r"may be written by uid 4711\.",
    ),
    "an access list with a group": (
        lambda site: grant(site.memory, (0x08, 2, GROUP)),
        "home/memory",
        r"may be written by group 4712\.",
    ),
}


def refused(ended: Ended, path: Path | str, reason: str) -> str:
    """Return the message of a refusal: exit code 2, the reason, no traceback."""
    assert ended.code == 2, (ended.out, ended.err)
    assert "Traceback" not in ended.err
    found = re.search(rf"\S*{re.escape(str(path))} {reason}", ended.err)
    assert found is not None, ended.err
    return ended.err


@pytest.mark.parametrize("name", PIPELINE)
def test_root_opens_no_pipeline_where_a_neighbour_was(site: Site, name: str) -> None:
    """The same for a program that uses the API."""
    plant, path, reason = PIPELINE[name]
    plant(site)
    before = site.everything()
    with pytest.raises(ForeignFolder, match=rf"^release\.root: .*{re.escape(path)} {reason}"):
        Pipeline(site.pipeline)
    assert site.everything() == before


@pytest.mark.slow
@pytest.mark.parametrize("name", PIPELINE)
def test_root_prepares_nothing_where_a_neighbour_was(site: Site, name: str) -> None:
    """Nothing is written anywhere; the message names the place, its owner and what to type."""
    plant, path, reason = PIPELINE[name]
    plant(site)
    before = site.everything()
    message = refused(site.run("release.prepare"), path, reason)
    assert site.everything() == before
    assert message.startswith(f"release.root: root does not use {site.pipeline}: ")
    assert "; or set release.root to a folder of root" in message or "Choose one: set release.root" in message
    if "4711" in reason:
        assert "run inv as that user: sudo -u '#4711' inv ..." in message


@pytest.mark.slow
def test_a_name_of_a_neighbour_forges_no_line(site: Site) -> None:
    """Its line ends and escapes are shown as such, and the command to type has them quoted."""
    make(site.memory, site.pipeline)
    give_file(site.pipeline / "x\nRESTORED\x1b[2K; reboot")
    ended = site.run("release.recover")
    assert ended.code == 2 and len(ended.err.splitlines()) == 1, ended.err
    assert "\x1b" not in ended.err and "x\\nRESTORED" in ended.err
    assert "x\\x0aRESTORED\\x1b[2K; reboot'" in ended.err


def test_a_loop_of_links_of_root_is_no_exposure(site: Site) -> None:
    """It names nothing; what needs the folder says so."""
    site.memory.symlink_to("memory")
    assert exposure_of(site.pipeline) is None
    assert site.run("release.prepare").code == 1


@pytest.mark.slow
def test_what_the_message_says_to_type_is_accepted(site: Site) -> None:
    """Each refusal names one place; when all commands were typed, root prepares."""
    give(site.memory)
    give(site.pipeline)
    give(site.pipeline / "manifests")
    give(site.pipeline / "logs", link=site.system)
    for _ in range(4):
        message = site.run("release.prepare").err
        command = message.rpartition("let root alone change it: ")[2]
        subprocess.run(["/bin/sh", "-ec", command], check=True)
    done = site.run("release.prepare")
    assert done.code == 0, done.err
    assert not any((site.system / "logs").glob("*"))


RELEASE = {
    "preflight": ["release.preflight"],
    "one gate": ["gate.run", "always"],
    "prepare": ["release.prepare", "--release-id", "v2"],
    "rollback": ["release.rollback"],
    "plan": ["release.rollback", "--plan"],
    "recover": ["release.recover"],
    "recover --dry": ["--dry", "release.recover"],
    "drill": ["release.drill"],
    "watch": ["release.watch", "--for", "1s", "--health-url", "http://127.0.0.1:9/health"],
    "diagnose": ["release.diagnose"],
    "status": ["release.status"],
    "diff": ["release.diff", "v1", "v2"],
    "verify": ["release.verify"],
    "extract": ["release.extract", "--to", "extracted"],
    "audit": ["release.audit"],
    "report": ["release.report"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RELEASE)
def test_no_task_of_root_uses_the_records_of_a_neighbour(site: Site, name: str) -> None:
    """Also not to read them: they decide what a rollback restores, and whether the service may start."""
    assert site.run("release.prepare", "--release-id", "v1").code == 0
    os.chown(site.pipeline / "manifests", NEIGHBOUR, NEIGHBOUR)
    before = site.everything()
    for words in (RELEASE[name], [*RELEASE[name], "--json"]):
        ended = site.run(*words)
        refused(ended, "manifests", OWNS)
    document = json.loads(ended.out)
    assert (document["status"], document["exitCode"]) == ("error", 2)
    assert document["message"].startswith("release.root: ")
    assert site.everything() == before


CREDENTIALS: dict[str, tuple[Plant, str, str]] = {
    "the folder above": (lambda site: give(site.memory), "home/memory", OWNS),
    "a link to a system folder": (
        inside(plant=lambda site: give(site.credentials, link=site.system)),
        "memory/credentials",
        LINKED,
    ),
    "the folder": (inside(plant=lambda site: give(site.credentials)), "memory/credentials", OWNS),
    "a store": (
        inside("credentials", plant=lambda site: give_file(site.credentials / "telegram-pairing.json")),
        "credentials/telegram-pairing.json",
        OWNS,
    ),
    "a store as a link": (
        inside(
            "credentials",
            plant=lambda site: give(
                site.credentials / "telegram-pairing.json", link=site.system / "telegram-pairing.json"
            ),
        ),
        "credentials/telegram-pairing.json",
        LINKED,
    ),
    "a lock as a link": (
        inside(
            "credentials", plant=lambda site: give(site.credentials / "telegram-pairing.lock", link=site.system / "new")
        ),
        "credentials/telegram-pairing.lock",
        LINKED,
    ),
    "every user": (lambda site: let_write(site.memory, 0o777), "home/memory", r"may be written by every user\."),
    "every user in the folder": (
        inside(plant=lambda site: let_write(site.credentials, 0o777)),
        "memory/credentials",
        r"may be written by every user\.",
    ),
    "an access list": (
        inside(plant=lambda site: grant(site.credentials, (0x02, 7, NEIGHBOUR))),
        "memory/credentials",
        r"may be written by uid 4711\.",
    ),
}
PAIRING = {
    "list": ["pairing.list", "telegram"],
    "approve": ["pairing.approve", "telegram", "ABCD2345"],
    "reject": ["pairing.reject", "telegram", "ABCD2345"],
    "revoke": ["pairing.revoke", "telegram", "4711"],
    "audit": ["pairing.audit"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CREDENTIALS)
def test_root_decides_about_no_sender_where_a_neighbour_was(site: Site, name: str) -> None:
    """The folder that the neighbour linked keeps its mode, and its files keep theirs."""
    plant, path, reason = CREDENTIALS[name]
    plant(site)
    before = site.everything()
    for words in PAIRING.values():
        message = refused(site.run(*words), path, reason)
        assert message.startswith(f"pairing.credentials: root does not use {site.credentials}: ")
    assert site.everything() == before


@pytest.mark.slow
def test_pairing_stores_of_a_neighbour_in_an_asset_stop_the_release(site: Site) -> None:
    """A rollback would write approvals there; so the release says it before, and the plan too."""
    project = json.loads((site.home / "invoke.yaml").read_text())
    project["release"]["assets"]["senders"] = {"directory": "memory/credentials"}
    (site.home / "invoke.yaml").write_text(json.dumps(project))
    make(site.memory, site.credentials)
    assert site.run("release.prepare", "--release-id", "v1").code == 0
    os.chown(site.credentials, NEIGHBOUR, NEIGHBOUR)
    before = site.everything()
    for words in (["release.prepare"], ["release.rollback"], ["release.rollback", "--plan"]):
        message = refused(site.run(*words), "memory/credentials", OWNS)
        assert message.startswith("pairing.credentials: ")
    assert site.everything() == before
    diagnosis = site.run("release.diagnose", "--json")
    assert "belongs to uid 4711" in json.dumps(json.loads(diagnosis.out)["findings"])


GATEWAY: dict[str, tuple[Plant, str, str]] = {
    "the folder above": (lambda site: give(site.memory), "home/memory", OWNS),
    "the folder": (inside(plant=lambda site: give(site.gateway)), "memory/gateway", OWNS),
    "a link": (
        inside(plant=lambda site: give(site.gateway, link=site.system)),
        "memory/gateway",
        LINKED,
    ),
    "the log as a link": (
        inside("gateway", plant=lambda site: give(site.gateway / "gateway.log", link=site.system / "gateway.log")),
        "gateway/gateway.log",
        LINKED,
    ),
    "the servers that it starts": (
        inside("gateway", plant=lambda site: give_file(site.gateway / "mcp-servers.json")),
        "gateway/mcp-servers.json",
        OWNS,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", GATEWAY)
def test_root_runs_no_gateway_where_a_neighbour_was(site: Site, name: str) -> None:
    """Its files name programs, which root would start."""
    plant, path, reason = GATEWAY[name]
    plant(site)
    before = site.everything()
    for words in (["gateway.start", "--port", "0"], ["gateway.restart"], ["gateway.status"], ["gateway.break", "mcp"]):
        assert refused(site.run(*words), path, reason).startswith("gateway.root: ")
    command = [sys.executable, "-m", "release_tasks.gateway", "--root", str(site.gateway), "--port", "0"]
    done = subprocess.run(command, cwd=site.home, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert re.search(rf"gateway: refused: gateway\.root: .*{path} {reason}", done.stderr), done.stderr
    assert site.everything() == before


def test_a_pid_file_of_a_neighbour_stops_no_process_of_root(site: Site) -> None:
    """`gateway.stop` would end the process that the file names."""
    make(site.memory)
    give(site.gateway)
    with subprocess.Popen(["sleep", "60"]) as process:
        record = {"pid": process.pid, "startTicks": start_ticks(process.pid), "host": "127.0.0.1", "startedAt": "now"}
        (site.gateway / "gateway.pid").write_text(json.dumps({**record, "bootId": None, "port": None}))
        try:
            refused(site.run("gateway.stop"), "memory/gateway", OWNS)
            assert process.poll() is None
        finally:
            process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--junit", "--output", "--scratch"])
def test_root_writes_no_typed_path_in_a_folder_of_a_neighbour(site: Site, flag: str) -> None:
    """The neighbour could exchange the folder for a link to any folder of the system."""
    assert site.run("release.prepare", "--release-id", "v1").code == 0
    give(site.home / "inbox")
    (site.home / "inbox" / "there").mkdir()
    before = site.everything()
    words = {
        "--junit": ["release.preflight", "--junit", "inbox/there/junit.xml"],
        "--output": ["release.report", "--output", "inbox/there/page.html"],
        "--scratch": ["release.drill", "--scratch", "inbox/there"],
    }
    message = refused(site.run(*words[flag]), "home/inbox", OWNS)
    assert message.startswith(f"{flag}: root does not write ")
    assert site.everything() == before


def test_root_writes_a_typed_path_in_a_shared_folder(site: Site) -> None:
    """In /tmp, other users cannot exchange what root has made there."""
    shared = site.home.parent / "shared"
    let_write(shared, 0o1777)
    give_file(shared / "junit.xml")
    done = site.run("release.preflight", "--junit", str(shared / "junit.xml"))
    assert done.code == 0, done.err
    info = (shared / "junit.xml").lstat()
    assert (info.st_uid, stat.S_ISREG(info.st_mode)) == (0, True)


def plant_a_link(inbox: Path, system: Path) -> None:
    give(inbox / "summary", link=system / "v1.json")


def plant_a_link_above(inbox: Path, system: Path) -> None:
    (inbox / "summary").rename(inbox / "former")
    inbox.rename(inbox.with_name("moved"))
    give(inbox, link=system)
    (system / "summary").write_text("of the system")


def plant_a_hard_link(inbox: Path, system: Path) -> None:
    (inbox / "summary").unlink()
    (inbox / "summary").hardlink_to(system / "v1.json")


@pytest.mark.parametrize("plant", [plant_a_link, plant_a_link_above, plant_a_hard_link])
def test_the_summary_of_a_runner_reaches_no_file_of_root(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], plant: Callable[[Path, Path], None]
) -> None:
    """The user of the runner owns the folder; in the container of a job, root writes the summary there."""
    inbox, system = tmp_path / "inbox", tmp_path / "system"
    system.mkdir()
    (system / "v1.json").write_text("of the system")
    give(inbox)
    give_file(inbox / "summary")
    environ = {"GITHUB_STEP_SUMMARY": str(inbox / "summary"), "GITHUB_OUTPUT": str(inbox / "summary")}
    report_to_github({"status": "ready"}, 0, io.StringIO(), environ)
    assert "ready" in (inbox / "summary").read_text()
    assert capsys.readouterr().err == ""
    if plant is plant_a_link:
        (inbox / "summary").unlink()
    plant(inbox, system)
    report_to_github({"status": "ready"}, 0, io.StringIO(), environ)
    assert {path.read_text() for path in system.iterdir()} == {"of the system"}
    assert "which cannot be written: " in capsys.readouterr().err


def test_root_makes_no_copies_in_a_temporary_folder_of_a_neighbour(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """TMPDIR can stay from the user who became root."""
    give(site.home / "tmp")
    monkeypatch.setenv("TMPDIR", str(site.home / "tmp"))
    with scratch.scratch_folder(1, [], site.home) as folder:
        assert (site.home / "tmp") not in folder.parents
    assert list((site.home / "tmp").iterdir()) == []
    monkeypatch.setattr(scratch, "_SYSTEM", ())
    with (
        pytest.raises(scratch.NoScratchSpace, match=r"home/tmp: \S*home/tmp belongs to uid 4711"),
        scratch.scratch_folder(1 << 60, [], site.home),
    ):
        pass


EXPOSED: dict[str, Callable[[Site], None]] = {
    "the tasks": lambda site: give(site.home / "tasks.py"),
    "the configuration": lambda site: give(site.home / "invoke.yaml"),
    "the project": lambda site: give(site.home),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPOSED)
def test_root_releases_nothing_with_files_that_a_neighbour_may_change(site: Site, name: str) -> None:
    """A neighbour who writes tasks.py decides what root runs; preflight and diagnose say it."""
    EXPOSED[name](site)
    make(site.home.parent / "own")
    project = json.loads((site.home / "invoke.yaml").read_text())
    project["release"]["root"] = str(site.home.parent / "own" / "pipeline")
    project["pairing"] = {"credentials": str(site.home.parent / "own" / "credentials")}
    (site.home / "invoke.yaml").write_text(json.dumps(project))
    ended = site.run("release.prepare", "--json")
    assert ended.code == 1, ended.err
    failed = json.loads(ended.out)["preflight"]["checks"][0]
    assert (failed["id"], failed["status"]) == ("configuration", "failed")
    assert "root runs what is in it, and" in failed["detail"]
    assert "belongs to uid 4711. Choose one: run inv as that user: sudo -u '#4711' inv ..." in failed["detail"]
    findings = json.loads(site.run("release.diagnose", "--json").out)["findings"]
    assert "exposed" in [finding["key"] for finding in findings]


def test_root_runs_no_configuration_that_a_neighbour_put_in_a_folder_above(site: Site) -> None:
    """release-tasks searches upwards, and the file that it finds can be a program."""
    work = site.home / "work"
    make(work)
    for name in ("invoke.yaml", "tasks.py"):
        (site.home / name).unlink()
    mark = site.home.parent / "ran"
    (site.home / "invoke.py").write_text(f"open({str(mark)!r}, 'w')\nrelease = {{}}\n")
    give(site.home / "invoke.py")
    for words in (["release.status"], ["release.recover"], ["--list"]):
        refused(site.inv.run(work, *words, program="release-tasks"), "home/invoke.py", OWNS)
    assert not mark.exists()
    os.chown(site.home / "invoke.py", 0, 0)
    assert site.inv.run(work, "--list", program="release-tasks").code == 0
    assert mark.exists()


CODE = "open({mark!r}, 'w')\nrelease = {{}}\n"


def in_the_home_of_the_neighbour(site: Site) -> tuple[list[str], dict[str, str]]:
    give(site.home.parent / "user")
    (site.home.parent / "user" / ".invoke.py").write_text(CODE.format(mark=str(site.home.parent / "ran")))
    return [], {"HOME": str(site.home.parent / "user")}


def in_a_file_of_the_neighbour_at_home(site: Site) -> tuple[list[str], dict[str, str]]:
    words, variables = in_the_home_of_the_neighbour(site)
    os.chown(site.home.parent / "user", 0, 0)
    give(site.home.parent / "user" / ".invoke.py")
    return words, variables


def in_the_file_of_the_flag(site: Site) -> tuple[list[str], dict[str, str]]:
    (site.home / "other.py").write_text(CODE.format(mark=str(site.home.parent / "ran")))
    give(site.home / "other.py")
    return ["-f", "other.py"], {}


def in_the_file_of_the_variable(site: Site) -> tuple[list[str], dict[str, str]]:
    return [], {"INVOKE_RUNTIME_CONFIG": in_the_file_of_the_flag(site)[0][1]}


@pytest.mark.slow
@pytest.mark.parametrize(
    "plant",
    [
        in_the_home_of_the_neighbour,
        in_a_file_of_the_neighbour_at_home,
        in_the_file_of_the_flag,
        in_the_file_of_the_variable,
    ],
)
def test_root_loads_no_configuration_of_a_neighbour(
    site: Site, monkeypatch: pytest.MonkeyPatch, plant: Callable[[Site], tuple[list[str], dict[str, str]]]
) -> None:
    """``sudo -E`` keeps HOME and the variables of the user who became root."""
    words, variables = plant(site)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with ForkedInv({**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "1000"}) as inv:
        for task in (["release.status"], ["release.recover", "--json"]):
            ended = inv.run(site.home, *words, *task, program="release-tasks")
            assert (ended.code, "root runs what is in it, and" in ended.err + ended.out) == (2, True), ended
            assert len((ended.err or ended.out).splitlines()) == 1 and "belongs to uid 4711" in ended.err + ended.out
    assert not (site.home.parent / "ran").exists()


def give_tool(site: Site, name: str) -> None:
    """Let the neighbour own a program."""
    (site.home / name).parent.mkdir(exist_ok=True)
    (site.home / name).write_text("#!/bin/sh\n")
    os.chmod(site.home / name, 0o755)
    give(site.home / name)


def in_the_folder_of_the_neighbour(site: Site) -> None:
    give(site.home / "bin")


def package_of_tasks(site: Site) -> None:
    (site.home / "tasks.py").unlink()
    make(site.home / "tasks")
    (site.home / "tasks" / "__init__.py").write_text("from release_tasks import ns\n")
    give_file(site.home / "tasks" / "other.py")


def compiled_tasks(site: Site) -> None:
    give(site.home / "__pycache__")


def nothing(site: Site) -> None:
    pass


DRILL = "http://127.0.0.1:{port}/"
# Each entry: what the neighbour owns, the section `release` in addition, and key and reason of what is exposed.
NAMED: dict[str, tuple[Plant, dict[str, Any], str | None]] = {
    "the package of tasks": (package_of_tasks, {}, "tasks: root runs what is in it"),
    "compiled tasks": (compiled_tasks, {}, "tasks.py: root runs what is in it"),
    "a module": (lambda site: give(site.home / "secrets"), {}, "secrets: it hides the module secrets of Python"),
    "a module file": (lambda site: give_tool(site, "attr.py"), {}, "attr.py: it hides the module attr of Python"),
    "the modules at home": (lambda site: give(site.home / "user"), {}, "HOME: root runs what is in it"),
    "the folder of a search path": (lambda site: give(site.home / "lib"), {}, "PYTHONPATH: root runs what is in it"),
    **{
        f"{key} {command}": (
            lambda site: give_tool(site, "tools/run"),
            section,
            f"release.{key}: root runs {{home}}/{name}",
        )
        for key, section, command, name in (
            ("restart.command", {"restart": {"command": "tools/run"}}, "tools/run", "tools/run"),
            ("restart.stop", {"restart": {"stop": "tools/run", "command": "true"}}, "tools/run", "tools/run"),
            ("restart.command", {"restart": {"command": "cd tools && sh -e ./run"}}, "as a script", "tools/run"),
            ("restart.command", {"restart": {"command": "true; env A=1 tools/run"}}, "as the second", "tools/run"),
            ("gates.always.command", {"gates": {"always": {"command": "tools/run"}}}, "tools/run", "tools/run"),
            (
                "drill.command",
                {"drill": {"command": "tools/run", "health": DRILL}},
                "",
                "tools/run",
            ),
            ("notices.x.command", {"notices": {"x": {"command": "tools/run"}}}, "tools/run", "tools/run"),
            ("app.version.command", {"app": {"name": "a", "version": {"command": "tools/run"}}}, "", "tools/run"),
        )
    },
    "a folder of PATH": (
        in_the_folder_of_the_neighbour,
        {"restart": {"command": "sleep 0"}},
        "release.restart.command: root runs {home}/bin/sleep",
    ),
    "a trusted key": (
        lambda site: give_file(site.home / "release.pub"),
        {"attestation": {"public_keys": ["release.pub"]}},
        "release.attestation.public_keys: root trusts the key in {home}/release.pub",
    ),
    "the signing key": (
        lambda site: give_file(site.home / "release.key"),
        {"attestation": {"key_env": "SIGNING_KEY"}},
        "release.attestation.key_env: root trusts the key in {home}/release.key",
    ),
    "a program that runs as the neighbour": (
        lambda site: give_tool(site, "tools/run"),
        {"restart": {"command": "setpriv --reuid 4711 --clear-groups tools/run"}},
        None,
    ),
    "state, and a name of no module": (lambda site: give(site.home / "assets_of_app"), {}, None),
}


@pytest.mark.parametrize("name", NAMED)
def test_what_root_runs_of_a_neighbour_is_named(site: Site, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Preflight and diagnose report what ``find_missing`` finds."""
    plant, section, expected = NAMED[name]
    plant(site)
    project = json.loads((site.home / "invoke.yaml").read_text())
    project["release"] |= section
    (site.home / "invoke.yaml").write_text(json.dumps(project))
    monkeypatch.setenv("PATH", f"{site.home / 'bin'}:/usr/bin:/bin" if "PATH" in name else "/usr/bin:/bin")
    monkeypatch.setenv("PYTHONPATH", str(site.home / "lib"))
    monkeypatch.setenv("SIGNING_KEY", "release.key")
    monkeypatch.setattr("site.USER_SITE", str(site.home / "user"))
    monkeypatch.setattr(sys, "path", [*sys.path, str(site.home / "user")])
    exposed = [str(each) for each in find_missing(load_project(site.home)) if each.is_exposed]
    if expected is None:
        assert exposed == []
        return
    (only,) = exposed
    assert only.startswith(f"{expected.format(home=site.home)}, and "), only
    assert "belongs to uid 4711. Choose one: run inv as that user: sudo -u '#4711' inv ...; or " in only


@pytest.mark.parametrize("plant", [in_the_home_of_the_neighbour, in_a_file_of_the_neighbour_at_home])
def test_a_program_of_root_loads_no_configuration_of_a_neighbour(
    site: Site, monkeypatch: pytest.MonkeyPatch, plant: Callable[[Site], tuple[list[str], dict[str, str]]]
) -> None:
    """The same for the API."""
    monkeypatch.setenv("HOME", plant(site)[1]["HOME"])
    with pytest.raises(ConfigError, match=r"\.invoke\.py: root runs what is in it, and \S* belongs to uid 4711"):
        load_project(site.home)
    assert not (site.home.parent / "ran").exists()


def test_root_works_without_the_home_of_a_neighbour(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where that user has no configuration, there is nothing to refuse."""
    give(site.home.parent / "user")
    monkeypatch.setenv("HOME", str(site.home.parent / "user"))
    assert load_project(site.home).release.app.name == "demo"


@pytest.mark.slow
def test_root_works_in_folders_of_root(site: Site) -> None:
    """Links, groups, access lists and shared folders that give the neighbour no right are no reason to refuse."""
    disk = site.home.parent / "disk"
    make(disk, disk / "memory", mode=0o755)
    site.memory.symlink_to(disk / "memory")
    os.chmod(disk, 0o770)  # the group of root
    grant(disk / "memory", (0x02, 5, NEIGHBOUR), (0x08, 7, GROUP), mask=5)
    shared = disk / "memory" / "shared"
    let_write(shared, 0o1777)
    make(shared / "release-pipeline")
    (disk / "memory" / "release-pipeline").symlink_to("shared/release-pipeline")
    done = site.run("release.prepare", "--release-id", "v1")
    assert done.code == 0, done.err
    (site.home / "state" / "app.json").write_text("two")
    assert site.run("release.rollback").code == 0
    assert (site.home / "state" / "app.json").read_text() == "one"
    assert site.run("pairing.list", "telegram").code == 0


@pytest.mark.slow
def test_files_of_root_are_private_with_any_umask(site: Site) -> None:
    """Every folder is 0700 and every file 0600, so that no neighbour can write the next time."""
    before = os.umask(0)
    try:
        with ForkedInv({**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}) as inv:
            for words in (
                ["release.prepare", "--release-id", "v1"],
                ["release.rollback", "--force"],
                ["release.drill"],
            ):
                ended = inv.run(site.home, *words)
                assert ended.code == 0, ended.err
            ended = inv.run(site.home, "release.report")
    finally:
        os.umask(before)
    assert ended.code == 0 or "needs an extra" in ended.err, ended.err
    modes = {str(path): stat.S_IMODE(path.lstat().st_mode) for path in [site.memory, *site.memory.rglob("*")]}
    assert {path: oct(mode) for path, mode in modes.items() if mode & 0o077} == {}
    assert site.run("release.status").code == 0


def test_another_user_works_with_the_usual_umask(site: Site) -> None:
    """A user with a private group has group-writable folders everywhere; only root refuses them."""
    for path in (site.home, *site.home.rglob("*")):
        os.chown(path, NEIGHBOUR, NEIGHBOUR)
    os.chmod(site.home, 0o775)
    assert (found := exposure_of(site.home)) is not None and found.uid == NEIGHBOUR
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(NEIGHBOUR)
        os.setuid(NEIGHBOUR)
        os._exit(0 if exposure_of(site.home) is None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
