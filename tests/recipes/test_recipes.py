"""The recipes of docs/ci.md: valid by the schemas of their hosts, and every command is run, except installation."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.support.service_host import ServiceHost

DOCS = Path(__file__).parents[2] / "docs"
RECIPES = sorted(path.name for path in (DOCS / "recipes").iterdir())

Recipe = Callable[[str], Any]


class GithubJob:
    """Runs the steps of a job as GitHub's runner does; it knows the expressions of the recipe."""

    def __init__(self, host: ServiceHost, job: dict[str, Any]) -> None:
        self.host, self.steps = host, job["steps"]
        self.outcomes: dict[str, str] = {}
        self.outputs: dict[str, dict[str, str]] = {}
        self.summaries: list[str] = []
        self.printed = ""

    @property
    def has_failed(self) -> bool:
        return "failure" in self.outcomes.values()

    def run(self) -> None:
        """Run each step whose condition holds, in order."""
        for number, step in enumerate(self.steps):
            name = step.get("id") or step.get("name") or str(number)
            is_installing = "pip install" in step.get("run", "")  # the installed package is the one to test
            if "run" not in step or is_installing or not self._is_due(step.get("if", "success()")):
                continue
            folder = self.host.folder / f"runner-{number}"
            folder.mkdir()
            files = {f"GITHUB_{kind}": folder / kind.lower() for kind in ("OUTPUT", "STEP_SUMMARY", "PATH")}
            for path in files.values():
                path.touch()
            variables = {key: self._value(value) for key, value in step.get("env", {}).items()}
            host = {"CI": "true", "GITHUB_ACTIONS": "true", **{key: str(path) for key, path in files.items()}}
            done = self.host.run(step["run"], **host, **variables)
            self.printed += done.stdout + done.stderr
            self.outcomes[name] = "failure" if done.returncode else "success"
            reported = files["GITHUB_OUTPUT"].read_text().splitlines()
            self.outputs[name] = dict(line.split("=", 1) for line in reported)
            self.summaries.append(files["GITHUB_STEP_SUMMARY"].read_text())

    def _is_due(self, condition: str) -> bool:
        known = {
            "success()": not self.has_failed,
            "always()": True,
            "failure() && steps.deploy.outcome == 'failure'": self.outcomes.get("deploy") == "failure",
        }
        return known[condition]

    def _value(self, text: str) -> str:
        def evaluated(found: re.Match[str]) -> str:
            match found[1].split("."):
                case ["secrets", "RELEASE_KEY"]:
                    return str(self.host.key)
                case ["github", "ref_name"]:
                    return "v1"
                case ["steps", step, "outputs", name]:
                    return self.outputs[step][name]
            raise AssertionError(found[0])

        return re.sub(r"\$\{\{ (.+?) \}\}", evaluated, text)


def gitlab_script(job: dict[str, Any]) -> str:
    """Return the job as GitLab's runner runs it: one script, without the installation."""
    lines = [*job.get("before_script", []), *job["script"]]
    return "\n".join(line for line in lines if "pip install" not in line and ".venv" not in line)


def manifest(host: ServiceHost, release_id: str = "v1") -> dict[str, Any]:
    document: dict[str, Any] = json.loads(
        (host.folder / "memory/release-pipeline/manifests" / f"{release_id}.json").read_text()
    )
    return document


def gates(host: ServiceHost) -> dict[str, str]:
    """Return the gates of the JUnit report with their results."""
    suite = ElementTree.parse(host.folder / "reports" / "gates.xml").getroot()[0]
    return {case.attrib["name"]: case[0].tag if len(case) else "passed" for case in suite}


