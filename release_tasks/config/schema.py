"""The one list of configuration keys, as attrs classes; docs/configuration.md is generated from it.

``Path`` fields arrive absolute: ``load`` has already joined them to the project root.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attrs import Attribute, Factory, frozen

from release_tasks.assets.base import AssetConfig
from release_tasks.config.gateway import GatewayConfig
from release_tasks.core.ids import is_valid_id
from release_tasks.core.options import Duration, Kind, Share, did_you_mean, exactly_one, option

__all__ = [
    "OCCASIONS",
    "SECTIONS",
    "AppConfig",
    "AttestationConfig",
    "DrillConfig",
    "GateConfig",
    "HealthConfig",
    "Kinds",
    "LimitsConfig",
    "NotificationConfig",
    "PairingConfig",
    "ReleaseConfig",
    "ReliabilityConfig",
    "RestartConfig",
    "Settings",
    "VersionConfig",
    "WatchConfig",
]

OCCASIONS = ("prepared", "blocked", "restored", "failed", "degraded")


def _valid_keys(_: Any, attribute: Attribute[Any], value: dict[str, Any]) -> None:
    for name in value:
        if not is_valid_id(name):
            raise ValueError(f"{name!r} is not a valid name for one of {attribute.name}")


def _valid_url(_: Any, attribute: Attribute[Any], value: str | None) -> None:
    if value is not None and not value.startswith(("http://", "https://")):
        raise ValueError(f"{attribute.name}: expected an http:// or https:// URL, got {value!r}")


def _valid_port_url(_: Any, attribute: Attribute[Any], value: str) -> None:
    # Without the port in it, the live service would be asked.
    if not value.startswith(("http://", "https://")) or "{port}" not in value:
        raise ValueError(f"{attribute.name}: expected an http:// URL with {{port}} in it, got {value!r}")


def _positive_duration(_: Any, attribute: Attribute[Any], value: float) -> None:
    if value <= 0:
        raise ValueError(f"{attribute.name}: expected a duration above 0")


def _known_occasions(_: Any, attribute: Attribute[Any], value: list[str]) -> None:
    for occasion in value:
        if occasion not in OCCASIONS:
            hint = did_you_mean(occasion, OCCASIONS)
            raise ValueError(f"{attribute.name}: expected some of {', '.join(OCCASIONS)}; got {occasion!r}{hint}")
    if not value:
        raise ValueError(f"{attribute.name}: expected at least one of {', '.join(OCCASIONS)}")


@frozen(kw_only=True)
class VersionConfig:
    """Where the version of the application is read; exactly one way."""

    file: Path | None = option("a JSON file, read at `key`")
    key: str | None = option("the key in `file`, dots go deeper")
    command: str | None = option("a command whose first line of output is the version")
    distribution: str | None = option("an installed Python distribution")
    text: str | None = option("the version itself; the same as writing a plain string")

    def __attrs_post_init__(self) -> None:
        exactly_one(self, ("file", "command", "distribution", "text"))
        if (self.file is None) != (self.key is None):
            raise ValueError("expected file and key together")


@frozen(kw_only=True)
class AppConfig:
    """The application that is released."""

    name: str = option("its name, shown and recorded", "app")
    version: VersionConfig | None = option("where its version is read")


@frozen(kw_only=True)
class HealthConfig:
    """The health endpoint that gates a release and judges a restore."""

    url: str | None = option("the endpoint; without one nothing is asked", validator=_valid_url)
    timeout: Duration = option("one request", 5.0)
    deadline: Duration = option("by then it must be healthy", 60.0)
    interval: Duration = option("between two requests", 1.0)
    passes: int = option("consecutive healthy answers, in preflight", 1, least=1)
    passes_after_restore: int = option("consecutive healthy answers, after a restore", 3, least=1)
    strict: bool = option("a degraded service fails its health gate", False)


@frozen(kw_only=True)
class LimitsConfig:
    """Above these the service counts as under pressure."""

    queued: int = option("messages waiting", 25)
    failed: int = option("messages failed", 10)
    dead_letters: int = option("messages given up", 0)
    rejected_callbacks: int = option("callbacks refused", 3)


@frozen(kw_only=True)
class ReliabilityConfig:
    """The endpoint that reports queues and callbacks."""

    url: str | None = option("the endpoint; without one nothing is asked", validator=_valid_url)
    hmac_secret_env: str | None = option(
        "the environment variable that holds the secret which signs requests, if it is set"
    )
    bearer_token_env: str | None = option("the environment variable that holds the bearer token, if it is set")
    timeout: Duration = option("one request", 5.0)
    limits: LimitsConfig = option("see `release.reliability.limits`", Factory(LimitsConfig))


@frozen(kw_only=True)
class GateConfig:
    """A named check; exactly one kind."""

    kind: Kind
    options: Any  # of the class ``kind.options``
    subsystem: str | None = option("what the gate speaks for; its own name when left out")
    timeout: Duration | None = option("command: 10m, everything else: the health timeout, when left out")
    needs: list[str] = option("gates that must have passed before this one starts", Factory(list))
    env: dict[str, str] = option("additional environment of a command", Factory(dict))
    advisory: bool = option("a failure is shown and recorded, and does not block", False)


@frozen(kw_only=True)
class RestartConfig:
    """How the service is restarted after a restore."""

    command: str | None = option("a shell command; it may run for ever")
    settle: Duration = option("how long an early exit of it is watched for", 2.0)


@frozen(kw_only=True)
class WatchConfig:
    """The watch after a release."""

    for_: Duration = option("how long", 600.0, validator=_positive_duration)
    interval: Duration = option("from one look to the next", 10.0, validator=_positive_duration)
    failures: int = option("this many bad looks in a row are `degraded`", 3, least=1)
    error_rate: Share = option("more bad looks than this share of `window` are `degraded`, if at least `failures`", 0.3)
    window: int = option("how many of the newest looks the error rate is taken over", 30, least=1)
    min_samples: int = option("fewer looks that say something have no error rate and are never `healthy`", 5, least=1)
    latency_factor: int = option(
        "a look is bad when health takes this many times as long as at prepare time", 5, least=1
    )
    latency_floor: Duration = option("a look that takes no longer is never bad for its latency", 0.5)
    rollback: bool = option("when `degraded`, roll back once", False)

    def __attrs_post_init__(self) -> None:
        if self.window < self.min_samples:
            raise ValueError(f"window: expected at least min_samples ({self.min_samples}), got {self.window}")


@frozen(kw_only=True)
class DrillConfig:
    """How `release.drill --boot` starts the service on restored state."""

    command: str | None = option(
        "a shell command that starts the service on what the `RELEASE_TASKS_DRILL_...` variables name, and that must "
        "act on nothing outside; without one the embedded gateway is started"
    )
    health: str = option("where it answers then", "http://127.0.0.1:{port}/health", validator=_valid_port_url)
    timeout: Duration = option("by then it must be healthy", 60.0, validator=_positive_duration)


@frozen(kw_only=True)
class NotificationConfig:
    """Who is told how a stage ended; exactly one of command, webhook, webhook_env."""

    command: str | None = option("a shell command that gets the notice as JSON on its standard input")
    webhook: str | None = option("a URL that the notice is POSTed to as JSON", validator=_valid_url)
    webhook_env: str | None = option("the environment variable that holds such a URL, where the URL is a secret")
    hmac_secret_env: str | None = option(
        "the environment variable that holds the secret which signs what is POSTed; unset: nothing is sent"
    )
    when: list[str] = option(
        "some of `prepared`, `blocked`, `restored`, `failed`, `degraded`; all of them when left out",
        Factory(lambda: list(OCCASIONS)),
        validator=_known_occasions,
    )
    timeout: Duration = option("one attempt", 10.0, validator=_positive_duration)
    retries: int = option("how often it is tried again; whatever is set, all is given up after 2m", 2)

    def __attrs_post_init__(self) -> None:
        exactly_one(self, ("command", "webhook", "webhook_env"))
        if self.hmac_secret_env is not None and self.command is not None:
            raise ValueError("hmac_secret_env: goes with webhook or webhook_env only")


@frozen(kw_only=True)
class AttestationConfig:
    """The statement that lies beside each manifest."""

    key_env: str | None = option(
        "the environment variable that holds a private Ed25519 key in PEM, or the path of one; it signs, when given"
    )
    public_keys: list[Path] = option(
        "files in PEM: the keys that `release.verify` believes, beside its own", Factory(list)
    )


@frozen(kw_only=True)
class ReleaseConfig:
    """Everything under `release:`."""

    root: Path = option("where manifests, snapshots, logs and the audit log live", "memory/release-pipeline")
    app: AppConfig = option("the application", Factory(AppConfig))
    health: HealthConfig = option("the health endpoint", Factory(HealthConfig))
    reliability: ReliabilityConfig = option("the reliability endpoint", Factory(ReliabilityConfig))
    gates: dict[str, GateConfig] = option("name: gate", Factory(dict), validator=_valid_keys)
    assets: dict[str, AssetConfig] = option("name: asset", Factory(dict), validator=_valid_keys)
    retention: int = option("how many release snapshots are kept", 5, least=1)
    restart: RestartConfig = option("the restart hook", Factory(RestartConfig))
    drill: DrillConfig = option("the rehearsal of a rollback", Factory(DrillConfig))
    watch: WatchConfig = option("the watch", Factory(WatchConfig))
    attestation: AttestationConfig = option("how statements are signed", Factory(AttestationConfig))
    notices: dict[str, NotificationConfig] = option("name: notice", Factory(dict), validator=_valid_keys)

    @property
    def secret_variables(self) -> list[str]:
        """The environment variables that hold secrets, whatever they are called."""
        asked = self.reliability
        named = [asked.hmac_secret_env, asked.bearer_token_env, self.attestation.key_env]
        named += [name for notice in self.notices.values() for name in (notice.hmac_secret_env, notice.webhook_env)]
        return [name for name in named if name]


@frozen(kw_only=True)
class PairingConfig:
    """Everything under `pairing:`."""

    credentials: Path = option("the folder of the pairing stores and of their audit log", "memory/credentials")
    ttl: Duration = option("how long a request waits for approval", 3600.0, validator=_positive_duration)
    max_pending: int = option("how many requests of a channel may wait at once; 0 lets nobody ask", 3)


SECTIONS: dict[str, type[Any]] = {"release": ReleaseConfig, "pairing": PairingConfig, "gateway": GatewayConfig}


@frozen(kw_only=True)
class Kinds:
    """The kinds that invoke.yaml may name, in the order in which messages list them."""

    assets: tuple[Kind, ...] = ()
    gates: tuple[Kind, ...] = ()

    def of(self, cls: type[Any]) -> tuple[Kind, ...]:
        """Return the kinds of GateConfig or of AssetConfig."""
        return self.gates if cls is GateConfig else self.assets


@frozen(kw_only=True)
class Settings:
    """The whole configuration of one run. ``project`` is the folder that relative paths start from."""

    project: Path
    kinds: Kinds
    release: ReleaseConfig
    pairing: PairingConfig
    gateway: GatewayConfig
