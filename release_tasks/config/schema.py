"""All configuration keys, as attrs classes; docs/configuration.md is generated from them.

``Path`` fields are absolute: ``load`` joins relative paths to the project folder.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import Attribute, Factory, evolve, frozen

from release_tasks.assets.base import AssetConfig
from release_tasks.config.endpoint import (
    ExpectConfig,
    Question,
    RequestConfig,
    require_readable,
    valid_url,
    variables_in,
)
from release_tasks.config.gateway import GatewayConfig
from release_tasks.core.ids import is_valid_id
from release_tasks.core.options import Duration, Kind, Share, Size, Switch, did_you_mean, exactly_one, option

__all__ = [
    "NOTIFICATION_EVENTS",
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
    "StorageConfig",
    "VersionConfig",
    "WatchConfig",
]

NOTIFICATION_EVENTS = ("prepared", "blocked", "restored", "failed", "degraded")


def _valid_keys(_: Any, attribute: Attribute[Any], value: dict[str, Any]) -> None:
    for name in value:
        if not is_valid_id(name):
            raise ValueError(f"{name!r} is not a valid name in {attribute.name}")


def _valid_port_url(_: Any, attribute: Attribute[Any], value: str) -> None:
    # Without the placeholder, the drill would send its requests to the live service.
    if "{port}" not in value:
        raise ValueError(f"{attribute.name}: expected an http:// URL that contains {{port}}, got {value!r}")
    valid_url(_, attribute, value.replace("{port}", "1"))


def _positive_duration(_: Any, attribute: Attribute[Any], value: float) -> None:
    if value <= 0:
        raise ValueError(f"{attribute.name}: expected a duration above 0")


def _known_events(_: Any, attribute: Attribute[Any], value: list[str]) -> None:
    expected = f"{attribute.name}: expected one or more of {', '.join(NOTIFICATION_EVENTS)}"
    for event in value:
        if event not in NOTIFICATION_EVENTS:
            raise ValueError(f"{expected}; got {event!r}{did_you_mean(event, NOTIFICATION_EVENTS)}")
    if not value:
        raise ValueError(f"{expected}; got an empty list")


@frozen(kw_only=True)
class VersionConfig:
    """The source of the application's version; set exactly one."""

    file: Path | None = option("a JSON file that contains the version at `key`")
    key: str | None = option("the key in `file`; dots separate nested keys")
    command: str | None = option("a shell command; the first line of its output is the version")
    distribution: str | None = option("an installed Python distribution")
    text: str | None = option("the version; the same as a string in place of this section")

    def __attrs_post_init__(self) -> None:
        exactly_one(self, ("file", "command", "distribution", "text"))
        if (self.file is None) != (self.key is None):
            raise ValueError("expected file and key together")


@frozen(kw_only=True)
class AppConfig:
    """The released application."""

    name: str = option("the name in output and records: one printable line", "app")
    version: VersionConfig | None = option(
        "the source of the version, which must be one printable line of at most 200 characters for a release"
    )


@frozen(kw_only=True)
class HealthConfig(RequestConfig):
    """The health endpoint, checked before a release and after a restore."""

    url: str | None = option(
        "the endpoint, also `http+unix://%2Frun%2Fapp.sock/health`; without a URL, health is not checked",
        validator=valid_url,
    )
    expect: ExpectConfig | None = option(
        "the expected answer; every other answer is `failed`. Without it, the known forms of health answers are read; "
        "see `release.health.expect`"
    )
    timeout: Duration = option("limit for one request", 5.0)
    deadline: Duration = option("the service must be healthy within this time", 60.0)
    interval: Duration = option("pause between two requests", 1.0)
    passes: int = option("required consecutive healthy responses in preflight", 1, least=1)
    passes_after_restore: int = option("required consecutive healthy responses after a restore", 3, least=1)
    strict: bool = option("a degraded service fails the health gate", False)
    also: list[str] = option(
        "http gates with a URL that are asked together with `url` by a watch, a diagnosis, a rollback and a drill: the "
        "service is healthy only if they pass too. Without `url`, they are asked alone; without both, every http gate "
        "with a URL is asked",
        Factory(list),
    )

    def __attrs_post_init__(self) -> None:
        require_readable(self.method, self.expect, is_body_read=True)

    @property
    def question(self) -> Question | None:
        """What is asked at ``url``; None without a URL."""
        return Question(url=self.url, request=self, expect=self.expect) if self.url else None