@pytest.mark.parametrize("name", RECIPES)
def test_the_page_shows_each_recipe_unchanged(name: str) -> None:
    """The page has the tested text."""
    text = (DOCS / "recipes" / name).read_text()
    blocks = re.findall(r"^```\w*\n(.*?)^```$", (DOCS / "ci.md").read_text(), flags=re.MULTILINE | re.DOTALL)
    assert text in blocks


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "schema", "key"),
    [
        ("docs/recipes/github.yml", "vendor.github-workflows", "runs-on"),
        ("docs/recipes/gitlab-ci.yml", "vendor.gitlab-ci", "script"),
        (".github/workflows/ci.yml", "vendor.github-workflows", "runs-on"),
        (".github/ISSUE_TEMPLATE/bug.yml", "vendor.github-issue-forms", "attributes"),
        (".github/ISSUE_TEMPLATE/feature.yml", "vendor.github-issue-forms", "attributes"),
        (".github/ISSUE_TEMPLATE/config.yml", "vendor.github-issue-config", "blank_issues_enabled"),
    ],
)
def test_files_for_a_code_host_are_valid_by_its_schema(name: str, schema: str, key: str, tmp_path: Path) -> None:
    """Editors use the same schemas. A file with a misspelt key is refused."""
    text = (DOCS.parent / name).read_text()
    transform = ["--data-transform", "gitlab-ci"] if schema == "vendor.gitlab-ci" else []
    for content, expected in ((text, 0), (re.sub(rf"(?m)^( *){key}:", r"\1misspelt:", text), 1)):
        copy = tmp_path / Path(name).name
        copy.write_text(content)
        command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *transform, str(copy)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == expected, done.stdout + done.stderr


def test_no_recipe_puts_an_expression_into_a_command(recipe: Recipe) -> None:
    """A branch name may contain shell code; in the environment it stays text."""
    for job in recipe("github.yml")["jobs"].values():
        assert not [step for step in job["steps"] if "${{" in step.get("run", "")]


@pytest.mark.slow
def test_the_gates_of_a_pull_request_need_neither_service_nor_key(idle_host: ServiceHost, recipe: Recipe) -> None:
    """This holds on both hosts, and the reports exist."""
    job = GithubJob(idle_host, recipe("github.yml")["jobs"]["gates"])
    job.run()
    assert list(job.outcomes.values()) == ["success"], job.printed
    assert gates(idle_host) == {"build": "system-out", "tests": "system-out", "api-health": "skipped"}
    (idle_host.folder / "reports" / "gates.xml").unlink()
    done = idle_host.run(gitlab_script(recipe("gitlab-ci.yml")["gates"]), CI="true", GITLAB_CI="true")
    assert done.returncode == 0, done
    assert len(gates(idle_host)) == 3


@pytest.mark.slow
def test_github_prepares_deploys_and_watches(host: ServiceHost, recipe: Recipe) -> None:
    """Signed, deployed, healthy, verified; each step whose condition holds has run, and the run has its summaries."""
    job = GithubJob(host, recipe("github.yml")["jobs"]["release"])
    job.run()
    assert job.outcomes == {
        "prepare": "success",
        "deploy": "success",
        "Watch, and roll back at most once if it is degraded": "success",
        "Verify the signed statements": "success",
    }, job.printed
    assert host.was_deployed
    assert manifest(host)["attestation"]["keyId"] is not None
    assert job.outputs["prepare"]["snapshot_id"] == manifest(host)["snapshot"]["snapshotId"]
    assert "release v1&#58; ready" in job.summaries[0]
    assert "::group::gate build: passed" in job.printed
    assert host.key.splitlines()[1] not in job.printed


@pytest.mark.slow
def test_github_rolls_back_when_the_deploy_fails(host: ServiceHost, recipe: Recipe) -> None:
    """The first step has named the snapshot; no watch runs."""
    before = host.identity.read_bytes()
    host.let_deploy_fail()
    job = GithubJob(host, recipe("github.yml")["jobs"]["release"])
    job.run()
    assert job.outcomes == {
        "prepare": "success",
        "deploy": "failure",
        "Roll back, because the deploy failed": "success",
        "Verify the signed statements": "success",
    }, job.printed
    assert host.identity.read_bytes() == before
    assert any("rollback&#58; restored" in summary for summary in job.summaries)


