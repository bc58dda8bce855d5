"""What the variables of an access log are of a transaction: one function for each.

Timers are those of HAProxy's log (configuration manual, §8.4), in milliseconds; None where that moment has
not come. A variable's name, kind and words for users are in `pylb.accesslog.template`.

Floor: phases.
"""

from __future__ import annotations

import ipaddress
import re
import time
from collections.abc import Callable
from typing import Any

from pylb.accesslog.client import Network, client_behind
from pylb.accesslog.dates import Dates
from pylb.accesslog.escape import Escape
from pylb.accesslog.template import INNER, VARIABLES, Format, Kind, Style, Variable
from pylb.config.model import Frontend as FrontendConfig
from pylb.worker.backend import Backend, Server
from pylb.worker.core import Core
from pylb.worker.reasons import Reason
from pylb.worker.transaction import Transaction

Get = Callable[[Transaction], Any]
"""Gives bytes, text or a number, by its variable's kind; None where there is none."""

_MS = 1_000_000  # nanoseconds
_BEFORE_CONNECTED = frozenset("RQC")


def line(format_: Format, config: FrontendConfig, core: Core) -> Callable[[Transaction], str]:
    """A function that writes a transaction as a line, with its end."""
    fields = Fields(config, core, format_.style)
    text = ""
    getters: list[Get] = []
    for part in format_.parts:
        if isinstance(part, str):
            text += part.replace("%", "%%")
        elif part == Variable("frontend.name"):  # the same for all of them
            text += str(fields.written(part)(None)).replace("%", "%%")  # type: ignore[arg-type]
        else:
            text += "%s"
            getters.append(fields.written(part))
    text += "\n"
    some = tuple(getters)
    return lambda tx: text % tuple([get(tx) for get in some])


class Fields:
    """The variables for one frontend, written in one style."""

    def __init__(self, config: FrontendConfig, core: Core, style: Style) -> None:
        self._core = core
        self._style = style
        self._tcp = config.mode == "tcp"
        self._frontend = config.name
        self._binds = frozenset(str(address) for address in config.bind)
        self._trusted: list[Network] = [ipaddress.ip_network(one) for one in config.trusted_proxies]
        self._dates = Dates()
        self._offset_at = -1.0
        self._offset = 0
        self._counts_at = -1.0
        self._counts: dict[object, tuple[int, int]] = {}
        self._of_frontend = (-10.0, 0)
        self._names: dict[str, str] = {}

    def written(self, part: Variable) -> Get:
        """A function that gives a variable as it is written, escaped; a number may stay one."""
        style = self._style
        if part.name in INNER:
            inner: dict[str, Get] = {
                "(client)": self._client,
                "(server)": self._server,
                "(timers)": _timers,
                "(tcp timers)": _tcp_timers,
                "(connections)": self._connections,
            }
            return inner[part.name]
        kind, _ = VARIABLES[part.name]
        get = self.raw(part)
        nothing = style.nothing[kind]
        if kind is Kind.NUMBER:
            if part.name in _ALWAYS:
                return get
            return lambda tx: nothing if (value := get(tx)) is None else value
        if kind is Kind.NAME:
            if part.name.startswith("date") and not style.quotes:
                return get
            return lambda tx: nothing if not (value := get(tx)) else self._name(value)
        escape = style.line if kind is Kind.LINE else style.field
        if part.name == "request":
            return _same_head(get, escape, nothing)
        return lambda tx: nothing if (value := get(tx)) is None else escape(value)

    def raw(self, part: Variable) -> Get:
        """A function that gives a variable as it is."""
        family = _FAMILIES.get(part.name)
        if family is not None:
            return family(part.argument)
        own: dict[str, Get] = {
            "client.ip": self._client_ip,
            "client.port": self._client_port,
            "frontend.name": lambda tx: self._frontend,
            "date": lambda tx: self._dates.haproxy(self._began(tx)),
            "date.common": lambda tx: self._dates.common(self._began(tx)),
            "date.iso": lambda tx: self._dates.iso(self._began(tx)),
            "connections.all": lambda tx: self._clients()[0],
            "connections.frontend": lambda tx: self._clients()[1],
            "connections.backend": lambda tx: self._requests(tx)[0],
            "connections.server": lambda tx: self._requests(tx)[1],
            "bytes.out": _tunnel_bytes if self._tcp else _bytes_out,
        }
        return own.get(part.name) or _PLAIN[part.name]

    def _name(self, name: str) -> str:
        """A name of the configuration, escaped; there are few of them."""
        known = self._names.get(name)
        if known is None:
            if len(self._names) > 10_000:
                self._names.clear()  # clients' addresses are names, too
            known = self._names[name] = self._style.name(name.encode("utf-8", "backslashreplace"))
        return known

    # Who

    def _client_ip(self, tx: Transaction) -> str | None:
        source = tx.client.source
        if source is None:
            return "unix"
        if self._trusted and tx.head is not None:
            peer = source[0].partition("%")[0]
            if self._trusts(peer):
                return client_behind(source[0], tx.head.raw, self._trusted)
        return source[0]

    def _client_port(self, tx: Transaction) -> int:
        source = tx.client.source
        if source is None or self._trusted and self._client_ip(tx) != source[0]:
            return 0
        return source[1]

    def _client(self, tx: Transaction) -> str:
        label = tx.client.label
        if label:
            return label
        label = f"{self._client_ip(tx)}:{self._client_port(tx)}"
        if not self._trusted:  # else it may be another one for each request
            tx.client.label = label
        return label

    def _trusts(self, peer: str) -> bool:
        address: ipaddress.IPv4Address | ipaddress.IPv6Address
        address = ipaddress.ip_address(peer)
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._trusted)

    def _server(self, tx: Transaction) -> str:
        """Backend and server, as HAProxy: without a backend the frontend's name, without a server <NOSRV>."""
        server = tx.server
        if server is not None:
            return f"{self._name(server.backend)}/{self._name(server.name)}"
        return f"{self._name(self._frontend if tx.local else tx.backend.name)}/<NOSRV>"

    # When

    def _began(self, tx: Transaction) -> int:
        """The request's first byte, in nanoseconds since 1970."""
        core = self._core
        if core.now != self._offset_at:
            self._offset_at = core.now
            self._offset = time.time_ns() - time.monotonic_ns()
        return (tx.first_byte_ns or tx.began_ns) + self._offset

    # How many; all are a tenth of a second old at most

    def _connections(self, tx: Transaction) -> str:
        backend, server = self._requests(tx)
        every, own = self._clients()
        sent = "+" if tx.tried and tx.retries else ""
        return f"{every}/{own}/{backend}/{server}/{sent}{tx.retries}"

    def _now(self) -> dict[object, tuple[int, int]]:
        if self._counts_at != self._core.now:
            self._counts_at = self._core.now
            self._counts.clear()
        return self._counts

    def _clients(self) -> tuple[int, int]:
        """Client connections of all workers, and those of this frontend in this worker."""
        counts = self._now()
        known = counts.get(None)
        if known is None:
            core = self._core
            if core.now - self._of_frontend[0] >= 1.0:
                binds = self._binds
                own = sum(client.facts.bind in binds for client in core.clients if client.facts is not None)
                self._of_frontend = (core.now, own)
            known = counts[None] = (len(core.clients) + core.held_by_others, self._of_frontend[1])
        return known

    def _requests(self, tx: Transaction) -> tuple[int, int]:
        """Requests at the backend's servers, and at this one, over all workers."""
        counts = self._now()
        server = tx.server
        key: Backend | Server = tx.backend if server is None else server
        known = counts.get(key)
        if known is None:
            every = 0 if tx.local else sum(sum(one.active) for one in tx.backend.servers)
            known = counts[key] = (every, 0 if server is None else sum(server.active))
        return known


