"""Health endpoints of services in the field, with the documentation or source that their answers are taken from.

What an answer means is what its documentation says. ``expect`` is what an operator sets where the answer alone cannot
tell; without it, every answer must be read as listed.
"""

from __future__ import annotations

import json
from typing import Any

from attrs import frozen

from release_tasks.core.records import HealthWord

__all__ = ["SERVICES", "Answer", "Service", "services_table"]


@frozen
class Answer:
    """An answer and its meaning: a body of bytes or text is sent as it is, every other value as JSON."""

    meaning: HealthWord
    body: Any
    status: int = 200

    @property
    def content(self) -> bytes:
        """The bytes of the body."""
        if isinstance(self.body, bytes):
            return self.body
        return self.body.encode() if isinstance(self.body, str) else json.dumps(self.body).encode()

    @property
    def content_type(self) -> str:
        """The content type that fits the body."""
        return "text/plain" if isinstance(self.body, str | bytes) else "application/json"


@frozen(kw_only=True)
class Service:
    """A health endpoint; ``path`` is what its documentation requests, ``expect`` as in ``release.health.expect``."""

    name: str
    path: str
    source: str
    answers: tuple[Answer, ...]
    expect: dict[str, Any] | None = None


def ok(body: Any, status: int = 200) -> Answer:
    """Return a healthy answer."""
    return Answer("ok", body, status)


def degraded(body: Any, status: int = 200) -> Answer:
    """Return an answer of a service that works in part."""
    return Answer("degraded", body, status)


def failed(body: Any, status: int = 503) -> Answer:
    """Return an answer of a service that does not work."""
    return Answer("failed", body, status)


def unknown(body: Any, status: int = 200) -> Answer:
    """Return an answer that says neither: the service starts, or is in maintenance."""
    return Answer("unknown", body, status)


def service(name: str, path: str, source: str, *answers: Answer, expect: dict[str, Any] | None = None) -> Service:
    """Return a service of the table."""
    return Service(name=name, path=path, source=source, answers=answers, expect=expect)


_SPRING = {
    "status": "UP",
    "components": {
        "broker": {"components": {"us1": {"details": {"version": "1.0.2"}, "status": "UP"}}, "status": "UP"},
        "db": {"details": {"database": "H2", "validationQuery": "isValid()"}, "status": "UP"},
        "diskSpace": {"details": {"total": 76887154688, "free": 46753374208, "exists": True}, "status": "UP"},
    },
}
_VAULT = {"initialized": True, "sealed": False, "standby": False, "performance_standby": False, "version": "1.17.0"}
_CLUSTER = {"cluster_name": "elasticsearch", "timed_out": False, "number_of_nodes": 1, "unassigned_shards": 0}
_AIRFLOW = {"metadatabase": {"status": "healthy"}}
_GITEA = {"status": "pass", "description": "Gitea: Git with a cup of tea"}
_UP = {"status": "up"}
_REFUSED = {"status": "down", "message": "Could not connect"}

