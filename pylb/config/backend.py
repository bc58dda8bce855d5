"""The section ``[[backend]]`` and those in it, and how a server is written on the command line."""

from __future__ import annotations

import re
from collections.abc import Container
from itertools import chain, count
from math import inf
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from pylb.balance import ALGORITHMS, known
from pylb.config.address import parse_server
from pylb.config.check import CheckOrNone
from pylb.config.declaration import Default, Kind, Option
from pylb.config.discovery import DiscoveryKeys, looked_up
from pylb.config.edits import RouteTimeouts
from pylb.config.outliers import Outliers
from pylb.config.pool import Pool
from pylb.config.queue import QueueConfig
from pylb.config.retry import BreakerConfig, Retry
from pylb.config.section import Section
from pylb.config.sticky import Sticky
from pylb.config.values import ONE_OR_MORE, FilePath, HostName, SecondsOrZero, ServerAddress, SizeOrZero
from pylb.retry.policy import Policy


def _known_algorithm(value: str) -> str:
    if known(value) is None:
        raise ValueError(f"unknown algorithm {value!r}; allowed: {', '.join(sorted(ALGORITHMS))}")
    kind, colon, name = value.partition(":")
    if colon and re.fullmatch(_NAMES[kind], name, re.ASCII) is None:
        raise ValueError(f"no {kind} is called {name!r}")
    return value


_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # RFC 9110 §5.6.2, RFC 6265 §4.1.1
_NAMES = {"header": _TOKEN, "cookie": _TOKEN, "query": r"[!-%'-<>-~]+"}

Algorithm = Annotated[
    str,
    AfterValidator(_known_algorithm),
    Kind("algorithm", "algorithms", "ALGORITHM"),
]


def server_of_text(text: str) -> dict[str, Any]:
    """``"10.0.0.1:80,weight=2"`` as a server's keys; raises ValueError where what follows is no KEY=VALUE."""
    address, *settings = text.split(",")
    server: dict[str, Any] = {"address": address}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"expected KEY=VALUE after the comma of {text} (got {setting!r})")
        server[key] = int(value) if re.fullmatch(r"\d{1,9}", value, re.ASCII) else value
    return server


class ServerPlace(Section):
    """What a server of the file has of its own."""

    name: Annotated[str, Default("s1, s2, …")] = Field(
        default="", description="What the server is called in the log, in status and in metrics."
    )
    address: ServerAddress = Field(
        description="Where the server listens; without a port, at the port to which the client has connected."
    )
    state: Literal["ready", "drain", "maintenance"] = Field(
        default="ready",
        description="Whether it takes requests; with drain only those of clients that stick to it.",
    )
    cookie: Annotated[str, Default("its name")] = Field(
        default="",
        pattern=r"^[!#-&(-+./0-9:<-@A-Z^_`a-z{}-]*$",
        description="What it is called in the cookie of sticky.",
    )
    discover: Literal["dns"] | None = Field(
        default=None,
        description="All addresses of the name are servers, and are looked up again and again; see "
        "`backend.discover`.",
    )


class ServerKeys(Section):
    """What is said of a server, whoever names its address."""

    weight: int = Field(
        default=1, ge=0, le=256, description="Share of the requests, beside the others' weights; 0 is none."
    )
    backup: bool = Field(
        default=False, description="Gets requests only while none of the other servers can be picked."
    )
    maxconn: int = Field(
        default=0,
        ge=0,
        le=1_000_000,
        description="Requests (TCP: connections) at a time, over all workers; others wait. 0: any number.",
    )
    slow_start: SecondsOrZero = Field(
        default=0.0,
        description="Time in which the weight rises after the server came back; 0 for all of it at once.",
    )
    fill: int = Field(
        default=0,
        ge=0,
        le=1 << 30,
        description='With balance = "first": requests at a time, before the next server gets some; 0: any.',
    )
    check: bool = Field(default=True, description="Whether it is checked, where the backend has a check.")
    check_port: Annotated[int, Default("check.port, or the server's")] = Field(
        default=0, ge=0, le=65535, description="Where its checks connect to."
    )


