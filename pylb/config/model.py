"""The configuration as a typed model, in HAProxy's words.

Parsing (TOML, the quick form) lives in `load.py`; this module only says what may be written and what
the defaults are. All durations are seconds (floats); a string such as ``"500ms"``, ``"30s"``, ``"2m"``
is accepted. All sizes are bytes; ``"16KiB"`` is accepted. Unknown keys are errors.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from controller.address import parse as parse_controller
from controller.sources.quota import possible_cores
from pylb.config.address import Address, is_host_name, loopback, parse_address, refuse_in_path

_DURATION = re.compile(r"^(\d{1,15}(?:\.\d{1,15})?)(ms|s|m|h)$", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_SIZE = re.compile(r"^(\d{1,15})(B|KiB|MiB|GiB)$", re.ASCII)
_BYTES = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}


def _duration(value: Any) -> Any:
    if isinstance(value, str):
        match = _DURATION.match(value.strip())
        if match is None:
            raise ValueError('expected seconds or a duration such as "500ms", "30s", "2m" or "1h"')
        return float(match[1]) * _SECONDS[match[2]]
    return value


def _size(value: Any) -> Any:
    if isinstance(value, str):
        match = _SIZE.match(value.strip())
        if match is None:
            raise ValueError('expected bytes or a size such as "16KiB" or "1MiB"')
        return int(match[1]) * _BYTES[match[2]]
    return value


def _address(value: Any) -> Any:
    return parse_address(value) if isinstance(value, str) else value


def _listenable(address: Address) -> Address:
    """Our IPv6 sockets take IPv6 only, so that ``*:80`` and ``[::]:80`` can be two binds."""
    try:
        mapped = ipaddress.IPv6Address(address.host).ipv4_mapped
    except ValueError:
        return address
    if mapped is not None:
        raise ValueError(f"{address} is an IPv4 address; write {mapped}:{address.port}")
    return address


def _path(value: str) -> str:
    if not value:
        raise ValueError("expected a path")
    refuse_in_path(value)
    return value


# Bounds so far away that nobody means what lies beyond, and near enough for every number that is made of
# them.
_LONGEST = 1e9  # seconds: 31 years
_HEAD_MOST = 1 << 30  # bytes; HTTP/2 announces it as a 32-bit number

Seconds = Annotated[float, BeforeValidator(_duration), Field(gt=0, le=_LONGEST, allow_inf_nan=False)]
SecondsOrZero = Annotated[float, BeforeValidator(_duration), Field(ge=0, le=_LONGEST, allow_inf_nan=False)]
Size = Annotated[int, BeforeValidator(_size), Field(gt=0, le=_HEAD_MOST)]
SizeOrZero = Annotated[int, BeforeValidator(_size), Field(ge=0, le=1 << 60)]
FilePath = Annotated[str, AfterValidator(_path)]
BindField = Annotated[Address, BeforeValidator(_address), AfterValidator(_listenable)]
AddressField = Annotated[Address, BeforeValidator(_address)]


def _is_number(wanted: Any) -> bool:
    return wanted in (int, float) or any(_is_number(part) for part in get_args(wanted))


class Section(BaseModel):
    """A table of the file: unknown keys are mistakes, values can't be changed later."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        # For Python, and so for pydantic, true is 1.
        if isinstance(value, bool) and _is_number(cls.model_fields[info.field_name or ""].annotation):
            raise ValueError("expected a number")
        return value


class Timeouts(Section):
    """How long pylb waits, each in seconds."""

    connect: Seconds = 5.0  # for a server to accept
    request: Seconds = 10.0  # for a complete request head (408)
    client: Seconds = 60.0  # inactivity while a request body is read or a response is written
    keep_alive: Seconds = 60.0  # for the next request on an idle client connection
    server: Seconds = 60.0  # inactivity while waiting for, or reading, a response (504)
    tunnel: Seconds = 3600.0  # inactivity of an upgraded connection, or of one in TCP mode
    server_idle: Seconds = 30.0  # how long an unused server connection stays in the pool


class Limits(Section):
    """Sizes that a client or server may not exceed."""

    header_bytes: Size = 16 * 1024  # a whole head: 431 for requests, 502 for responses
    line_bytes: Size = 8 * 1024  # request line: 414
    header_count: int = Field(default=100, gt=0, le=100_000)
    body_bytes: SizeOrZero = 0  # a request's body: 413; 0 for no limit
    pipelined_bytes: Size = 64 * 1024  # requests read ahead while one is under way; then reading stops
    body_rate: SizeOrZero = 0  # bytes per second below which a request's body is cut off (408)
    connections: int = Field(default=0, ge=0, le=1 << 40)  # of clients, over all workers; 0: no limit
    connection_age: SecondsOrZero = 0  # from which a client is asked to connect anew; 0 for never


