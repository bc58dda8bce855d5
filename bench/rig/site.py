"""Where a balancer listens, and the servers behind it: what every peer's configuration is made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.rig.balancer import free_port


@dataclass(frozen=True)
class Site:
    """Where a balancer listens on 127.0.0.1, and the servers behind it (``127.0.0.1:PORT``)."""

    servers: Sequence[str]
    port: int = field(default_factory=free_port)
    tls_port: int = 0
    """0: no TLS."""
    http2: bool = False
    """Whether the servers speak HTTP/2, without TLS; of pylb and HAProxy."""
    routes: int = 0
    """So many hosts (`host_of`), of which each has its path ``/small`` routed by a rule of its own."""
    log: bool = False
    """Whether each request makes a line of the access log, in a file of the balancer's folder."""

    @classmethod
    def with_tls(cls, servers: Sequence[str], http2: bool = False) -> Site:
        """On two ports, without and with TLS."""
        return cls(servers, tls_port=free_port(), http2=http2)


def host_of(number: int) -> str:
    """The host of a route."""
    return f"h{number}.example"
