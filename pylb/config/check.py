"""The section ``[backend.check]``: whether, and how, the servers of a backend are checked.

Below `backend`, which names it. What becomes of it, `checked` says.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from pylb.config.accesslog import Statuses
from pylb.config.declaration import Default, Kind
from pylb.config.section import Section
from pylb.config.values import ONE_OR_MORE, HostName, Seconds

CheckType = Literal["tcp", "tls", "http", "grpc", "agent", "postgresql", "mysql", "redis", "smtp"]
"""Those in `pylb.health.protocols`."""

_HTTP = ("http",)
_FOR: dict[str, tuple[str, ...]] = {
    "path": _HTTP,
    "method": _HTTP,
    "headers": _HTTP,
    "status": _HTTP,
    "body": _HTTP,
    "body_regex": _HTTP,
    "host": ("http", "grpc", "smtp"),
    "service": ("grpc",),
    "user": ("postgresql", "mysql"),
    "send": ("agent",),
}
"""The types for which a key means something; the others are for all."""


class Check(Section):
    """How it is found out whether a server works; may be written as ``true``, or as ``path`` alone."""

    short: ClassVar[str] = "path"

    type: Annotated[
        CheckType | None,
        Default('`"http"` with a key of it; else `"tls"` where the backend has tls; `"tcp"`'),
    ] = Field(default=None, description="What is spoken; see below.")
    path: Annotated[str, Kind("path of a URL")] = Field(
        default="/",
        pattern=r"^/[!-~]*$",
        description="By http: what is asked for. Redirects aren't followed.",
    )
    host: Annotated[HostName | None, Default("the server's address")] = Field(
        default=None, description="By http and grpc: the host that is asked for; by smtp: the name in EHLO."
    )
    method: str = Field(default="GET", pattern=r"^[A-Z]{1,20}$", description="By http: how it is asked for.")
    headers: Annotated[dict[str, str], Kind("table of name = text")] = Field(
        default_factory=dict, description="By http: further fields."
    )
    status: Annotated[tuple[Statuses, ...], ONE_OR_MORE, Default('`"200-399"`')] = Field(
        default=(range(200, 400),), min_length=1, description="By http: the response must have one of these."
    )
    body: str = Field(default="", description="By http: a text that its body must have in it.")
    body_regex: str = Field(
        default="", description="By http: a regular expression that must be found in the body."
    )
    service: str = Field(
        default="", description="By grpc: the service whose state is asked for; empty: the server's."
    )
    user: Annotated[str, Default("postgresql: `pylb`; mysql: nobody")] = Field(
        default="",
        pattern=r"^[!-~]{0,32}$",
        description="By postgresql and mysql: who logs in, without a password.",
    )
    send: str = Field(default="", description="By agent: what is sent before its line is read.")
    interval: Seconds = Field(default=2.0, description="From the beginning of a check to the next one's.")
    fast_interval: Annotated[Seconds | None, Default("interval")] = Field(
        default=None, description="The same, while checks are contrary to the state."
    )
    down_interval: Annotated[Seconds | None, Default("interval")] = Field(
        default=None, description="The same, while the server is down."
    )
    jitter: float = Field(
        default=10.0,
        ge=0,
        le=50,
        allow_inf_nan=False,
        description="Percent by which an interval is longer or shorter, so that checks don't come together.",
    )
    timeout: Seconds = Field(default=2.0, description="For a whole check, however the server answers.")
    rise: int = Field(default=2, ge=1, le=1000, description="Passed in a row that take a server in again.")
    fall: int = Field(default=3, ge=1, le=1000, description="Failed in a row that take it out.")
    port: Annotated[int | None, Default("the server's")] = Field(
        default=None, ge=1, le=65535, description="Where checks connect to."
    )
    tls: Annotated[bool | None, Default("as the backend; with a port of its own `false`")] = Field(
        default=None, description="Whether checks speak TLS, as the backend's tls says."
    )
    send_proxy: Annotated[bool | None, Default("as the backend; with a port of its own `false`")] = Field(
        default=None, description="Whether they begin with the PROXY header that the backend sends."
    )
    init: Literal["up", "down", "check"] = Field(
        default="check",
        description="Before its first check a server is used; is not; or is where no other one is up.",
    )

    @model_validator(mode="before")
    @classmethod
    def _written_true(cls, value: Any) -> Any:
        return {} if value is True else value

    @property
    def spoken(self) -> CheckType | None:
        """The type, where the section says it; None: it is up to the backend."""
        if self.type is not None:
            return self.type
        return "http" if any(_FOR.get(key) == _HTTP for key in self.model_fields_set) else None

    @model_validator(mode="after")
    def _fits_type(self) -> Check:
        spoken = self.spoken or "tcp"
        for key in sorted(self.model_fields_set):
            types = _FOR.get(key)
            if types is not None and spoken not in types:
                fix = " or ".join(f'type = "{one}"' for one in types)
                raise ValueError(f'{key} needs {fix}; this check is "{spoken}"')
        if self.method == "HEAD" and (self.body or self.body_regex):
            raise ValueError('a response to HEAD has no body; use method = "GET"')
        if self.tls is False and spoken == "tls":
            raise ValueError('tls = false and type = "tls" contradict each other; leave one out')
        _refuse_headers(self.headers)
        return self


_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")  # RFC 9110 §5.6.2


def _refuse_headers(headers: dict[str, str]) -> None:
    """Raise ValueError for fields that would make another request, or none."""
    for name, value in headers.items():
        if not name or not set(name.lower()) <= _TOKEN:
            raise ValueError(f"headers: {name!r} is no name of a field")
        if name.lower() in ("connection", "content-length", "transfer-encoding"):
            raise ValueError(f"headers: {name} is pylb's own; leave it out")
        if not value.isascii() or not value.isprintable():
            raise ValueError(f"headers: the value of {name} has other characters than printable ASCII")


def _no_check(value: Any) -> Any:
    return None if value is False else value


CheckOrNone = Annotated[Check | None, BeforeValidator(_no_check)]
"""A backend's check; ``false`` is none, as if the key weren't there."""