class Workers(Section):
    """How many worker processes may run."""

    min: int = Field(default=1, ge=1, le=256)
    max: int = Field(default_factory=possible_cores, ge=1, le=256)
    watchdog: Seconds = 10.0  # a process that shows no life for so long is killed and replaced

    @model_validator(mode="after")
    def _ordered(self) -> Workers:
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) is greater than max ({self.max})")
        return self


class Drain(Section):
    """How workers leave."""

    timeout: Seconds = 30.0  # at a stop: after that, what still runs is closed
    spread: Seconds = 2.0  # connections that nobody takes over are closed spread over this time
    announce: SecondsOrZero = 0  # at a stop: health paths answer 503 for so long before clients are refused
    linger: SecondsOrZero = 0  # how long a worker that scaling or reload replaced may serve on; 0 is no bound
    generations: int = Field(default=10, ge=1, le=100)  # replaced ones that may linger; the oldest is closed


class Controller(Section):
    """Where the controller listens; without an address pylb runs it embedded."""

    address: str | None = None  # unix:PATH, tcp:HOST:PORT, vsock:CID:PORT or serial:PATH
    name: str = Field(default="pylb", min_length=1, max_length=128)
    weight: float = Field(default=1.0, gt=0, le=1000)
    token_file: FilePath | None = None
    tls_ca: FilePath | None = None
    tls_cert: FilePath | None = None
    tls_key: FilePath | None = None

    @field_validator("address")
    @classmethod
    def _readable(cls, value: str | None) -> str | None:
        if value is not None:
            refuse_in_path(value)
            parse_controller(value)
        return value

    @model_validator(mode="after")
    def _whole(self) -> Controller:
        if (self.tls_cert is None) != (self.tls_key is None) or (self.tls_cert and not self.tls_ca):
            raise ValueError("tls_cert and tls_key belong together, and need tls_ca")
        return self


class Log(Section):
    """What is written to standard error."""

    format: Literal["console", "json"] = "console"
    level: Literal["debug", "info", "warning", "error"] = "info"


class Tls(Section):
    """TLS towards clients."""

    certificates: FilePath  # a .pem with certificate and key, or a folder of them (or of .crt + .key)
    min_version: Literal["1.2", "1.3"] = "1.2"
    ciphers: str | None = None  # OpenSSL's notation, for TLS 1.2; default: forward secrecy with AEAD only
    alpn: tuple[Literal["h2", "http/1.1"], ...] = ("h2", "http/1.1")
    client_certificate: Literal["none", "optional", "required"] = "none"
    client_ca: FilePath | None = None  # PEM file of who may issue client certificates
    hsts: SecondsOrZero = 0  # of Strict-Transport-Security; 0 for none

    @model_validator(mode="after")
    def _has_ca(self) -> Tls:
        if self.client_certificate != "none" and self.client_ca is None:
            raise ValueError(f"client_certificate is {self.client_certificate!r}, so client_ca must be set")
        return self


class ServerTls(Section):
    """TLS towards servers."""

    verify: bool = True
    ca: FilePath | None = None  # PEM file; default: the system's
    name: str | None = None  # expected in the certificate and sent as SNI; default: the server's host
    certificate: FilePath | None = None  # PEM file with which pylb identifies itself
    key: FilePath | None = None

    @field_validator("name")
    @classmethod
    def _host_name(cls, value: str | None) -> str | None:
        if value is not None and not is_host_name(value):
            try:
                ipaddress.ip_address(value)
            except ValueError:
                raise ValueError("expected a host name or an IP address") from None
        return value

    @model_validator(mode="after")
    def _whole(self) -> ServerTls:
        if self.key is not None and self.certificate is None:
            raise ValueError("key needs certificate")
        return self


class Server(Section):
    """One server of a backend."""

    name: str = ""
    address: AddressField
    weight: int = Field(default=1, ge=0, le=256)

    @field_validator("address")
    @classmethod
    def _has_port(cls, value: Address) -> Address:
        if not value.is_unix and value.port == 0:
            raise ValueError("a server's port is a number from 1 to 65535")
        return value


