"""The section ``[log.access]``, and ``access_log`` of a frontend, which has the same keys."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from pylb.accesslog import template
from pylb.accesslog.statuses import statuses
from pylb.accesslog.syslog import FACILITIES
from pylb.config.address import parse_address, refuse_in_path
from pylb.config.declaration import Default, Kind
from pylb.config.section import Section
from pylb.config.values import ONE_OR_MORE, Seconds

_SYSLOG = "syslog:"


def _destination(value: str) -> str:
    if value.startswith(_SYSLOG):
        address = parse_address(value.removeprefix(_SYSLOG))
        if not address.is_unix and address.port == 0:
            raise ValueError("the port of a syslog server is a number from 1 to 65535")
    elif not value:
        raise ValueError('expected "stdout", a path, or "syslog:" with an address')
    else:
        refuse_in_path(value)
    return value


def _format(value: str) -> str:
    if value in ("haproxy", "combined", "json"):
        return value
    if "{" not in value:
        raise ValueError(
            'expected "haproxy", "combined", "json" or a template such as "{client.ip} {status}"'
        )
    template.parse(value)
    return value


def _statuses(value: Any) -> Any:
    if isinstance(value, int | str) and not isinstance(value, bool):
        return statuses(value)
    raise ValueError('expected a status such as 404, "5xx" or "400-499"')


def _header_name(value: str) -> str:
    template.variable(f"header.{value}")
    return value


HeaderName = Annotated[str, AfterValidator(_header_name), Kind("name of a field", "names of fields")]
Statuses = Annotated[
    range,
    BeforeValidator(_statuses),
    Kind('status, `"5xx"` or `"400-499"`', 'statuses, `"5xx"`, `"400-499"`'),
]


class LogCondition(Section):
    """Which requests are logged: those for which all of its keys hold."""

    status: Annotated[tuple[Statuses, ...], ONE_OR_MORE] = Field(
        default=(), description="The response has one of these."
    )
    slower: Seconds | None = Field(default=None, description="It has taken longer than this, to its end.")
    failed: bool | None = Field(
        default=None, description="Whether it has ended otherwise than by a server's, or a rule's, response."
    )


class AccessLog(Section):
    """A line for each request, or for each connection in TCP mode."""

    short: ClassVar[str] = "to"

    enabled: bool = Field(
        default=True, description="Whether anything is logged; `access_log = false` in a frontend is this."
    )
    to: Annotated[str, AfterValidator(_destination), Kind("destination", "destinations")] = Field(
        default="stdout",
        description='Where: `"stdout"`, a path, `"syslog:HOST:PORT"` or `"syslog:unix:PATH"`.',
    )
    format: Annotated[
        str, AfterValidator(_format), Kind('`"haproxy"`, `"combined"`, `"json"` or a template')
    ] = Field(default="haproxy", description="How a line is written; see below.")
    sample: float = Field(
        default=1.0, gt=0, le=1, allow_inf_nan=False, description="The share of lines that is written."
    )
    when: Annotated[tuple[LogCondition, ...], ONE_OR_MORE, Default("all")] = Field(
        default=(), description="Which requests are logged; those that fit one of several tables."
    )
    without_request: bool = Field(
        default=False,
        description="Whether connections are logged, too, that end before a byte of a request has come, or "
        "in their TLS handshake (HAProxy's without `dontlognull`).",
    )
    request_headers: tuple[HeaderName, ...] = Field(
        default=(), max_length=32, description="Fields of requests that `haproxy` and `json` have, too."
    )
    response_headers: tuple[HeaderName, ...] = Field(
        default=(), max_length=32, description="Likewise of responses."
    )
    syslog: Literal["rfc5424", "rfc3164"] = Field(
        default="rfc5424", description="How syslog's messages begin; `/dev/log` mostly takes rfc3164."
    )
    facility: str = Field(
        default="local0", pattern=f"^({'|'.join(FACILITIES)})$", description="Syslog's facility."
    )
    tag: str = Field(
        default="pylb", pattern=r"^[!-9;-~]{1,32}$", description="The program's name for syslog."
    )

    @model_validator(mode="before")
    @classmethod
    def _switched_off(cls, value: Any) -> Any:
        return {"enabled": value} if isinstance(value, bool) else value


def in_force(general: AccessLog | None, own: AccessLog | None) -> AccessLog | None:
    """What holds for a frontend: its own keys, and for the others those of ``[log.access]``."""
    if own is None:
        found = general
    elif general is None:
        found = own
    else:
        found = general.model_copy(update={name: getattr(own, name) for name in own.model_fields_set})
        if own.model_fields_set and "enabled" not in own.model_fields_set:
            found = found.model_copy(update={"enabled": True})
    return found if found is not None and found.enabled else None


def misfit(log: AccessLog, mode: str) -> str:
    """Why a frontend of a mode can't be logged so; empty where it can."""
    if mode == "tcp" and log.format == "combined":
        return 'format = "combined" needs mode = "http"; set another one in the frontend\'s access_log'
    if (log.request_headers or log.response_headers) and log.format not in ("haproxy", "json"):
        return (
            "request_headers and response_headers are for the formats haproxy and json; "
            "a template names them as {header.NAME}"
        )
    if mode == "tcp" and (log.request_headers or log.response_headers):
        return 'request_headers and response_headers need mode = "http"'
    return ""


def format_of(log: AccessLog, mode: str) -> template.Format:
    """The format of a frontend's lines."""
    if log.format == "haproxy":
        return (
            template.tcplog()
            if mode == "tcp"
            else template.haproxy(log.request_headers, log.response_headers)
        )
    if log.format == "json":
        return template.as_json(mode == "tcp", log.request_headers, log.response_headers)
    return template.combined() if log.format == "combined" else template.custom(log.format)
