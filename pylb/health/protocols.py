"""The protocols of checks by their names in the configuration: the one place to add one. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pylb.health.agent import Agent
from pylb.health.databases import MySql, PostgreSql
from pylb.health.exchange import Exchange
from pylb.health.expect import Expected, Request
from pylb.health.greetings import Redis, Smtp
from pylb.health.grpc import Grpc
from pylb.health.http1 import Http1
from pylb.health.http2 import Http2


@dataclass(frozen=True, slots=True)
class Settings:
    """What a check is made of, whatever its protocol; each takes what it needs."""

    request: Request = field(default_factory=Request)
    expected: Expected = field(default_factory=Expected)
    http2: bool = False
    """Whether the server speaks HTTP/2 only."""
    tls: bool = False
    service: str = ""
    user: str = ""
    send: bytes = b""

    @property
    def scheme(self) -> str:
        """Of a request."""
        return "https" if self.tls else "http"


def _http(settings: Settings) -> Exchange:
    if settings.http2:
        return Http2(settings.request, settings.expected, settings.scheme)
    return Http1(settings.request, settings.expected)


PROTOCOLS: dict[str, Callable[[Settings], Exchange]] = {
    "tcp": lambda settings: Exchange(),
    "tls": lambda settings: Exchange(),
    "http": _http,
    "grpc": lambda settings: Grpc(settings.service, settings.request.host, settings.scheme),
    "agent": lambda settings: Agent(settings.send),
    "postgresql": lambda settings: PostgreSql(settings.user or "pylb"),
    "mysql": lambda settings: MySql(settings.user),
    "redis": lambda settings: Redis(),
    "smtp": lambda settings: Smtp(settings.request.host),
}
"""For each type of check, what makes the exchange of one."""