# Times


def _total(tx: Transaction) -> int:
    return (tx.ended_ns - (tx.first_byte_ns or tx.began_ns)) // _MS


def _until_head(tx: Transaction) -> int | None:
    if tx.head is None:
        return None
    return (tx.began_ns - tx.first_byte_ns) // _MS if tx.first_byte_ns else 0


def _queued(tx: Transaction) -> int | None:
    if tx.server is None:
        return None
    return (tx.asked_ns - tx.began_ns) // _MS if tx.asked_ns else 0


def _connected(tx: Transaction) -> int | None:
    if tx.server is None or tx.state in _BEFORE_CONNECTED:
        return None
    return (tx.connected_ns - tx.asked_ns) // _MS if tx.connected_ns else 0


def _responded(tx: Transaction) -> int | None:
    if tx.own or not tx.answered_ns or tx.server is None:
        return None
    return (tx.answered_ns - (tx.connected_ns or tx.asked_ns or tx.began_ns)) // _MS


def _timers(tx: Transaction) -> str:
    if tx.reason is None and not (tx.asked_ns or tx.first_byte_ns or tx.connected_ns):  # the usual
        began = tx.began_ns
        return f"0/0/0/{(tx.answered_ns - began) // _MS}/{(tx.ended_ns - began) // _MS}"
    steps = [get(tx) for get in (_until_head, _queued, _connected, _responded)]
    return "/".join("-1" if step is None else str(step) for step in steps) + f"/{_total(tx)}"


def _tcp_timers(tx: Transaction) -> str:
    steps = [get(tx) for get in (_queued, _connected)]
    return "/".join("-1" if step is None else str(step) for step in steps) + f"/{_total(tx)}"


# How it went


def _status(tx: Transaction) -> int | None:
    return tx.response.status if tx.response is not None else None


def _bytes_out(tx: Transaction) -> int:
    response = tx.response
    return tx.bytes_out + len(response.out) if response is not None else tx.bytes_out