class Server(ServerKeys, ServerPlace):
    """One server of a backend; may be written as its address alone: ``server = ["10.0.0.1:80"]``."""

    short: ClassVar[str] = "address"

    @model_validator(mode="after")
    def _can_be_looked_up(self) -> Server:
        if self.discover is not None:
            looked_up(self.address)
        return self


class Discover(ServerKeys, DiscoveryKeys):
    """A source of servers; what it finds gets the keys of a server from here."""

    def server(self, name: str, address: str) -> Server:
        """One that was found, as the file would have it; raises ValueError where it can't be one."""
        given = {key: getattr(self, key) for key in ServerKeys.model_fields if key in self.model_fields_set}
        return Server(name=name, address=parse_server(address), **given)


class ServerTls(Section):
    """TLS to the servers."""

    verify: bool = Field(default=True, description="Whether a server's certificate is verified.")
    ca: Annotated[FilePath | None, Default("the system's")] = Field(
        default=None, description="PEM file of the CAs that may issue the servers' certificates."
    )
    name: Annotated[HostName | None, Default("the server's host")] = Field(
        default=None, description="Expected in the certificate, and sent as the server's name (SNI)."
    )
    certificate: FilePath | None = Field(
        default=None, description="PEM file with the certificate that pylb shows the servers."
    )
    key: Annotated[FilePath | None, Default("in certificate")] = Field(
        default=None, description="PEM file with the certificate's key."
    )

    @model_validator(mode="after")
    def _whole(self) -> ServerTls:
        if self.key is not None and self.certificate is None:
            raise ValueError("key needs certificate")
        return self


