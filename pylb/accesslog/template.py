"""Formats of the access log as templates: literal text and variables (pure).

``{name}`` is a variable, ``{{`` and ``}}`` are braces. The formats with names (``haproxy``, ``combined``,
``json``, and those of TCP mode) are made of the same parts as a template that a user writes.

Floor: pure; the configuration checks templates with it, and the worker knows the values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

from pylb.accesslog import escape


class Kind(Enum):
    """What a variable's value is, and so how it is escaped and what stands for none."""

    LINE = "line"
    """Bytes of a client's or server's, of a request line's length."""
    FIELD = "field"
    """The same, of a field's length."""
    NAME = "name"
    """Text of the configuration or of pylb's own."""
    NUMBER = "number"
    PLAIN = "plain"
    """Text that needs no escaping in any format, and is never missing."""


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable of a template."""

    name: str
    """``status``; of a family without its argument, with its dot: ``header.``."""
    argument: str = ""
    """Of ``header.user-agent``: ``user-agent``."""


Parts = tuple[str | Variable, ...]


@dataclass(frozen=True)
class Style:
    """How values are written in a format, and what stands for one that there is not."""

    line: escape.Escape
    field: escape.Escape
    name: escape.Escape
    nothing: dict[Kind, str]
    plain_line: re.Pattern[bytes]
    """A request line that needs no escaping; up to its CR, which it doesn't match."""
    escaped: str
    """The characters of visible ASCII that are escaped."""
    quotes: bool = False
    """Whether texts get quotes from their escaping, so that those without it need some."""


@dataclass(frozen=True)
class Format:
    """A whole line, without its end."""

    parts: Parts
    style: Style


VARIABLES: dict[str, tuple[Kind, str]] = {
    "client.ip": (Kind.NAME, "The client; behind trusted_proxies the one that these name."),
    "client.peer": (Kind.FIELD, "Who has connected: the client, or a proxy."),
    "client.port": (Kind.NUMBER, "Its port; 0 where it was named by a proxy."),
    "frontend.name": (Kind.NAME, ""),
    "backend.name": (Kind.NAME, ""),
    "server.name": (Kind.NAME, "The server that was tried last."),
    "server.address": (Kind.NAME, ""),
    "date": (Kind.PLAIN, "When the request began: `30/Nov/2026:19:24:16.123`, local time."),
    "date.common": (Kind.PLAIN, "The same as `30/Nov/2026:19:24:16 +0000`."),
    "date.iso": (Kind.PLAIN, "The same as `2026-11-30T19:24:16.123Z`, UTC."),
    "request": (Kind.LINE, "The request line."),
    "method": (Kind.FIELD, ""),
    "uri": (Kind.LINE, "Path and query as the client wrote them."),
    "raw_path": (Kind.LINE, "The same without the query."),
    "query": (Kind.LINE, "What stands behind the question mark."),
    "path": (Kind.LINE, "The path that rules compare, normalised."),
    "path.": (Kind.FIELD, "A segment of it: `{path.1}` is the first."),
    "argument.": (Kind.FIELD, "A parameter of the query."),
    "host": (Kind.FIELD, "The Host field, or the host that the target names."),
    "scheme": (Kind.FIELD, "`http` or `https`."),
    "port": (Kind.FIELD, "The port that it came by."),
    "request.id": (Kind.FIELD, "`X-Request-ID`, as the server gets it."),
    "protocol": (Kind.PLAIN, "`HTTP/1.0`, `HTTP/1.1`, `HTTP/2.0` or `TCP`."),
    "header.": (Kind.FIELD, "A field of the request: `{header.user-agent}`."),
    "cookie.": (Kind.FIELD, "A cookie of the request."),
    "response_header.": (Kind.FIELD, "A field of the response."),
    "status": (Kind.NUMBER, ""),
    "bytes.out": (Kind.NUMBER, "Bytes to the client, with the head."),
    "bytes.body": (Kind.NUMBER, "The same without the head."),
    "bytes.in": (Kind.NUMBER, "Bytes of the request's body."),
    "termination": (Kind.PLAIN, "Two characters of HAProxy's termination state."),
    "reason": (Kind.NAME, "Why it has ended, in words, if not by a whole response."),
    "retries": (Kind.NUMBER, "How often it was sent once more."),
    "time.request": (Kind.NUMBER, "Milliseconds until the head was whole (TR)."),
    "time.queue": (Kind.NUMBER, "Milliseconds that it waited (Tw)."),
    "time.connect": (Kind.NUMBER, "Milliseconds until a server was connected to (Tc)."),
    "time.response": (Kind.NUMBER, "Milliseconds until the server's head came (Tr)."),
    "time.total": (Kind.NUMBER, "Milliseconds from the first byte to the last (Ta)."),
    "connections.all": (Kind.NUMBER, "Client connections now."),
    "connections.frontend": (Kind.NUMBER, "Those of this frontend, in this worker."),
    "connections.backend": (Kind.NUMBER, "Requests at this backend's servers now."),
    "connections.server": (Kind.NUMBER, "Those at this server."),
    "tls.version": (Kind.NAME, "`1.3`."),
    "tls.cipher": (Kind.NAME, ""),
    "tls.sni": (Kind.FIELD, "The server name that the client asked for."),
    "tls.subject": (Kind.FIELD, "The subject of its certificate."),
}
"""What a template may name: its kind, and what it is. Those that end with a dot have an argument."""