class Backend(Section):
    """A group of servers that answer the same requests."""

    name: str
    balance: str = "leastconn"
    servers: tuple[Server, ...] = Field(min_length=1)
    retries: int = Field(default=3, ge=0, le=16)  # connection attempts after the first
    tls: ServerTls | None = None
    http2: bool = False  # speak HTTP/2 to the servers (with tls: by ALPN; without: by prior knowledge)
    send_proxy: Literal["off", "v1", "v2"] = "off"  # PROXY protocol; each connection then has one client
    send_proxy_tlvs: tuple[Literal["alpn", "authority"], ...] = ()  # of the client's TLS, with v2

    @field_validator("balance")
    @classmethod
    def _known(cls, value: str) -> str:
        from pylb.balance import ALGORITHMS

        if value not in ALGORITHMS:
            raise ValueError(f"unknown algorithm {value!r}; allowed: {', '.join(sorted(ALGORITHMS))}")
        return value

    @field_validator("servers")
    @classmethod
    def _named(cls, servers: tuple[Server, ...]) -> tuple[Server, ...]:
        named = tuple(
            server if server.name else server.model_copy(update={"name": f"s{index}"})
            for index, server in enumerate(servers, 1)
        )
        names = [server.name for server in named]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two servers are named {name!r}")
        return named


class Health(Section):
    """A path that pylb answers itself, for whoever asks whether this balancer serves."""

    path: str = Field(pattern=r"^/[!-~]*$")


class Frontend(Section):
    """Where clients connect, and the backend that answers them."""

    name: str
    bind: tuple[BindField, ...] = Field(min_length=1)
    backend: str
    mode: Literal["http", "tcp"] = "http"
    tls: Tls | None = None
    redirect_to_https: bool = False  # answer every request with a 308 to https
    trusted_proxies: tuple[str, ...] = ()  # networks whose X-Forwarded-* and PROXY headers are believed
    accept_proxy: bool = False  # trusted_proxies begin each connection with a PROXY header
    forwarded: bool = False  # send Forwarded (RFC 7239) too
    request_id: bool = False  # send X-Request-ID where the client gave none
    body_bytes: SizeOrZero | None = None  # instead of limits.body_bytes
    health: Health | None = None
    sni: dict[str, str] = Field(default_factory=dict)  # tcp: TLS server name (or *.name) to backend

    @field_validator("sni")
    @classmethod
    def _server_names(cls, value: dict[str, str]) -> dict[str, str]:
        lower: dict[str, str] = {}
        for name, backend in value.items():
            plain = name.removeprefix("*.")
            if not (plain.isascii() and is_host_name(plain)):
                raise ValueError(
                    f"{name!r} is no name that a client asks for (one with umlauts begins with xn--)"
                )
            if name.lower() in lower:
                raise ValueError(f"{name!r} is listed twice")
            lower[name.lower()] = backend  # names have no case (RFC 6066 §3)
        return lower

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                raise ValueError(f"{error}; expected a network such as 10.0.0.0/8 or ::1") from None
        return value

    @model_validator(mode="after")
    def _fits_mode(self) -> Frontend:
        if self.mode == "http" and self.sni:
            raise ValueError('sni is for mode = "tcp"')
        if self.mode == "tcp" and (
            self.redirect_to_https or self.forwarded or self.request_id or self.health is not None
        ):
            raise ValueError('redirect_to_https, forwarded, request_id and health need mode = "http"')
        if self.tls is not None and self.redirect_to_https:
            raise ValueError("redirect_to_https is for a frontend without tls")
        if self.tls is not None and self.sni:
            raise ValueError("sni passes TLS through; with tls it is ended here")
        if self.accept_proxy and not self.trusted_proxies:
            raise ValueError("accept_proxy needs trusted_proxies")
        return self


class Config(Section):
    """The whole configuration; that its sections fit together is checked in `load.py`."""

    frontends: tuple[Frontend, ...] = Field(min_length=1)
    backends: tuple[Backend, ...] = Field(min_length=1)
    workers: Workers = Field(default_factory=Workers)
    timeouts: Timeouts = Field(default_factory=Timeouts)
    limits: Limits = Field(default_factory=Limits)
    drain: Drain = Field(default_factory=Drain)
    controller: Controller = Field(default_factory=Controller)
    log: Log = Field(default_factory=Log)
    admin: BindField | None = None  # default: a unix socket under the run-time directory
    admin_token_file: FilePath | None = None  # whose token an admin address on TCP asks for
    user: str | None = None  # whom workers and control plane run as, when root starts pylb
    group: str | None = None  # default: the user's
    backlog: int = Field(default=4096, ge=1, le=1_000_000)

    @model_validator(mode="after")
    def _admin_guarded(self) -> Config:
        if self.admin is not None and not loopback(self.admin) and self.admin_token_file is None:
            raise ValueError(
                f"admin: {self.admin} can be reached from elsewhere, so admin_token_file must be set; "
                "or use a unix socket or 127.0.0.1"
            )
        return self


ServerKey = tuple[str, str, str]
"""Backend, server, address: what a server's figures in the scoreboard belong to."""


def server_keys(config: Config) -> list[ServerKey]:
    """The keys of all servers."""
    return [
        (backend.name, server.name, str(server.address))
        for backend in config.backends
        for server in backend.servers
    ]
