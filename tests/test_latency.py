"""Response times: which bucket, what is known of quantiles, and what ``/metrics`` says."""

from __future__ import annotations

import time
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from pylb import latency
from pylb.config import load
from pylb.control.metrics import BoardCollector, exposition
from pylb.control.scaler import Scaler
from pylb.control.snapshot import Percentiles
from pylb.scoreboard import NO_BACKEND, OTHER_BACKENDS, Field, Scoreboard, State
from pylb.worker.phases.account import account
from tests.http.wire import Wire


@given(st.integers(0, 10**12))
def test_a_time_lies_in_its_bucket(microseconds: int) -> None:
    index = latency.bucket(microseconds)
    assert 0 <= index <= latency.LAST
    assert index == latency.LAST or microseconds < latency.bound(index)
    assert index == 0 or microseconds >= latency.bound(index - 1)


def test_the_bounds_grow_by_a_quarter_at_most() -> None:
    bounds = [latency.bound(index) for index in range(latency.LAST)]
    assert bounds[0] == 64 and bounds[-1] > 100_000_000
    assert all(low < high <= low * 1.25 for low, high in zip(bounds, bounds[1:], strict=False))


@given(st.lists(st.integers(64, 10**8), min_size=1, max_size=300))
def test_a_quantile_is_known_within_a_quarter(times: list[int]) -> None:
    counts = [0] * latency.BUCKETS
    for one in times:
        counts[latency.bucket(one)] += 1
    exact = sorted(times)[-(-len(times) * 99 // 100) - 1] / 1000
    assert exact < latency.quantile(counts, 0.99) <= exact * 1.25


@given(st.integers(0, 10**12))
def test_a_request_is_counted_as_the_function_says(microseconds: int) -> None:
    wire = Wire()
    wire.client_sends(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    exchange = wire.client.exchange
    assert exchange is not None
    exchange.tx.began_ns = time.monotonic_ns() - microseconds * 1000
    account(wire.worker, exchange.tx, True, time.monotonic_ns())
    times = wire.backend.times
    assert times.index(1) == latency.bucket(times[latency.SUM])
    assert times[latency.SUM] >= microseconds


def test_what_gone_workers_counted_stays_and_room_is_used_again() -> None:
    board = Scoreboard(1, backends=2)
    board.add_backends(["a", "b"], [])
    board.row(0)[Field.STATE] = State.SERVING
    look = Percentiles(board)
    board.times(board.backends["a"], 0)[5] = 7
    board.retire(0)
    assert board.times_total(board.backends["a"])[5] == 7
    assert look.sample(0.99) == latency.bound(5) / 1000
    assert look.sample(0.99) == 0.0
    old = board.backends["a"]
    board.add_backends(["b", "c"], [])
    assert board.backends["c"] == old and not any(board.times_total(old))
    board.add_backends(["b", "d"], ["c"])
    assert "d" not in board.backends  # no room: its times are told as those of others


def test_the_metrics_have_buckets_and_sums_by_backend(monkeypatch: Any) -> None:
    config = load.quick(["127.0.0.1:0"], ["127.0.0.1:9"], workers="1..1")
    board = Scoreboard(1)
    (backend,) = config.backends
    board.add_backends([backend.name], [])
    board.row(0)[Field.STATE] = State.SERVING
    for index, count in ((board.backends[backend.name], 3), (NO_BACKEND, 1)):
        board.times(index, 0)[latency.bucket(1000)] = count
        board.times(index, 0)[latency.SUM] = count * 1000
    servers = {(backend.name, "s1", "127.0.0.1:9"): 0}
    scaler = Scaler(config, board, lambda count, reason: None)
    found = samples(exposition(BoardCollector(board, servers, scaler)).decode())
    assert found["count", backend.name, ""] == 3 and found["sum", backend.name, ""] == 0.003
    assert found["count", "(none)", ""] == 1
    assert found["bucket", backend.name, "0.001024"] == 3 and found["bucket", backend.name, "0.000896"] == 0
    assert ("count", "(other)", "") not in found
    board.times(OTHER_BACKENDS, 0)[0] = 1
    assert samples(exposition(BoardCollector(board, servers, scaler)).decode())["count", "(other)", ""] == 1


def samples(text: str) -> dict[tuple[str, str, str], float]:
    """Of the histogram: kind, backend and bound to value."""
    return {
        (one.name.rpartition("_")[2], one.labels["backend"], one.labels.get("le", "")): one.value
        for family in text_string_to_metric_families(text)
        if family.name == "pylb_request_duration_seconds"
        for one in family.samples
    }