def _tunnel_bytes(tx: Transaction) -> int:
    return tx.bytes_out


def _termination(tx: Transaction) -> str:
    reason = tx.reason
    return "--" if reason is None else reason.letter + tx.state


def _reason(tx: Transaction) -> str | None:
    reason = tx.reason
    return None if reason is None or reason is Reason.ANSWERED else reason.text


# What was asked for


def _request(tx: Transaction) -> bytes | None:
    head = tx.head
    if head is None:
        return None
    raw = head.raw
    if tx.client.protocol == "HTTP/2":
        return raw[: raw.index(b"\r") - 3] + b"2.0"  # its head was written as HTTP/1.1's
    return raw[: raw.index(b"\r")]


def _same_head(get: Get, escape: Escape, nothing: str) -> Get:
    """The request line; clients mostly repeat a head, which is then the same object."""
    known: tuple[object, str] = (None, "")

    def written(tx: Transaction) -> str:
        nonlocal known
        head = tx.head
        if head is None:
            return nothing
        raw, text = known
        if head.raw is not raw or tx.client.protocol != "HTTP/1":
            text = escape(get(tx))
            known = (head.raw, text) if tx.client.protocol == "HTTP/1" else (None, "")
        return text

    return written


def _method(tx: Transaction) -> bytes | None:
    return tx.head.method if tx.head is not None else None


def _uri(tx: Transaction) -> bytes | None:
    if tx.head is None:
        return None
    words = tx.head.raw.split(b" ", 2)
    return words[1] if len(words) == 3 else None


def _path(tx: Transaction) -> bytes | None:
    return tx.head.target.partition(b"?")[0] if tx.head is not None else None


def _query(tx: Transaction) -> bytes | None:
    return tx.head.target.partition(b"?")[2] or None if tx.head is not None else None


def _host(tx: Transaction) -> bytes | None:
    return tx.head.host if tx.head is not None else None


def _protocol(tx: Transaction) -> str:
    spoken = tx.client.protocol
    if spoken != "HTTP/1":
        return "HTTP/2.0" if spoken == "HTTP/2" else spoken
    return "HTTP/1.1" if tx.head is None or tx.head.http11 else "HTTP/1.0"


def _finder(name: str) -> Callable[[bytes], bytes | None]:
    """A function that gives a field's first value of a head, without white space around it."""
    find = re.compile(rb"\n" + re.escape(name.encode()) + rb":[ \t]*([^\r]*)", re.IGNORECASE).search

    def field(raw: bytes) -> bytes | None:
        match = find(raw)
        return match[1].rstrip(b" \t") if match is not None else None

    return field


def _header(name: str) -> Get:
    field = _finder(name)
    known: tuple[object, bytes | None] = (None, None)

    def get(tx: Transaction) -> bytes | None:
        nonlocal known
        if tx.head is None:
            return None
        raw = tx.head.raw
        if raw is not known[0]:
            known = (raw, field(raw))
        return known[1]

    return get


def _response_header(name: str) -> Get:
    field = _finder(name)
    return lambda tx: field(tx.response.out) if tx.response is not None else None


def _cookie(name: str) -> Get:
    field = _finder("cookie")
    wanted = name.encode()

    def get(tx: Transaction) -> bytes | None:
        for pair in (field(tx.head.raw) or b"").split(b";") if tx.head is not None else ():
            key, equals, value = pair.strip(b" \t").partition(b"=")
            if equals and key == wanted:
                return value
        return None

    return get


_FAMILIES: dict[str, Callable[[str], Get]] = {
    "header.": _header,
    "response_header.": _response_header,
    "cookie.": _cookie,
}
_PLAIN: dict[str, Get] = {
    "backend.name": lambda tx: None if tx.local else tx.backend.name,
    "server.name": lambda tx: tx.server.name if tx.server is not None else None,
    "server.address": lambda tx: str(tx.server.address) if tx.server is not None else None,
    "request": _request,
    "method": _method,
    "uri": _uri,
    "path": _path,
    "query": _query,
    "host": _host,
    "protocol": _protocol,
    "status": _status,
    "bytes.body": _tunnel_bytes,
    "bytes.in": lambda tx: tx.bytes_in,
    "termination": _termination,
    "reason": _reason,
    "retries": lambda tx: tx.retries,
    "time.request": _until_head,
    "time.queue": _queued,
    "time.connect": _connected,
    "time.response": _responded,
    "time.total": _total,
    "tls.version": lambda tx: tx.client.encryption[0],
    "tls.cipher": lambda tx: tx.client.encryption[1],
    "tls.sni": lambda tx: tx.client.tls.get("authority") or None,
    "tls.subject": lambda tx: tx.client.subject or None,
}
_ALWAYS = frozenset(
    {"client.port", "bytes.out", "bytes.body", "bytes.in", "retries", "time.total"}
    | {name for name in VARIABLES if name.startswith("connections.")}
)
"""Numbers that there always are."""
