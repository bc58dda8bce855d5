"""Health checks in Prometheus's families. Below `metrics`; it knows the servers as ``/status`` shows them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric


def families(servers: Sequence[dict[str, Any]]) -> Iterator[Metric]:
    """Of all servers whether they take requests, and of those that are checked what came of it."""
    labels = ["backend", "server"]
    usable = GaugeMetricFamily(
        "pylb_server_usable", "1 while the server takes new clients, by its health and state.", labels=labels
    )
    checks = CounterMetricFamily("pylb_server_checks", "Health checks made.", labels=labels)
    failures = CounterMetricFamily("pylb_server_check_failures", "Health checks that failed.", labels=labels)
    changes = CounterMetricFamily(
        "pylb_server_check_changes", "Times that checks took the server out or in.", labels=labels
    )
    took = GaugeMetricFamily(
        "pylb_server_check_seconds", "Duration of the last health check.", labels=labels
    )
    for server in servers:
        values = [server["backend"], server["name"]]
        usable.add_metric(values, server["state"] in ("up", "unchecked"))
        check = server["check"]
        if check is not None:
            checks.add_metric(values, check["checks"])
            failures.add_metric(values, check["failures"])
            changes.add_metric(values, check["changes"])
            if check["last"] is not None:
                took.add_metric(values, check["last"]["took_ms"] / 1000)
    yield usable
    yield from (family for family in (checks, failures, changes, took) if family.samples)