SERVICES = (
    # Formats that many services share
    service(
        "health+json (IETF draft)",
        "/health",
        "https://datatracker.ietf.org/doc/html/draft-inadarei-api-health-check-05",
        ok({"status": "pass", "version": "1", "checks": {"uptime": [{"status": "pass"}]}}),
        degraded({"status": "warn", "checks": {"memory:utilization": [{"status": "warn"}]}}),
        failed({"status": "fail", "output": "no connection"}),
    ),
    service(
        "Spring Boot Actuator",
        "/actuator/health",
        "https://docs.spring.io/spring-boot/api/rest/actuator/health.html",
        ok(_SPRING),
        ok({"status": "UP", "groups": ["liveness", "readiness"]}),
        failed({"status": "DOWN", "components": {"db": {"status": "DOWN", "details": {"error": "refused"}}}}),
        failed({"status": "OUT_OF_SERVICE"}),
        unknown({"status": "UNKNOWN"}),
    ),
    service(
        "ASP.NET Core",
        "/healthz",
        "https://github.com/dotnet/aspnetcore/blob/bb01bbf4433e27289b99001b7de6a582879d1835/src/HealthChecks/Abstractions/src/HealthStatus.cs",
        ok("Healthy"),
        degraded("Degraded"),
        failed("Unhealthy"),
    ),
    service(
        "ASP.NET Core with entries (Brighter)",
        "/health/detail",
        "https://github.com/BrighterCommand/Docs/blob/master/contents/9/HealthChecks.md",
        ok(
            {
                "status": "Healthy",
                "results": {"Brighter": {"status": "Healthy", "description": "21 healthy consumers."}},
            }
        ),
        degraded({"status": "Degraded", "results": {"Brighter": {"status": "Degraded"}}}),
        failed({"status": "Unhealthy", "results": {"Brighter": {"status": "Unhealthy"}}}),
    ),
    service(
        "MicroProfile Health 1",
        "/health",
        "https://developers.redhat.com/sites/default/files/blog/2017/11/microprofile-health-spec.pdf",
        ok({"outcome": "UP", "checks": [{"name": "disk", "state": "UP"}]}),
        failed({"outcome": "DOWN", "checks": [{"name": "disk", "state": "DOWN"}]}),
    ),
    service(
        "MicroProfile Health 3 (WebSphere Liberty)",
        "/health",
        "https://raw.githubusercontent.com/api-evangelist/websphere/refs/heads/main/json-schema/websphere-healthcheckresponse-schema.json",
        ok({"status": "UP", "checks": []}),
        failed({"status": "DOWN", "checks": [{"name": "db", "status": "DOWN", "data": {"pool": "main"}}]}),
    ),
    service(
        "NestJS Terminus (Ripple Custody)",
        "/v1/ready",
        "https://docs.ripple.com/pt-br/products/custody/v1.41/reference/api/openapi/gas-station/healthcontroller_readiness",
        ok({"status": "ok", "info": {"database": _UP}, "error": {}, "details": {"database": _UP}}),
        failed({"status": "error", "error": {"redis": _REFUSED}, "details": {"database": _UP, "redis": _REFUSED}}),
    ),
    service(
        "gRPC health, as JSON",
        "/grpc.health.v1.Health/Check",
        "https://hexdocs.pm/qdrantex/Qdrantex.Grpc.Health.V1.HealthCheckResponse.ServingStatus.html",
        ok({"status": "SERVING"}),
        failed({"status": "NOT_SERVING"}, 200),
        unknown({"status": "SERVICE_UNKNOWN"}),
    ),
    service(
        "axum-api-kit",
        "/health",
        "https://docs.rs/axum-api-kit/0.6.0/axum_api_kit/struct.HealthResponse.html",
        ok({"status": "ok"}),
        degraded({"status": "degraded"}),
        failed({"status": "unhealthy"}),
    ),
    service(
        "FastAPI full-stack template",
        "/api/v1/utils/health-check/",
        "https://github.com/fastapi/full-stack-fastapi-template/blob/master/backend/app/api/routes/utils.py",
        ok(True),
    ),
    # Databases, search and queues
    service(
        "Elasticsearch, OpenSearch",
        "/_cluster/health",
        "https://elastic.co/guide/en/elasticsearch/guide/current/cluster-health.html",
        ok({"status": "green", **_CLUSTER}),
        degraded({"status": "yellow", **_CLUSTER}),
        failed({"status": "red", **_CLUSTER}, 200),
    ),
    service(
        "Elasticsearch with one node: yellow is normal",
        "/_cluster/health",
        "https://elastic.co/guide/en/elasticsearch/reference/2.0/_cluster_health.html",
        ok({"status": "yellow", **_CLUSTER}),
        failed({"status": "red", **_CLUSTER}, 200),
        expect={"json": "status", "equals": ["green", "yellow"]},
    ),
    service(
        "Elasticsearch of Alibaba Cloud",
        "/openapi/instances/ID/elasticsearch-health",
        "https://www.alibabacloud.com/help/en/elasticsearch/latest/describeelasticsearchhealth",
        ok({"Result": "GREEN", "RequestId": "1"}),
        degraded({"Result": "YELLOW", "RequestId": "1"}),
        failed({"Result": "RED", "RequestId": "1"}, 200),
    ),
    service(
        "CouchDB, Cloudant",
        "/_up",
        "https://ibm.github.io/cloudant-node-sdk/docs/latest/enums/CloudantV1.UpInformation.Constants.Status.html",
        ok({"status": "ok"}),
        failed({"status": "maintenance_mode"}, 404),
        failed({"status": "nolb"}, 404),
    ),
    service(
        "InfluxDB 2",
        "/health",
        "https://docs.influxdata.com/influxdb/v2/api/health/index.md",
        ok({"name": "influxdb", "message": "ready for queries and writes", "status": "pass", "checks": []}),
        failed({"name": "influxdb", "status": "fail", "message": "no storage"}),
    ),
    service(
        "InfluxDB 2, readiness",
        "/ready",
        "https://docs.influxdata.com/influxdb/v2/api/ready/",
        ok({"status": "ready", "started": "2019-03-13T10:09:33.891196-04:00", "up": "14m45.911966424s"}),
    ),
    service(
        "InfluxDB 1",
        "/ping",
        "https://docs.influxdata.com/influxdb/v1/api/system-information/index.md",
        ok(b"", 204),
    ),
    service("etcd", "/health", "https://etcd.io/docs/v2.3/other_apis/", ok({"health": "true"})),
    service(
        "Meilisearch",
        "/health",
        "https://www.meilisearch.com/docs/reference/api/health/get-health",
        ok({"status": "available"}),
    ),
    service(
        "Typesense",
        "/health",
        "https://docs.rs/crate/typesense-rs/latest/source/docs/HealthStatus.md",
        ok({"ok": True}),
        failed({"ok": False}),
    ),
    service(
        "Qdrant",
        "/livez",
        "https://api.qdrant.tech/v-1-17-x/api-reference/service/livez/llms.txt",
        ok("healthz check passed"),
    ),
    service(
        "Qdrant, readiness",
        "/readyz",
        "https://api.qdrant.tech/master/api-reference/service/readyz/llms.txt",
        ok("all shards are ready"),
    ),
    service(
        "Milvus",
        "checkHealth()",
        "https://docs.zilliz.com/reference/node/node/Client-checkHealth",
        ok({"isHealthy": True, "reasons": []}),
        failed({"isHealthy": False, "reasons": ["no query node"]}, 200),
    ),
    service(
        "RabbitMQ",
        "/api/health/checks/alarms",
        "https://docs.rs/crate/rabbitmqadmin-sdk/latest/source/src/types/health.rs",
        ok({"status": "ok"}),
        failed({"status": "failed", "reason": "an alarm is in effect"}),
    ),
    service(
        "PuppetDB",
        "/status/v1/services/puppetdb-status",
        "https://help.puppet.com/pdb/current/topics/status.htm",
        ok({"detail_level": "info", "state": "running", "status": {"maintenance_mode?": False, "read_db_up?": True}}),
        failed({"detail_level": "info", "state": "error", "status": {"read_db_up?": False}}, 200),
        unknown({"detail_level": "info", "state": "starting", "status": {"maintenance_mode?": True}}),
    ),
    service(
        "Hasura",
        "/healthz",
        "https://hasura.io/docs/latest/api-reference/health",
        ok("OK"),
        degraded("WARN: inconsistent objects in schema"),
        failed("ERROR: inconsistent objects in schema", 500),
    ),
    service(
        "PocketBase",
        "/api/health",
        "https://pocketbase.io/docs/api-health",
        ok({"status": 200, "message": "API is healthy.", "data": {"canBackup": False}}),
        ok({"code": 200, "message": "API is healthy.", "data": {"canBackup": False}}),
    ),
    # Secrets, discovery, identity
    service(
        "Vault",
        "/v1/sys/health",
        "https://developer.hashicorp.com/vault/api-docs/system/health",
        ok(_VAULT),
        ok({**_VAULT, "standby": True}, 429),
        ok({**_VAULT, "performance_standby": True}, 473),
        failed({**_VAULT, "sealed": True}),
        failed({**_VAULT, "initialized": False}, 501),
        expect={"status": [200, 429, 472, 473]},
    ),
    service(
        "Vault, its seals",
        "/v1/sys/seal-backend-status",
        "https://developer.hashicorp.com/vault/api-docs/system/seal-backend-status",
        ok({"healthy": True, "backends": [{"name": "hsm", "healthy": True}]}),
        failed(
            {"healthy": False, "backends": [{"name": "hsm", "healthy": True}, {"name": "t", "healthy": False}]}, 200
        ),
    ),
    service(
        "OpenBao",
        "/v1/sys/health",
        "https://openbao.org/api-docs/system/health",
        ok(_VAULT),
        ok({**_VAULT, "standby": True}, 429),
        failed({**_VAULT, "sealed": True}),
        expect={"status": [200, 429]},
    ),
    service(
        "Consul",
        "/v1/health/node/NODE",
        "https://developer.hashicorp.com/consul/api-docs/health",
        ok([{"Node": "a", "CheckID": "serfHealth", "Status": "passing", "Output": ""}]),
        degraded([{"CheckID": "serfHealth", "Status": "passing"}, {"CheckID": "mem", "Status": "warning"}]),
        failed([{"CheckID": "serfHealth", "Status": "passing"}, {"CheckID": "redis", "Status": "critical"}], 200),
    ),
    service(
        "Nomad",
        "/v1/agent/health",
        "https://docs.rs/crate/nomad-client/0.0.10/source/docs/AgentHealthResponse.md",
        ok({"client": {"ok": True, "message": "ok"}, "server": {"ok": True, "message": "ok"}}),
        failed({"client": {"ok": True, "message": "ok"}, "server": {"ok": False, "message": "no leader"}}, 500),
    ),
    service(
        "Keycloak",
        "/health",
        "https://www.keycloak.org/server/health",
        ok({"status": "UP", "checks": [{"name": "Keycloak database connections health check", "status": "UP"}]}),
        failed(
            {"status": "DOWN", "checks": [{"name": "Keycloak database connections health check", "status": "DOWN"}]}
        ),
    ),
    # Observability
    service(
        "Grafana",
        "/api/health",
        "https://grafana.com/docs/grafana-cloud/api-reference/http-api/other/",
        ok({"commit": "087143285", "database": "ok", "version": "5.1.3"}),
    ),
    service(
        "Prometheus",
        "/-/healthy",
        "https://prometheus.io/docs/prometheus/latest/management_api",
        ok("Prometheus Server is Healthy.\n"),
        ok("Prometheus Server is Ready.\n"),
        failed("Service Unavailable"),
    ),
    service(
        "Kibana",
        "/api/status",
        "https://elastic.co/docs/troubleshoot/kibana/access",
        ok(
            {
                "name": "k",
                "status": {"overall": {"level": "available"}, "core": {"elasticsearch": {"level": "available"}}},
            }
        ),
        degraded({"name": "k", "status": {"overall": {"level": "degraded"}, "core": {}}}),
        failed({"name": "k", "status": {"overall": {"level": "critical"}, "core": {}}}),
    ),
    service(
        "Kibana 6",
        "/api/status",
        "https://elastic.co/guide/en/beats/metricbeat/6.1/metricbeat-metricset-kibana-status.html",
        ok({"name": "k", "status": {"overall": {"state": "green"}}}),
        failed({"name": "k", "status": {"overall": {"state": "red"}}}, 200),
    ),
    service(
        "Sensu",
        "/health",
        "https://docs.sensu.io/sensu-go/6.1/operations/monitor-sensu/health/",
        ok({"Alarms": None, "ClusterHealth": [{"Name": "backend01", "Err": "", "Healthy": True}]}),
        failed({"ClusterHealth": [{"Name": "backend01", "Err": "context deadline exceeded", "Healthy": False}]}, 200),
    ),
    service(
        "Mesos agent",
        "/health",
        "https://docs.huihoo.com/apache/mesos/1.2.0/endpoints/slave/health/index.html",
        ok(b""),
        expect={"status": 200},
    ),
    # Development and artifacts
    service(
        "GitLab",
        "/-/health",
        "https://docs.gitlab.com/administration/monitoring/health_check",
        ok("GitLab OK"),
        expect={"text": "GitLab OK"},
    ),
    service(
        "GitLab 12, liveness",
        "/-/liveness",
        "https://gitlab.com/gitlab-org/gitlab/-/issues/31033",
        ok({"db_check": {"status": "ok"}, "redis_check": {"status": "ok"}, "gitaly_check": {"status": "ok"}}),
    ),
    service(
        "Gitea",
        "/api/healthz",
        "https://github.com/go-gitea/gitea/blob/main/routers/web/healthcheck/check.go",
        ok({**_GITEA, "checks": {"cache:ping": [{"status": "pass"}], "database:ping": [{"status": "pass"}]}}),
        failed({**_GITEA, "status": "fail", "checks": {"database:ping": [{"status": "fail"}]}}, 424),
    ),
    service(
        "SonarQube, health",
        "/api/system/health",
        "https://docs.sonarsource.com/sonarqube-server/2026.2/server-update-and-maintenance/data-center-edition/monitoring",
        ok({"health": "GREEN", "causes": []}),
        degraded({"health": "YELLOW", "causes": [{"message": "an application node is missing"}]}),
        failed({"health": "RED", "causes": [{"message": "no database"}]}, 200),
    ),
    service(
        "SonarQube, status",
        "/api/system/status",
        "https://raw.githubusercontent.com/api-evangelist/sonarqube/main/collections/sonarqube-system-api.opencollection.json",
        ok({"id": "1", "version": "10.0.0", "status": "UP"}),
        failed({"id": "1", "version": "10.0.0", "status": "DOWN"}, 200),
        unknown({"id": "1", "version": "10.0.0", "status": "STARTING"}),
        unknown({"id": "1", "version": "10.0.0", "status": "DB_MIGRATION_RUNNING"}),
    ),
    service(
        "Artifactory, ping",
        "/api/system/ping",
        "https://jfrog.com/help/r/jfrog-rest-apis/system-health-ping",
        ok("OK"),
    ),
    service(
        "JFrog router",
        "/router/api/v1/system/health",
        "https://raw.githubusercontent.com/api-evangelist/jfrog/refs/heads/main/json-schema/jfrog-system-health-schema.json",
        ok({"router": {"state": "HEALTHY", "message": "OK"}, "services": [{"service_id": "a", "state": "HEALTHY"}]}),
        degraded({"router": {"state": "HEALTHY"}, "services": [{"service_id": "a", "state": "DEGRADED"}]}),
        failed({"router": {"state": "HEALTHY"}, "services": [{"service_id": "a", "state": "UNHEALTHY"}]}, 200),
    ),
    service(
        "Harbor",
        "/api/v2.0/health",
        "https://docs.rs/crate/harbor-api/latest/source/docs/OverallHealthStatus.md",
        ok({"status": "healthy", "components": [{"name": "core", "status": "healthy"}]}),
        failed(
            {"status": "unhealthy", "components": [{"name": "core", "status": "unhealthy", "error": "refused"}]}, 200
        ),
    ),
    # Storage and networks
    service(
        "MinIO",
        "/minio/health/live",
        "https://docs.min.io/enterprise/aistor-object-store/operations/monitoring/healthcheck-probe",
        ok(b""),
        failed(b"", 429),
        expect={"status": 200},
    ),
    service(
        "Envoy",
        "/ready",
        "https://www.netdata.cloud/guides/envoy/envoy-server-state-not-live/",
        ok("LIVE\n"),
        failed("DRAINING\n"),
        failed("PRE_INITIALIZING\n"),
    ),
    service(
        "Envoy, server info",
        "/server_info",
        "https://envoyproxy.io/docs/envoy/v1.20.0/api-v3/admin/v3/server_info.proto",
        ok({"version": "1.20.0", "state": "LIVE", "uptime_current_epoch": "5s"}),
        unknown({"version": "1.20.0", "state": "DRAINING", "uptime_current_epoch": "5s"}),
    ),
    service(
        "NSX component health",
        "/component-health",
        "https://developer.broadcom.com/xapis/nsx-application-platform-cluster-api/latest/data-structures/ComponentHealth/",
        ok([{"name": "a", "status": "UP", "readyReplica": 1, "totalReplica": 1}]),
        degraded([{"name": "a", "status": "PARTIALLY_UP", "readyReplica": 1, "totalReplica": 2}]),
        failed([{"name": "a", "status": "DOWN", "readyReplica": 0, "totalReplica": 2, "reason": "no disk"}], 200),
    ),
    service(
        "ArcGIS Server",
        "/rest/info/healthcheck?f=json",
        "https://developers.arcgis.com/rest/services-reference/enterprise/health-check",
        ok({"success": True}),
        failed({"success": False}, 200),
    ),
    service(
        "Prebid Server",
        "/status",
        "https://docs.prebid.org/prebid-server/endpoints/pbs-endpoint-status.md",
        ok("ok"),
    ),
    # Data and machine learning
    service(
        "Airflow",
        "/health",
        "https://airflow.apache.org/docs/apache-airflow/2.1.0/logging-monitoring/check-health.html",
        ok({**_AIRFLOW, "scheduler": {"status": "healthy", "latest_scheduler_heartbeat": "2018-12-26 17:15:11+00:00"}}),
        ok({**_AIRFLOW, "scheduler": {"status": "healthy"}, "triggerer": {"status": None}}),
        failed({**_AIRFLOW, "scheduler": {"status": "unhealthy"}}, 200),
    ),
    service(
        "Prefect",
        "/api/health",
        "https://github.com/PrefectHQ/prefect/blob/main/src/prefect/server/api/server.py",
        ok(True),
    ),
    service(
        "Superset",
        "/health",
        "https://github.com/apache/superset/blob/master/superset/views/health.py",
        ok("OK"),
    ),
    service(
        "LiteLLM, readiness",
        "/health/readiness",
        "https://docs.litellm.ai/docs/proxy/health",
        ok({"status": "healthy", "db": "connected"}),
    ),
    service(
        "LiteLLM, liveness",
        "/health/liveliness",
        "https://docs.litellm.ai/docs/proxy/health.md",
        ok(b'"I\'m alive!"'),
        failed({"status": "shutting_down"}),
    ),
    service(
        "LiteLLM, models",
        "/health",
        "https://www.mintlify.com/BerriAI/litellm/api/proxy/health",
        ok({"status": "healthy", "redis": "connected", "healthy_endpoints": [{"model": "m", "status": "healthy"}]}),
        failed({"status": "unhealthy", "db": "connected"}, 200),
    ),
    # Collaboration and applications
    service(
        "Mattermost",
        "/api/v4/system/ping?get_server_status=true",
        "https://docs.rs/crate/mattermost-rust-client/latest/source/docs/SystemStatusResponse.md",
        ok({"status": "OK", "database_status": "OK", "filestore_status": "OK", "AndroidMinVersion": ""}),
        degraded({"status": "OK", "database_status": "OK", "filestore_status": "UNHEALTHY"}),
        failed({"status": "UNHEALTHY", "database_status": "UNHEALTHY", "filestore_status": "OK"}, 500),
    ),
    service(
        "Synapse",
        "/health",
        "https://github.com/matrix-org/synapse/blob/develop/synapse/rest/health.py",
        ok("OK"),
    ),
    service(
        "Apache James",
        "/healthcheck",
        "https://github.com/apache/james-project/pull/2399.diff",
        ok({"status": "healthy", "checks": [{"componentName": "a", "status": "healthy", "cause": None}]}),
        degraded({"status": "degraded", "checks": [{"componentName": "a", "status": "degraded", "cause": "slow"}]}),
        failed({"status": "unhealthy", "checks": [{"componentName": "a", "status": "unhealthy", "cause": "down"}]}),
    ),
    service(
        "Nextcloud",
        "/status.php",
        "https://docs.rs/nextcloud-users/0.1.3/nextcloud_users/struct.ServerStatus.html",
        ok({"installed": True, "maintenance": False, "needsDbUpgrade": False, "version": "30.0.4.1", "edition": ""}),
        failed({"installed": True, "maintenance": True, "needsDbUpgrade": False, "version": "30.0.4.1"}, 200),
        expect={"json": "maintenance", "equals": False},
    ),
    service(
        "Strapi",
        "/_health",
        "https://github.com/strapi/documentation/pull/2817.diff",
        ok(b"", 204),
    ),
    service(
        "Cloudron apps",
        "/api/healthcheck",
        "https://docs.cloudron.io/apps/contacts-api/get-healthcheck",
        ok({"status": "ok"}),
    ),
    service(
        "TIBCO Fulfillment",
        "/management/opehealthy",
        "https://docs.tibco.com/pub/fom/4.0.2/doc/html/GUID-0A135940-1C6F-4A2B-B463-42D748DE8F05.html",
        ok({"ishealthy": "YES"}),
        failed({"ishealthy": "NO"}, 200),
    ),
    service(
        "Oracle Hospitality Cruise",
        "/spms/health/db",
        "https://docs.oracle.com/en/industries/hospitality/cruise/property_management/23.1/respi/op-spms-health-db-get.html",
        ok({"status": "UP"}),
        failed({"status": "DOWN"}, 200),
    ),
    service(
        "Euler",
        "/v3/health/ready",
        "https://raw.githubusercontent.com/api-evangelist/euler/refs/heads/main/examples/gethealthready.json",
        ok({"data": {"status": "ready"}, "meta": {}}),
        failed({"data": {"status": "not_ready", "reasons": ["redis"], "checks": {"database": "ok", "redis": "error"}}}),
    ),
    service(
        "Permission Mongo",
        "/ready",
        "https://www.mintlify.com/KTS-o7/permission-mongo/api/ready",
        ok({"data": {"status": "ready", "checks": {"mongodb": "ok", "redis": "not_configured"}, "goroutines": 42}}),
        failed({"data": {"status": "not_ready", "checks": {"mongodb": "unavailable"}}}),
    ),
    service(
        "Simpler Grants",
        "/health",
        "https://raw.githubusercontent.com/api-evangelist/hhs/refs/heads/main/json-schema/healthcheckresponse.json",
        ok({"message": "Success", "data": {}, "status_code": 200}),
    ),
    service(
        "DEFRA backend",
        "/health",
        "https://www.mintlify.com/DEFRA/epr-laps-backend/api/health",
        ok({"message": "success"}),
    ),
    service(
        "Morphik",
        "/ping",
        "https://morphik.ai/docs/python-sdk/ping",
        ok({"status": "ok", "message": "Server is running"}),
    ),
    service(
        "MediaGateway",
        "/health",
        "https://insight-platform.github.io/MediaGateway/reference/1_api.html",
        ok({"status": "healthy"}),
    ),
    service(
        "GoRules agent",
        "/api/health",
        "https://docs.gorules.io/api-reference/agent/system/agent-health-check",
        ok(b'"OK"'),
    ),
    service(
        "RingCentral App Connect",
        "/isAlive",
        "https://ringcentral.github.io/rc-unified-crm-extension/developers/server-api/health/operation-get-get-is-alive/",
        ok("OK"),
    ),
    service(
        "A search engine on Qdrant: not ready with HTTP 200",
        "/ready",
        "https://huggingface.co/spaces/IndraneelKumar/Search_Engine/blob/main/src/api/routes/health_routes.py",
        ok({"status": "ready"}),
        failed({"status": "not ready", "reason": "Qdrant unexpected response"}, 200),
    ),
    # The gateway of this package, and the gateway it replaces
    service(
        "The reference gateway, liveness",
        "/health/live",
        "release_tasks/gateway/service.py",
        ok({"ok": True, "data": {"status": "alive", "pid": 7}}),
    ),
    service(
        "The reference gateway, readiness",
        "/health/ready",
        "release_tasks/gateway/service.py",
        ok({"ok": True, "data": {"status": "ready"}}),
        failed({"ok": False, "error": {"code": "not_ready", "message": "the database is locked"}}),
    ),
    service(
        "The npm gateway: its worker rests between two jobs",
        "/health",
        "docs/moving-over.md",
        ok({"ok": True, "data": {"status": "ok", "uptimeSec": 5, "heartbeat": {"running": False}, "mcpServers": []}}),
        degraded({"ok": True, "data": {"status": "degraded", "heartbeat": {"running": True}}}),
    ),
)


def services_table() -> str:
    """Return the services as a Markdown table."""
    lines = [
        "| service | endpoint | healthy | degraded or failed with HTTP 2xx | to set |",
        "| --- | --- | --- | --- | --- |",
    ]
    for each in SERVICES:
        healthy = "; ".join(_shown(answer) for answer in each.answers if answer.meaning == "ok")
        bad = "; ".join(
            f"{answer.meaning}: {_shown(answer)}"
            for answer in each.answers
            if answer.meaning != "ok" and answer.status < 300
        )
        name = f"[{each.name}]({each.source})" if each.source.startswith("https://") else each.name
        expect = f"`expect: {json.dumps(each.expect)}`" if each.expect else ""
        lines.append(f"| {name} | `{each.path}` | {healthy} | {bad} | {expect} |")
    return "\n".join(lines) + "\n"


def _shown(answer: Answer) -> str:
    """Return an answer in short: the HTTP status where it is not 200, and the body."""
    body = answer.content.decode().strip()
    shown = f"`{body}`" if 0 < len(body) <= 90 else f"`{body[:87]}...`" if body else "an empty body"
    return shown if answer.status == 200 else f"HTTP {answer.status}" + (f" {shown}" if answer.status != 204 else "")