INNER = frozenset({"(server)", "(timers)", "(retries)", "(queues)"})
"""What HAProxy's formats have beside those: values as HAProxy joins or marks them."""

_MARKS = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_SEGMENT = re.compile(r"[1-9][0-9]?")
_ARGUMENT = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


def parse(text: str) -> Parts:
    """The parts of a template; raises ValueError where it is none."""
    parts: list[str | Variable] = []
    literal = ""
    end = 0
    if not text.isprintable():
        raise ValueError("a template is one line without control characters")
    for match in _MARKS.finditer(text):
        literal += text[end : match.start()]
        end = match.end()
        mark = match[0]
        if mark in ("{{", "}}"):
            literal += mark[0]
        elif match[1] is None:
            raise ValueError(f"{mark!r} alone in a template; write {mark * 2!r} for a brace")
        else:
            if literal:
                parts.append(literal)
            literal = ""
            parts.append(variable(match[1]))
    literal += text[end:]
    return (*parts, literal) if literal else tuple(parts)


def variable(name: str) -> Variable:
    """The variable of a name; raises ValueError where there is none."""
    if name in VARIABLES and not name.endswith("."):
        return Variable(name)
    family, dot, argument = name.partition(".")
    if family + dot in VARIABLES and (_SEGMENT if family == "path" else _ARGUMENT).fullmatch(argument):
        return Variable(family + dot, argument)
    known = ", ".join(f"{one}NAME" if one.endswith(".") else one for one in VARIABLES)
    raise ValueError(f"no variable {name!r}; there are {known}")


_HAPROXY = Style(
    *(escape.haproxy_line, escape.haproxy_field, escape.haproxy_name),
    {Kind.LINE: "<BADREQ>", Kind.FIELD: "", Kind.NAME: "-", Kind.NUMBER: "-1"},
    re.compile(rb"[ !$-~]{0,%d}(?=\r)" % escape.LINE),
    '"#',
)
_QUOTED = Style(
    *(escape.quoted_line, escape.quoted_field, escape.quoted_field, dict.fromkeys(Kind, "-")),
    re.compile(rb"[ !#-\[\]-~]{0,%d}(?=\r)" % escape.LINE),
    '"\\',
)
_JSON = Style(
    *(escape.json_line, escape.json_field, escape.json_field, dict.fromkeys(Kind, "null")),
    re.compile(rb"(?!)"),  # each has quotes
    '"\\',
    quotes=True,
)

