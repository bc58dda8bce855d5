"""The workloads on which balancers are compared, and the bars: what `bench.table` and `bench.peers` measure.

Each says how the balancer is asked (`wrk`, `h2load` or `handshakes`), at which of its sites, and how much CPU
time per request a worker of pylb may need over another's. Only data; how it is measured stands in
`bench.turns`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.rig import h2load, handshakes, wrk
from bench.rig.site import Site, host_of
from bench.rig.wrk import BROWSER, CURL

PLAIN, ONE_ROUTE, ROUTES, LOG = range(4)
"""The sites of a balancer, by their place in `sites`."""
_ROUTES = 1000
_ASKED = f"Host: {host_of(700)}"


@dataclass(frozen=True)
class Workload:
    """One kind of load.

    ``bar`` is the largest good ratio of pylb's CPU time per request to that of the balancer ``over``; None
    where nothing is promised. ``tls``: the site's port with TLS is asked.
    """

    name: str
    load: wrk.Load | h2load.Load | handshakes.Load
    bar: float | None
    site: int = PLAIN
    tls: bool = False
    over: str = "haproxy"


def _close(*fields: str) -> tuple[str, ...]:
    return ("Connection: close", *fields)


WORKLOADS = (
    Workload("small, 64 keep-alive", wrk.Load(), 1.15),
    Workload("small, 250 keep-alive", wrk.Load(connections=250), 1.15),
    Workload("12 headers", wrk.Load(fields=BROWSER), 1.15),
    Workload("differing heads, few headers", wrk.Load(fields=CURL, varied=True), 1.25),
    Workload("differing heads, 12 headers", wrk.Load(fields=BROWSER, varied=True), 1.25),
    Workload("64 KiB", wrk.Load("/64k"), 1.0),
    Workload("1 MiB, 16 connections", wrk.Load("/1m", 16), 1.0),
    Workload("new connection each", wrk.Load(fields=_close()), 1.15),
    Workload("1 route, differing heads", wrk.Load(fields=(*CURL, _ASKED), varied=True), None, ONE_ROUTE),
    Workload("1,000 routes, differing heads", wrk.Load(fields=(*CURL, _ASKED), varied=True), None, ROUTES),
    Workload("access log, differing heads", wrk.Load(fields=CURL, varied=True), None, LOG),
    Workload("TLS, small", wrk.Load(), 1.1, tls=True),
    Workload("TLS, 64 KiB", wrk.Load("/64k"), 1.0, tls=True),
    Workload("TLS handshake each", handshakes.Load(), 1.2, tls=True),
    Workload("TLS handshake each, resumed", handshakes.Load(resumed=True), 1.0, tls=True, over="nginx"),
    Workload("HTTP/2, equal heads, 10 × 10", h2load.Load(), 1.5, tls=True),
    Workload("HTTP/2, differing heads, 10 × 10", h2load.Load(varied=True), 2.0, tls=True),
    Workload("HTTP/2, 64 KiB, 10 × 10", h2load.Load("/64k"), 1.3, tls=True),
    Workload("HTTP/2, equal heads, 1 × 100", h2load.Load(connections=1, streams=100), 1.5, tls=True),
)


def sites(servers: Sequence[str]) -> tuple[Site, ...]:
    """What a balancer serves for all workloads."""
    return (
        Site.with_tls(servers),
        Site(servers, routes=1),
        Site(servers, routes=_ROUTES),
        Site(servers, log=True),
    )


def named(part: str) -> list[Workload]:
    """Those whose name has this part."""
    return [one for one in WORKLOADS if part in one.name]