@pytest.mark.slow
def test_github_deploys_nothing_that_is_blocked(host: ServiceHost, recipe: Recipe) -> None:
    """A gate fails, and the job names it."""
    host.variables["INVOKE_RELEASE_GATES_TESTS_COMMAND"] = "echo it broke; exit 3"
    job = GithubJob(host, recipe("github.yml")["jobs"]["release"])
    job.run()
    assert job.outcomes == {"prepare": "failure", "Verify the signed statements": "success"}, job.printed
    assert not host.was_deployed
    assert "::error title=gate tests::exit code 3" in job.printed
    assert gates(host)["tests"] == "failure"


@pytest.mark.slow
@pytest.mark.parametrize("fails", [False, True])
def test_gitlab_prepares_deploys_and_watches_or_rolls_back(host: ServiceHost, recipe: Recipe, fails: bool) -> None:
    """The result of the script is that of the job."""
    before = host.identity.read_bytes()
    if fails:
        host.let_deploy_fail()
    variables = {
        "CI": "true",
        "GITLAB_CI": "true",
        "CI_COMMIT_TAG": "v1",
        "RELEASE_KEY": str(host.folder / "release.key"),
    }
    done = host.run(
        gitlab_script(recipe("gitlab-ci.yml")["release"]), CI_JOB_URL="https://gitlab.example/1", **variables
    )
    assert done.returncode == fails, done
    assert host.was_deployed is not fails
    assert host.identity.read_bytes() == before
    assert "tests" in gates(host)
    statement = host.folder / "memory/release-pipeline/manifests/v1.json.intoto.jsonl"
    assert json.loads(statement.read_text())["signatures"]


@pytest.mark.slow
@pytest.mark.parametrize("fails", [False, True])
def test_make_releases_step_by_step_or_rolls_back(host: ServiceHost, fails: bool) -> None:
    """Real make, with the targets of the recipe."""
    before = host.identity.read_bytes()
    if fails:
        host.let_deploy_fail()
    done = host.run("make --no-print-directory release RELEASE=v1", RELEASE_KEY=host.key)
    assert done.returncode == (2 if fails else 0), done
    assert "READY  v1" in done.stdout
    assert ("HEALTHY" in done.stdout) is not fails
    assert ("RESTORED" in done.stdout) is fails
    assert (host.was_deployed, host.identity.read_bytes()) == (not fails, before)
    host.identity.write_text("broken later")
    assert host.run("make --no-print-directory gates back").returncode == 0
    assert host.identity.read_bytes() == before


@pytest.mark.slow
def test_stages_chain_like_recipes(host: ServiceHost) -> None:
    """One command line: the gates run once, and the deploy is last."""
    log = host.folder / "gates.log"
    host.variables["INVOKE_RELEASE_GATES_BUILD_COMMAND"] = f"echo built >> {log}"
    done = host.run("inv release.preflight release.prepare --release-id v1 deploy", RELEASE_KEY=host.key)
    assert done.returncode == 0, done
    assert (log.read_text(), host.was_deployed) == ("built\n", True)
    host.variables["INVOKE_RELEASE_GATES_TESTS_COMMAND"] = "false"
    (host.folder / "deployed.log").unlink()
    done = host.run("inv release.preflight release.prepare --release-id v2 deploy", RELEASE_KEY=host.key)
    assert (done.returncode, host.was_deployed, manifest(host, "v2")["status"]) == (1, False, "blocked")


@pytest.mark.slow
def test_without_the_key_no_gate_runs(host: ServiceHost) -> None:
    """An operator who types the chain gets the message before the gates run."""
    done = host.run("make --no-print-directory release RELEASE=v1")
    assert done.returncode == 2
    assert "the variable RELEASE_KEY, which is not set" in done.stderr
    assert "gate build" not in done.stderr and not host.was_deployed
