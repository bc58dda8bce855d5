"""The section ``[[backend.discover]]``: where a backend's servers are looked for while pylb runs.

Above `values`, below `backend`, which adds the keys of a server: what is found gets them. Which of the keys
below goes with which source is said here, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from pylb.config.address import Address, is_host_name, parse_address
from pylb.config.declaration import Default, Kind
from pylb.config.section import Section
from pylb.config.values import ONE_OR_MORE, FilePath, HostName, Seconds, SecondsOrZero, ServerAddress

KINDS = ("dns", "srv", "file", "docker", "http", "function")
"""The keys of which a section has exactly one: the source, and what it is asked."""

_ONLY_WITH = {
    "port": ("file", "docker", "http", "function"),
    "family": ("dns", "srv"),
    "resolvers": ("dns", "srv"),
    "search": ("dns", "srv"),
    "label": ("docker",),
    "network": ("docker",),
    "ca": ("http",),
    "token_file": ("http",),
}
_INTERVALS = {"file": 1.0, "docker": 60.0}
"""Seconds; Docker tells of changes, and is asked again all the same."""
_INTERVAL = 10.0


def looked_up(address: Address) -> Address:
    """An address whose host is a name to look up; raises ValueError."""
    if address.is_unix or address.port <= 0 or not is_host_name(address.host):
        raise ValueError("expected a name and the servers' port, as in app.internal:8080")
    if re.fullmatch(r"[0-9.]+", address.host) or ":" in address.host:
        raise ValueError(f"{address.host} is an IP address, so there is nothing to look up; use server")
    return address


def _service(value: str) -> str:
    if not is_host_name(value):
        raise ValueError("expected the name of SRV records, as in _http._tcp.app.internal")
    return value


def _engine(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    address = parse_address(value)
    if not address.is_unix:
        raise ValueError("expected the engine's unix socket, as in unix:/run/docker.sock")
    return address.path


def _url(value: str) -> str:
    try:
        parts = urlsplit(value)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or parts.username is not None or not value.isascii() or re.search(r"[\x00-\x20\x7f]", value):
        raise ValueError("expected a URL, as in https://registry.internal/servers.json, without a password")
    return value


def _function(value: str) -> str:
    name = r"[^\W\d]\w*"
    if re.fullmatch(rf"{name}(\.{name})*:{name}", value) is None:
        raise ValueError("expected MODULE:FUNCTION, as in fleet.registry:servers")
    return value


def _resolver(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = value.strip()
    bare = text.endswith("]") or ":" not in text
    if text.count(":") > 1 and not text.startswith("["):
        text, bare = f"[{text}]", True
    address = parse_address(f"{text}:53" if bare else text)
    if address.is_unix or address.port == 0 or not re.fullmatch(r"[0-9.]+|.*:.*", address.host):
        raise ValueError("expected a name server's IP address, as in 10.0.0.2 or 10.0.0.2:5353")
    return address


Resolver = Annotated[
    Address,
    BeforeValidator(_resolver),
    Kind("IP address, with or without a port", "IP addresses, with or without a port", "ADDRESS"),
]


class DiscoveryKeys(Section):
    """Where servers are looked for: one of dns, srv, file, docker, http, function, and how."""

    name: Annotated[str, Default("dns, srv, …")] = Field(
        default="",
        max_length=64,
        description="What the source is called in the log, in status and in metrics.",
    )
    dns: Annotated[
        ServerAddress | None, AfterValidator(lambda one: one and looked_up(one)), Kind("NAME:PORT")
    ] = Field(
        default=None,
        description="All addresses of the name (A and AAAA) are servers, at this port.",
    )
    srv: Annotated[str | None, AfterValidator(lambda one: one and _service(one)), Kind("name")] = Field(
        default=None,
        description="A name with SRV records: their targets are servers, by port and weight; those that "
        "don't have the lowest priority are backups.",
    )
    file: FilePath | None = Field(
        default=None, description="A file that lists servers, and is read again when it changes."
    )
    docker: Annotated[
        str | None, BeforeValidator(_engine), Kind("unix:PATH", written=lambda path: f'"unix:{path}"')
    ] = Field(default=None, description="The Docker Engine's socket: containers with labels are servers.")
    http: Annotated[str | None, AfterValidator(lambda one: one and _url(one)), Kind("URL", metavar="URL")] = (
        Field(
            default=None, description="A JSON document that lists servers, and is asked for again and again."
        )
    )
    function: Annotated[
        str | None, AfterValidator(lambda one: one and _function(one)), Kind("MODULE:FUNCTION")
    ] = Field(
        default=None, description="A function on Python's path, which gives the servers."
    )
    port: int | None = Field(
        default=None, ge=1, le=65535, description="Of servers for which the source names none."
    )
    interval: Annotated[
        Seconds | None, Default("the answer's TTL with dns and srv; file 1, docker 60, else 10")
    ] = Field(default=None, description="Time between two looks.")
    timeout: Seconds = Field(default=5.0, description="For an answer.")
    most: int = Field(
        default=100, ge=1, le=1000, validation_alias="max", description="Servers; more are left out."
    )
    allow_local: bool = Field(
        default=False, description="Take loopback and link-local addresses, too; otherwise they are refused."
    )
    on_empty: Annotated[
        Literal["keep", "remove"] | None, Default('"keep" with dns and srv, else "remove"')
    ] = Field(default=None, description="What becomes of the servers when an answer has none.")
    hold: SecondsOrZero = Field(
        default=0.0,
        description="How long a server stays that answers no longer have; for DNS that answers with a few of "
        "many.",
    )
    family: Literal["any", "ipv4", "ipv6"] = Field(
        default="any", description="Which addresses are asked for."
    )
    resolvers: Annotated[tuple[Resolver, ...] | None, ONE_OR_MORE, Default("those of /etc/resolv.conf")] = (
        Field(default=None, min_length=1, max_length=8, description="The name servers.")
    )
    search: Annotated[tuple[HostName, ...] | None, ONE_OR_MORE, Default("those of /etc/resolv.conf")] = Field(
        default=None, max_length=16, description="Domains in which names without a dot at the end are tried."
    )
    label: str = Field(
        default="pylb",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="What labels begin with: pylb.backend, pylb.port, pylb.weight.",
    )
    network: Annotated[str | None, Default("the container's first by name")] = Field(
        default=None, description="Docker's network in which servers are reached."
    )
    ca: Annotated[FilePath | None, Default("the system's")] = Field(
        default=None, description="PEM file of the CAs that may issue the certificate of an https URL."
    )
    token_file: FilePath | None = Field(
        default=None, description="File with the token that the URL is asked with (Authorization: Bearer)."
    )

    @property
    def kind(self) -> str:
        """The source: one of `KINDS`."""
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    @property
    def asks(self) -> str:
        """What it asks, for people and to know it again."""
        return f"{self.kind} {getattr(self, self.kind)}"

    @property
    def seconds(self) -> float | None:
        """Between two looks; None where answers have a TTL."""
        if self.interval is not None or self.kind in ("dns", "srv"):
            return self.interval
        return _INTERVALS.get(self.kind, _INTERVAL)

    @property
    def keeps(self) -> bool:
        """Whether its servers stay when an answer has none."""
        return (self.on_empty or ("keep" if self.kind in ("dns", "srv") else "remove")) == "keep"

    @model_validator(mode="after")
    def _one_source(self) -> DiscoveryKeys:
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            said = f"got {' and '.join(given)}" if given else "none is there"
            raise ValueError(f"expected one of {', '.join(KINDS)} ({said})")
        for key in self.misplaced():
            raise ValueError(f"{key} goes with {' and '.join(_ONLY_WITH[key])}, not with {given[0]}")
        return self

    def misplaced(self) -> Iterator[str]:
        """Keys that mean nothing to this source."""
        for key, kinds in _ONLY_WITH.items():
            if key in self.model_fields_set and self.kind not in kinds:
                yield key