@frozen(kw_only=True)
class LimitsConfig:
    """Limits of the reliability counts; above a limit the status is `pressure`."""

    queued: int = option("queued messages", 25)
    failed: int = option("failed messages", 10)
    dead_letters: int = option("dead letters: messages without further attempts", 0)
    rejected_callbacks: int = option("rejected callbacks", 3)


@frozen(kw_only=True)
class ReliabilityConfig(RequestConfig):
    """The endpoint that reports queues and callbacks."""

    url: str | None = option("the endpoint; without a URL, reliability is not checked", validator=valid_url)
    hmac_secret_env: str | None = option(
        "the environment variable with the secret that signs requests; while the variable is not set, requests are not "
        "signed"
    )
    bearer_token_env: str | None = option(
        "the environment variable with the bearer token; while the variable is not set, requests carry no token"
    )
    timeout: Duration = option("limit for one request", 5.0)
    limits: LimitsConfig = option("see `release.reliability.limits`", Factory(LimitsConfig))

    def __attrs_post_init__(self) -> None:
        require_readable(self.method, None, is_body_read=True)


@frozen(kw_only=True)
class GateConfig:
    """A named check; exactly one kind."""

    kind: Kind
    options: Any  # an instance of ``kind.options``
    subsystem: str | None = option("the subsystem that the gate checks; default: the name of the gate")
    timeout: Duration | None = option(
        "the time limit of the gate; default: 10m for a command, `release.health.deadline` for `http: health`, "
        "otherwise `release.health.timeout`"
    )
    needs: list[str] = option("gates that must pass before this gate starts", Factory(list))
    env: dict[str, str] = option("additional environment variables of a command", Factory(dict))
    advisory: bool = option("a failure is shown and recorded but does not block", False)

    def question(self, name: str) -> Question | None:
        """Return what this gate, called ``name``, asks the service; None for a gate without a URL of its own."""
        ask: Callable[[str], Question | None] | None = getattr(self.options, "question", None)
        question = ask(name) if ask is not None else None
        return question and evolve(question, timeout=self.timeout)


@frozen(kw_only=True)
class RestartConfig:
    """The stop of the service before a restore, and its restart afterwards."""

    stop: str | None = option(
        "a shell command that ends the service before the safety copy and the swap, for a service that holds state in "
        "memory and writes it at its exit or later; its failure is said and does not end the rollback"
    )
    stop_timeout: Duration = option(
        "limit for the stop command; then its processes are ended", 30.0, validator=_positive_duration
    )
    command: str | None = option("a shell command; it may keep running")
    settle: Duration = option(
        "how long to wait for an early exit of the command; after its end with exit code 0, healthy answers count from "
        "this time on",
        2.0,
    )


@frozen(kw_only=True)
class WatchConfig:
    """The watch after a release."""

    for_: Duration = option("the duration of the watch", 600.0, validator=_positive_duration)
    interval: Duration = option("the time between two samples", 10.0, validator=_positive_duration)
    failures: int = option("the number of bad samples in a row that makes the release `degraded`", 3, least=1)
    error_rate: Share = option(
        "the release is `degraded` when more than this share of the conclusive samples in `window` is bad, and at "
        "least `failures` of them",
        0.3,
    )
    window: int = option("the error rate is computed from this number of latest samples", 30, least=1)
    min_samples: int = option(
        "the number of conclusive samples that an error rate and the verdict `healthy` require", 5, least=1
    )
    latency_factor: int = option(
        "a sample is bad when the health response takes this many times the duration at prepare time", 5, least=1
    )
    latency_floor: Duration = option("a health response within this time is never too slow", 0.5)
    rollback: bool = option("when `degraded`, roll back once", False)

    def __attrs_post_init__(self) -> None:
        if self.window < self.min_samples:
            raise ValueError(f"window: expected at least min_samples ({self.min_samples}), got {self.window}")