# In an order in which those that depend on one thing are next to each other.
_CLIENT = ("client.ip", "client.port")
_PLACE = ("frontend.name", "backend.name", "server.name")
_CONNECTIONS = tuple(name for name in VARIABLES if name.startswith("connections."))
_REQUEST = ("method", "host", "uri", "protocol")
_HTTP_END = (
    *("status", "bytes.in", "bytes.out", "time.request", "time.queue", "time.connect", "time.response"),
    *("time.total", "termination", "reason", "retries"),
)
_TCP_END = (
    *("bytes.in", "bytes.out", "time.queue", "time.connect", "time.total", "termination", "reason"),
    "retries",
)
_HAPROXY_CONNECTIONS = "/".join(f"{{{name}}}" for name in _CONNECTIONS) + "/"


def _joined(*parts: str | Variable) -> Parts:
    """Parts, of which texts are templates."""
    found: list[str | Variable] = []
    for part in parts:
        found += parse(part) if isinstance(part, str) else (part,)
    return tuple(found)


def _captured(family: str, names: Sequence[str]) -> Parts:
    return _joined(" {{" + "|".join(f"{{{family}.{name}}}" for name in names) + "}}") if names else ()


def haproxy(request: Sequence[str] = (), response: Sequence[str] = ()) -> Format:
    """HAProxy's ``httplog`` (configuration manual, §8.2.3), with these captured fields."""
    parts = (
        *_haproxy_begin(),
        Variable("(timers)"),
        *_joined(" {status} {bytes.out} - - {termination}-- " + _HAPROXY_CONNECTIONS),
        *(Variable("(retries)"), " ", Variable("(queues)")),
        *_captured("header", request),
        *_captured("response_header", response),
        *_joined(' "{request}"'),
    )
    return Format(parts, _HAPROXY)


def tcplog() -> Format:
    """HAProxy's ``tcplog`` (§8.2.2)."""
    end = "{time.queue}/{time.connect}/{time.total} {bytes.out} {termination} " + _HAPROXY_CONNECTIONS
    end_ = (*_joined(end), Variable("(retries)"), " ", Variable("(queues)"))
    return Format((*_haproxy_begin(), *end_), _HAPROXY)


def _haproxy_begin() -> Parts:
    begin = "{client.ip}:{client.port} [{date}] {frontend.name} "
    return _joined(begin, Variable("(server)"), " ")


def combined() -> Format:
    """Apache's and nginx's ``combined``. The user is never told: it would be read from Authorization.

    nginx has 499 for a client that left before it was answered; a status is what parsers want.
    """
    return Format(
        parse(
            '{client.ip} - - [{date.common}] "{request}" {status} {bytes.body} '
            '"{header.referer}" "{header.user-agent}"'
        ),
        replace(_QUOTED, nothing=_QUOTED.nothing | {Kind.NUMBER: "499"}),
    )


def as_json(tcp: bool, request: Sequence[str] = (), response: Sequence[str] = ()) -> Format:
    """An object per line; captured fields are objects in it."""
    members = ['"time":{date.iso}', *_members(_CLIENT), *_members(_PLACE + _CONNECTIONS)]
    members += _members(_TCP_END) if tcp else _members(_REQUEST)
    members += _object("request_headers", "header", request)
    if not tcp:
        members += _members(_HTTP_END)
    members += _object("response_headers", "response_header", response)
    return Format(_joined("{{" + ",".join(members) + "}}"), _JSON)


def _members(names: Sequence[str]) -> list[str]:
    return [f'"{name.replace(".", "_").removesuffix("_name")}":{{{name}}}' for name in names]


def _object(key: str, family: str, names: Sequence[str]) -> list[str]:
    if not names:
        return []
    inner = ",".join(f"{json.dumps(name.lower())}:{{{family}.{name}}}" for name in names)
    return [f'"{key}":{{{{{inner}}}}}']


def custom(text: str) -> Format:
    """A user's template, whose values are escaped as those of `combined`."""
    return Format(parse(text), _QUOTED)
