"""The gateway and its description in docs/gateway-openapi.yaml agree."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from starlette.routing import Route

from release_tasks.gateway.paths import GatewayPaths
from release_tasks.gateway.service import create_app
from tests.support.gateway import RunningGateway

REPOSITORY = Path(__file__).parents[2]
DESCRIPTION = REPOSITORY / "docs" / "gateway-openapi.yaml"
SECRETS = {
    "API_SECRET": "s3cret",
    "TELEGRAM_WEBHOOK_SECRET": "a-telegram-secret",
    "WHATSAPP_APP_SECRET": "an app secret",
    "WHATSAPP_VERIFY_TOKEN": "a-verify-token",
}
# The webhooks answer 200 to a message that is not for the gateway, also in a form that the description does not have.
CONFIGURATION = """
[parameters]
"hub.verify_token" = "a-verify-token"

[[operations]]
include-path-regex = "^/webhooks/"
checks.negative_data_rejection.enabled = false
"""
# A valid signature of invalid credentials gets 403, not 401. Valid data may be refused: a reserved channel, two keys.
EXCLUDED = "ignored_auth,positive_data_acceptance"
EXAMPLES = os.environ.get("RELEASE_TASKS_OPENAPI_EXAMPLES", "8")


def test_every_endpoint_is_described(tmp_path: Path) -> None:
    """Paths and methods are the same."""
    described: dict[str, Any] = YAML(typ="safe").load(DESCRIPTION)["paths"]
    routes = [route for route in create_app(GatewayPaths(tmp_path)).routes if isinstance(route, Route)]
    assert {route.path: set(route.methods or ()) - {"HEAD"} for route in routes} == {
        path: {method.upper() for method in methods} for path, methods in described.items()
    }


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_generated_requests_get_documented_responses_only(
    start_shared: Callable[..., RunningGateway], tmp_path: Path
) -> None:
    """No 5xx, no undocumented status, content type, form or method. RELEASE_TASKS_OPENAPI_EXAMPLES tries more."""
    gateway = start_shared(SECRETS)
    configuration = tmp_path / "schemathesis.toml"
    configuration.write_text(CONFIGURATION)
    command = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"]
    command += ["--config-file", str(configuration), "run", str(DESCRIPTION), "--url", gateway.url, "--seed", "1"]
    command += ["--exclude-checks", EXCLUDED, "--max-examples", EXAMPLES, "--continue-on-failure"]
    environment = {
        "SCHEMATHESIS_HOOKS": "tests.support.signed_requests",
        "PYTHONPATH": str(REPOSITORY),
        "NO_COLOR": "1",
    }
    result = subprocess.run(
        command, env={**os.environ, **SECRETS, **environment}, cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Tested: 12" in result.stdout, result.stdout
    assert gateway.health()["status"] == "ok"
    assert "Traceback" not in gateway.home.log_file.read_text()