@frozen(kw_only=True)
class DrillConfig:
    """The start of the service on restored state by `release.drill --boot`."""

    command: str | None = option(
        "a shell command that starts the service with the paths and the port in the `RELEASE_TASKS_DRILL_...` "
        "variables; it must have no external effects. Without a command, the drill starts the embedded gateway"
    )
    health: str = option(
        "the health endpoint of the started service", "http://127.0.0.1:{port}/health", validator=_valid_port_url
    )
    timeout: Duration = option("the service must be healthy within this time", 60.0, validator=_positive_duration)


@frozen(kw_only=True)
class NotificationConfig:
    """A notification about the result of a stage; exactly one of command, webhook, webhook_env."""

    command: str | None = option("a shell command that gets the notification as JSON on standard input")
    webhook: str | None = option("a URL that gets the notification as JSON in a POST request", validator=valid_url)
    webhook_env: str | None = option("the environment variable with the webhook URL, if the URL is secret")
    hmac_secret_env: str | None = option(
        "the environment variable with the secret that signs the request. With this key and an unset variable, nothing "
        "is sent; without this key, the request is not signed"
    )
    when: list[str] = option(
        "one or more of `prepared`, `blocked`, `restored`, `failed`, `degraded`; default: all",
        Factory(lambda: list(NOTIFICATION_EVENTS)),
        validator=_known_events,
    )
    timeout: Duration = option("limit for one attempt", 10.0, validator=_positive_duration)
    retries: int = option("further attempts after a failure; all attempts end after 2m", 2)

    def __attrs_post_init__(self) -> None:
        exactly_one(self, ("command", "webhook", "webhook_env"))
        if self.hmac_secret_env is not None and self.command is not None:
            raise ValueError("hmac_secret_env: allowed only with webhook or webhook_env")


@frozen(kw_only=True)
class AttestationConfig:
    """The attestation statement next to each manifest."""

    key_env: str | None = option(
        "the environment variable with a private Ed25519 key in PEM, or with the path of the key file. Without this "
        "key, statements are not signed. With this key and an unset variable, `release.prepare` ends with 2"
    )
    public_keys: list[Path] = option(
        "PEM files with additional public keys that `release.verify` and a rollback accept", Factory(list)
    )


@frozen(kw_only=True)
class StorageConfig:
    """How snapshots store databases."""

    deltas: Switch = option(
        "`auto`: a snapshot of a large database stores the pages that differ from an earlier copy of it, where the "
        "extra `fast` is installed. `off`: every snapshot stores the whole database. Snapshots that exist stay as they "
        "are",
        Switch("auto"),
    )
    deltas_above: Size = option("smaller databases are always stored whole", Size(64 << 20))
    restore_by_page: bool = option(
        "preview: a rollback writes only the pages of a database that differ, where the extra `fast` is installed, and "
        "its safety copy has every commit up to then. Not all faults of disks are proved for it yet",
        False,
    )