class Backend(Section):
    """A group of servers that answer the same requests."""

    name: str = Field(description="What the backend is called, in frontends, in status and in metrics.")
    discover: tuple[Discover, ...] = Field(
        default=(), description="Where further servers are looked for while pylb runs."
    )
    servers: Annotated[
        tuple[Server, ...],
        ONE_OR_MORE,
        Option("--server", "ADDRESS[,weight=N]", server_of_text),
        Default("required without discover"),
    ] = Field(default=(), validation_alias="server", description="Who answers requests.")
    balance: Annotated[Algorithm, Option("--balance")] = Field(
        default="leastconn",
        description="How a server is picked: the one with the fewest requests over all workers, or by "
        "another algorithm.",
    )
    hash_factor: Annotated[float | None, Default('1.25; with "source" and "uri" 0')] = Field(
        default=None,
        allow_inf_nan=False,
        description="Of a hash: how many times its share of all active requests a server takes, before the "
        "next one gets some; 0 for any number.",
    )
    retries: int = Field(
        default=3,
        ge=0,
        le=16,
        description="Further tries of a request: at another server first, then after a pause.",
    )
    maxconn: int = Field(default=0, ge=0, le=1_000_000, description="As a server's, at all servers together.")
    queue: QueueConfig | None = Field(default=None, description="How requests wait for a place.")
    retry: Retry | None = Field(default=None, description="Which requests are tried again, and when.")
    breaker: BreakerConfig | None = Field(
        default=None, description="Leave the servers alone while most requests fail."
    )
    timeouts: RouteTimeouts | None = Field(default=None, description="How long pylb waits for them.")
    pool: Pool = Field(default_factory=Pool, description="Which of their connections are kept.")
    body_bytes: Annotated[SizeOrZero | None, Default("the frontend's")] = Field(
        default=None, description="A request's body: 413 above; 0 is no limit."
    )
    tls: ServerTls | None = Field(default=None, description="TLS to the servers.")
    http2: bool = Field(
        default=False,
        description="Speak HTTP/2 to the servers: by ALPN with tls, by prior knowledge without.",
    )
    outliers: Outliers | None = Field(
        default=None, description="Servers that answer badly are taken out for a while."
    )
    panic: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of healthy servers, below which all are used, healthy or not; 0: never.",
    )
    min_servers: int = Field(
        default=0,
        ge=0,
        le=1 << 30,
        description="Usable servers, below which the health path of its frontends answers 503.",
    )
    on_marked_down: Literal["none", "shutdown-sessions"] = Field(
        default="none",
        description="What becomes of a server's connections when it goes down by checks or maintenance: "
        "they stay, or are closed.",
    )
    sticky: Sticky | None = Field(
        default=None, description="A cookie by which clients keep to their servers."
    )
    send_proxy: Literal["off", "v1", "v2"] = Field(
        default="off",
        description="Send the PROXY protocol's header; such a connection is one client's.",
    )
    send_proxy_tlvs: tuple[Literal["alpn", "authority"], ...] = Field(
        default=(),
        description='With "v2": what the client\'s TLS agreed on, and the name that it asked for.',
    )
    check: CheckOrNone = Field(
        default=None,
        description="How it is found out whether servers work: a table, `true` (tcp, tls), or a path (http).",
    )

    @property
    def policy(self) -> Policy:
        """When its requests are tried again."""
        retry = self.retry or Retry()
        return Policy(
            self.retries,
            retry.conditions,
            retry.statuses,
            frozenset(method.encode() for method in retry.methods),
            retry.pause,
            retry.longest_pause,
            inf if retry.per_try is None else retry.per_try,
            inf if retry.timeout is None else retry.timeout,
            retry.body,
        )

    @field_validator("servers")
    @classmethod
    def _named(cls, servers: tuple[Server, ...]) -> tuple[Server, ...]:
        named = tuple(
            server if server.name or server.discover else server.model_copy(update={"name": f"s{index}"})
            for index, server in enumerate(servers, 1)
        )
        names = [server.name for server in named]
        for name in filter(None, names):
            if names.count(name) > 1:
                raise ValueError(f"two servers are named {name!r}")
        return named

    @model_validator(mode="after")
    def _sources_apart(self) -> Backend:
        """A server with ``discover`` is a source of servers, and none itself; sources have names."""
        if not self.servers and not self.discover:
            raise ValueError("it has no server; expected server, or discover")
        named_once = [server for server in self.servers if server.discover is not None]
        sources = [*self.discover, *map(_source, named_once)]
        named: dict[str, Discover] = {}
        for source in sources:
            name = source.name or _unused(source.kind, {*named, *(one.name for one in sources)})
            if name == "added":
                raise ValueError(
                    "a source can't be named 'added': so servers are that you add while pylb runs"
                )
            if name in named:
                raise ValueError(f"two sources of servers are named {name!r}")
            named[name] = source.model_copy(update={"name": name})
            if source.dns is not None and self.tls is not None and self.tls.verify and not self.tls.name:
                host = source.dns.host
                raise ValueError(f'tls.name must be set, as in "{host}": what is found are addresses')
        # The section is frozen once it is made, which it is here.
        self.__dict__["servers"] = tuple(server for server in self.servers if server.discover is None)
        self.__dict__["discover"] = tuple(named.values())
        return self

    @field_validator("hash_factor")
    @classmethod
    def _above_one(cls, value: float | None) -> float | None:
        if value and value <= 1:
            raise ValueError("expected 0, or more than 1")
        return value


def _source(server: Server) -> Discover:
    """What a server with ``discover`` stands for; raises ValueError."""
    given = {key: getattr(server, key) for key in ServerKeys.model_fields if key in server.model_fields_set}
    return Discover(dns=server.address, name=server.name, **given)


def _unused(kind: str, names: Container[str]) -> str:
    numbered = (f"{kind}{number}" for number in count(2))
    return next(name for name in chain([kind], numbered) if name not in names)
