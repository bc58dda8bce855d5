"""``/metrics``: the scoreboard in Prometheus's exposition format. Below `main`, above `snapshot`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric

from pylb import latency
from pylb.config.model import ServerKey
from pylb.control import checkmetrics, snapshot
from pylb.control.scaler import Scaler
from pylb.scoreboard import BAD_RESPONSES, NO_BACKEND, OTHER_BACKENDS, REASONS, Field, Scoreboard

_COUNTERS = {
    "accepted": "Client connections accepted.",
    "adopted": "Client connections received from another worker.",
    "handed_over": "Client connections given to another worker.",
    "retries": "Requests sent again on another connection or server.",
    "bytes_in": "Bytes read from clients.",
    "bytes_out": "Bytes written to clients.",
    "timeouts": "Client and server timeouts.",
    "aborted": "Requests whose client or server left in the middle.",
    "internal": "Requests and connections that an error of pylb's own has ended.",
    "pauses": "Times that accepting was stopped, since descriptors ran short.",
}


class BoardCollector:
    """Reads the scoreboard at each scrape."""

    def __init__(
        self,
        board: Scoreboard,
        servers: dict[ServerKey, int],
        scaler: Scaler,
        check: Callable[[int], dict[str, Any] | None] = lambda index: None,
        ejections: Mapping[int, int] | None = None,
        discovery: Callable[[], list[dict[str, Any]]] = list,
    ) -> None:
        self._board = board
        self._check = check
        self._servers = servers
        self._backends = list(dict.fromkeys(backend for backend, _, _ in servers))
        self._scaler = scaler
        self._discovery = discovery
        self._ejections = {} if ejections is None else ejections

    def collect(self) -> Iterator[Metric]:
        totals = snapshot.totals(self._board)
        for name, text in _COUNTERS.items():
            yield CounterMetricFamily(f"pylb_{name}", text, value=totals[name])
        responses = CounterMetricFamily("pylb_responses", "Responses by class.", labels=["class"])
        for status in ("1xx", "2xx", "3xx", "4xx", "5xx"):
            responses.add_metric([status], totals[f"status_{status}"])
        yield responses
        yield self._by_reason("refused", "Requests refused, by reason.", REASONS, Field.REFUSED_FOR)
        yield self._by_reason(
            "bad_responses", "Servers' responses refused, by reason.", BAD_RESPONSES, Field.BAD_RESPONSE_FOR
        )
        yield CounterMetricFamily("pylb_requests", "Requests answered.", value=totals["requests"])
        yield GaugeMetricFamily("pylb_connections", "Open client connections.", value=totals["connections"])
        yield GaugeMetricFamily("pylb_in_flight", "Requests under way.", value=totals["in_flight"])
        yield CounterMetricFamily(
            "pylb_log_lost", "Log lines that nobody read in time.", value=self._board.log_lost()
        )
        yield CounterMetricFamily(
            "pylb_access_log_lost",
            "Lines of the access log that were dropped or could not be written.",
            value=totals["access_lost"],
        )
        yield self._latency()
        yield from self._workers()
        yield from self._per_server()
        yield from self._sources()
        scaling = self._scaler.status()
        yield GaugeMetricFamily("pylb_scaling_target", "Workers wanted.", value=scaling["target"])
        if scaling["idle_cores"] is not None:
            yield GaugeMetricFamily(
                "pylb_scaling_idle_cores", "Idle cores beside the lease.", value=scaling["idle_cores"]
            )
            yield GaugeMetricFamily(
                "pylb_scaling_granted_cores", "Cores leased.", value=scaling["granted_cores"]
            )
        yield GaugeMetricFamily(
            "pylb_controller_connected", "1 when grants come.", value=scaling["controller_connected"]
        )

    def _by_reason(self, name: str, text: str, reasons: Iterable[str], first: Field) -> Metric:
        """Counters of which there is one for each of some reasons."""
        found = CounterMetricFamily(f"pylb_{name}", text, labels=["reason"])
        for number, reason in enumerate(reasons, int(first)):
            rows = range(self._board.rows + 1)
            found.add_metric([reason], sum(self._board.row(row)[number] for row in rows))
        return found

    def _latency(self) -> Metric:
        histogram = HistogramMetricFamily(
            "pylb_request_duration_seconds", "Head read to answer written.", labels=["backend"]
        )
        named = {"(none)": NO_BACKEND, "(other)": OTHER_BACKENDS}
        named |= {name: self._board.backends[name] for name in self._backends if name in self._board.backends}
        for name, backend in named.items():
            times = self._board.times_total(backend)
            if name == "(other)" and not any(times):
                continue
            buckets = []
            seen = 0
            for bucket, count in enumerate(times[: latency.BUCKETS]):
                seen += count
                bound = "+Inf" if bucket == latency.LAST else repr(latency.bound(bucket) / 1e6)
                buckets.append((bound, seen))
            histogram.add_metric([name], buckets, sum_value=times[latency.SUM] / 1e6)
        return histogram

    def _workers(self) -> Iterator[Metric]:
        busy = GaugeMetricFamily("pylb_worker_busy", "CPU time over wall time.", labels=["slot"])
        open_ = GaugeMetricFamily("pylb_worker_connections", "Client connections.", labels=["slot"])
        requests = CounterMetricFamily("pylb_worker_requests", "Requests answered.", labels=["slot", "pid"])
        merged: dict[int, list[float]] = {}
        for worker in snapshot.workers(self._board, self._scaler.busy.fractions):
            # During a reload two generations serve one slot; a label set may come once only.
            sums = merged.setdefault(worker["slot"], [0.0, 0])
            sums[0] += worker["busy"]
            sums[1] += worker["connections"]
            requests.add_metric([str(worker["slot"]), str(worker["pid"])], worker["requests"])
        for slot, (share, connections) in merged.items():
            busy.add_metric([str(slot)], share)
            open_.add_metric([str(slot)], connections)
        yield from (busy, open_, requests)
        yield GaugeMetricFamily("pylb_workers", "Worker processes.", value=len(self._board.live_rows()))

    def _per_server(self) -> Iterator[Metric]:
        labels = ["backend", "server"]
        active = GaugeMetricFamily("pylb_server_active", "Requests at the server.", labels=labels)
        requests = CounterMetricFamily("pylb_server_requests", "Requests sent.", labels=labels)
        errors = CounterMetricFamily("pylb_server_errors", "Failures of the server.", labels=labels)
        servers = snapshot.servers(self._board, self._servers, self._check)
        for server in servers:
            values = [server["backend"], server["name"]]
            active.add_metric(values, server["active"])
            requests.add_metric(values, server["requests"])
            errors.add_metric(values, server["errors"])
        yield from (active, requests, errors)
        yield from checkmetrics.families(servers)
        ejections = CounterMetricFamily(
            "pylb_server_ejections", "Times that the server was taken out for its answers.", labels=labels
        )
        for (backend, name, _), index in self._servers.items():
            if index in self._ejections:
                ejections.add_metric([backend, name], self._ejections[index])
        yield ejections
        yield from self._queues()

    def _queues(self) -> Iterator[Metric]:
        waiting = GaugeMetricFamily("pylb_queue_waiting", "Requests that wait.", labels=["backend"])
        families = {
            "queued": ("pylb_queue_queued", "Requests that have waited, or wait."),
            "waited_s": ("pylb_queue_seconds", "Time that they waited until they were served."),
            "late": ("pylb_queue_late", "Requests that waited for too long."),
            "full": ("pylb_queue_full", "Requests for which there was no room."),
        }
        counters = {key: CounterMetricFamily(*words, labels=["backend"]) for key, words in families.items()}
        for queue in snapshot.queues(self._board):
            waiting.add_metric([queue["backend"]], queue["waiting"])
            for key, counter in counters.items():
                counter.add_metric([queue["backend"]], queue[key])
        yield from (waiting, *counters.values())

    def _sources(self) -> Iterator[Metric]:
        """Of servers that are looked for; a name of the file's own that can't be resolved is one, too."""
        labels = ["backend", "source"]
        servers = GaugeMetricFamily("pylb_discovery_servers", "Servers found.", labels=labels)
        failures = CounterMetricFamily("pylb_discovery_failures", "Looks without an answer.", labels=labels)
        failing = GaugeMetricFamily("pylb_discovery_failing", "1 when the last look failed.", labels=labels)
        for one in self._discovery():
            values = [one["backend"], one["source"]]
            servers.add_metric(values, one["servers"])
            failures.add_metric(values, one["failures"])
            failing.add_metric(values, bool(one["error"]))
        yield from (servers, failures, failing)


def exposition(collector: BoardCollector) -> bytes:
    """The metrics as Prometheus reads them."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return generate_latest(registry)