@frozen(kw_only=True)
class ReleaseConfig:
    """The release pipeline."""

    root: Path = option(
        "the folder of manifests, snapshots, logs and the audit log; an asset must not contain it, also not by a link",
        "memory/release-pipeline",
    )
    app: AppConfig = option("the application", Factory(AppConfig))
    version_timeout: Duration = option("limit for the command that prints the version, and for each call of git", 10.0)
    health: HealthConfig = option("the health endpoint", Factory(HealthConfig))
    reliability: ReliabilityConfig = option("the reliability endpoint", Factory(ReliabilityConfig))
    gates: dict[str, GateConfig] = option("gates by name", Factory(dict), validator=_valid_keys)
    assets: dict[str, AssetConfig] = option("assets by name", Factory(dict), validator=_valid_keys)
    retention: int = option(
        "how many release snapshots are retained, and as many different safety snapshots",
        5,
        least=1,
    )
    lock_wait: Duration = option(
        "how long a capture or a restore waits for the lock of another process on a database; a restore waits before "
        "it changes anything",
        30.0,
    )
    storage: StorageConfig = option("how snapshots store databases", Factory(StorageConfig))
    restart: RestartConfig = option("the restart after a restore", Factory(RestartConfig))
    drill: DrillConfig = option("the rehearsal of a rollback", Factory(DrillConfig))
    watch: WatchConfig = option("the watch after a release", Factory(WatchConfig))
    attestation: AttestationConfig = option("the signature of statements", Factory(AttestationConfig))
    notices: dict[str, NotificationConfig] = option("notifications by name", Factory(dict), validator=_valid_keys)

    def __attrs_post_init__(self) -> None:
        above = self.storage.deltas_above if self.storage.deltas == "auto" else None
        assets = {
            key: evolve(
                asset,
                lock_wait=self.lock_wait,
                deltas_above=above,
                restores_by_page=self.storage.restore_by_page,
            )
            for key, asset in self.assets.items()
        }
        object.__setattr__(self, "assets", assets)  # as attrs does it in a frozen class

    @property
    def questions(self) -> list[Question]:
        """What is asked for the health of the service, the most important first; empty when nothing can be asked.

        The health endpoint and the gates of ``health.also``; without them, every http gate with a URL that blocks.
        """
        asked = [self.health.question] if self.health.question is not None else []
        names = self.health.also
        if not asked and not names:
            names = [name for name, gate in self.gates.items() if not gate.advisory]
        found = (self.gates[name].question(name) for name in dict.fromkeys(names) if name in self.gates)
        return asked + [question for question in found if question is not None]

    @property
    def is_watchable(self) -> bool:
        """Whether a watch has an endpoint to ask."""
        return bool(self.questions) or self.reliability.url is not None

    @property
    def secret_variables(self) -> list[str]:
        """The configured environment variables that contain secrets."""
        names = [self.reliability.hmac_secret_env, self.reliability.bearer_token_env, self.attestation.key_env]
        requests = [self.health, self.reliability, *(gate.options for gate in self.gates.values())]
        for request in requests:
            names += variables_in(request.headers) if isinstance(request, RequestConfig) else []
        for notification in self.notices.values():
            names += [notification.hmac_secret_env, notification.webhook_env]
        return [name for name in names if name]


@frozen(kw_only=True)
class PairingConfig:
    """The approval of direct-message senders by pairing codes."""

    credentials: Path = option("the folder of the pairing stores and the pairing audit log", "memory/credentials")
    ttl: Duration = option("the lifetime of a pairing request", 3600.0, validator=_positive_duration)
    max_pending: int = option("the maximum number of pending requests in a channel; 0 disables new requests", 3)


SECTIONS: dict[str, type[Any]] = {"release": ReleaseConfig, "pairing": PairingConfig, "gateway": GatewayConfig}


@frozen(kw_only=True)
class Kinds:
    """The available kinds, in the order in which messages list them."""

    assets: tuple[Kind, ...] = ()
    gates: tuple[Kind, ...] = ()

    def of(self, cls: type[Any]) -> tuple[Kind, ...]:
        """Return the kinds of ``cls``: GateConfig or AssetConfig."""
        return self.gates if cls is GateConfig else self.assets


@frozen(kw_only=True)
class Settings:
    """The configuration of one run. ``project`` is the folder where relative paths start, ``sources`` are its files."""

    project: Path
    kinds: Kinds
    release: ReleaseConfig
    pairing: PairingConfig
    gateway: GatewayConfig
    sources: tuple[Path, ...] = ()
