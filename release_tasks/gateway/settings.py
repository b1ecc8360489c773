"""Readers of gateway.json, the identity folder, the latest manifest and the secrets in the environment."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from attrs import field, frozen

from release_tasks.config.gateway import API_SECRET, TELEGRAM_SECRET, WHATSAPP_SECRET, WHATSAPP_VERIFY_TOKEN
from release_tasks.core.regular import read_regular
from release_tasks.gateway.errors import SettingsError

__all__ = ["GatewaySettings", "Secrets", "last_release", "read_identity", "read_json_object", "read_settings"]

_MAX_BYTES = 1024 * 1024


@frozen
class GatewaySettings:
    """gateway.json; durations in seconds."""

    name: str = "gateway"
    version: str = "unknown"
    poll: float = 1.0
    max_attempts: int = 5
    backoff: float = 1.0
    delivery_url: str | None = None
    delivery_timeout: float = 5.0
    telegram_api: str = "https://api.telegram.org"
    whatsapp_api: str = "https://graph.facebook.com/v23.0"
    whatsapp_phone_number_id: str | None = None
    slow: float = 0.0
    is_flapping: bool = False


def _secret(variable: str) -> Any:
    return field(factory=lambda: os.environ.get(variable) or None, repr=False)


@frozen
class Secrets:
    """The secrets for checking incoming requests; None if the environment variable is empty or not set."""

    api: str | None = _secret(API_SECRET)
    telegram: str | None = _secret(TELEGRAM_SECRET)
    whatsapp: str | None = _secret(WHATSAPP_SECRET)
    whatsapp_verify: str | None = _secret(WHATSAPP_VERIFY_TOKEN)

    def webhooks(self) -> dict[str, str]:
        """Return for each channel ``open``, or ``closed`` without a secret for its webhook."""
        secrets = {"telegram": self.telegram, "whatsapp": self.whatsapp}
        return {channel: "closed" if secret is None else "open" for channel, secret in secrets.items()}


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in ``path``; raises SettingsError."""
    try:
        data = read_regular(path, _MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise SettingsError(f"{path.name} is larger than 1 MiB")
        value = json.loads(data)
    except FileNotFoundError as error:
        raise SettingsError(f"{path.name} is missing", is_missing=True) from error
    except OSError as error:
        raise SettingsError(f"{path.name} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{path.name} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise SettingsError(f"{path.name} must contain a JSON object, not {type(value).__name__}")
    return value


def read_identity(folder: Path) -> dict[str, str]:
    """Return the ``id`` and ``name`` of this gateway; raises SettingsError with the missing or invalid part."""
    if not folder.is_dir():
        raise SettingsError(f"the folder {folder.name}/ is missing", is_missing=True)
    value = read_json_object(folder / "identity.json")
    if not (folder / "soul.md").is_file():
        raise SettingsError("soul.md is missing", is_missing=True)
    for key in ("id", "name"):
        if not isinstance(value.get(key), str) or not value[key]:
            raise SettingsError(f"identity.json: {key} must be a non-empty string")
    return {"id": value["id"], "name": value["name"]}


def read_settings(path: Path) -> GatewaySettings:
    """Read gateway.json, with a default for every missing key; raises SettingsError."""
    value = read_json_object(path)
    dispatcher = _section(path, value, "dispatcher")
    delivery = _section(path, value, "delivery")
    faults = _section(path, value, "faults")  # see ``breaking``
    default = GatewaySettings()
    telegram, whatsapp = _section(path, delivery, "telegram"), _section(path, delivery, "whatsapp")
    attempts = _number(path, dispatcher, "dispatcher.maxAttempts", default.max_attempts)
    if attempts < 1 or attempts != int(attempts):
        raise SettingsError(f"{path.name}: dispatcher.maxAttempts must be an integer of at least 1")
    return GatewaySettings(
        name=_text(path, value, "name", default.name),
        version=_text(path, value, "version", default.version),
        # With a longer pause, the worker would appear to hang.
        poll=min(max(_number(path, dispatcher, "dispatcher.pollSeconds", default.poll), 0.05), 5.0),
        max_attempts=int(attempts),
        backoff=_number(path, dispatcher, "dispatcher.backoffSeconds", default.backoff),
        delivery_url=_url(path, delivery, "delivery.url", None),
        delivery_timeout=min(
            max(_number(path, delivery, "delivery.timeoutSeconds", default.delivery_timeout), 0.1), 10.0
        ),
        telegram_api=_url(path, telegram, "delivery.telegram.api", default.telegram_api) or default.telegram_api,
        whatsapp_api=_url(path, whatsapp, "delivery.whatsapp.api", default.whatsapp_api) or default.whatsapp_api,
        whatsapp_phone_number_id=_text(path, whatsapp, "delivery.whatsapp.phoneNumberId", "") or None,
        slow=min(_number(path, faults, "faults.slowSeconds", 0.0), 60.0),
        is_flapping=faults.get("isFlapping") is True,
    )


def last_release(release_root: Path | None) -> dict[str, Any] | None:
    """Return some fields of ``manifests/latest.json``, or None without a manifest; raises SettingsError."""
    if release_root is None:
        return None
    try:
        manifest = read_json_object(release_root / "manifests" / "latest.json")
    except SettingsError as error:
        if error.is_missing:
            return None
        raise
    snapshot, preflight = manifest.get("snapshot"), manifest.get("preflight")
    return {
        "releaseId": manifest.get("releaseId"),
        "status": manifest.get("status"),
        "generatedAt": manifest.get("generatedAt"),
        "appVersion": manifest.get("appVersion"),
        "gitCommit": manifest.get("gitCommit"),
        "snapshotId": snapshot.get("snapshotId") if isinstance(snapshot, dict) else None,
        "failedChecks": preflight.get("failedChecks", []) if isinstance(preflight, dict) else [],
    }


def _section(path: Path, value: dict[str, Any], key: str) -> dict[str, Any]:
    section = value.get(key, {})
    if not isinstance(section, dict):
        raise SettingsError(f"{path.name}: {key} must be an object")
    return section


def _text(path: Path, section: dict[str, Any], dotted: str, default: str) -> str:
    text = section.get(dotted.rpartition(".")[2], default)
    if not isinstance(text, str):
        raise SettingsError(f"{path.name}: {dotted} must be a string")
    return text


def _url(path: Path, section: dict[str, Any], dotted: str, default: str | None) -> str | None:
    url = section.get(dotted.rpartition(".")[2], default)
    if url is not None and not (isinstance(url, str) and url.startswith(("http://", "https://"))):
        raise SettingsError(f"{path.name}: {dotted} must be an http(s) URL or null")
    return url


def _number(path: Path, section: dict[str, Any], dotted: str, default: float) -> float:
    number = section.get(dotted.rpartition(".")[2], default)
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 <= number < 1e9:
        raise SettingsError(f"{path.name}: {dotted} must be a number of at least 0")
    return float(number)
