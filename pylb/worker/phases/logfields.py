"""What the variables of an access log are of a transaction: one function for each (`logline` joins them).

A variable's name, kind and words for users are in `pylb.accesslog.template`.

Floor: phases.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable

from pylb.accesslog import escape
from pylb.accesslog.template import INNER, VARIABLES, Kind, Style, Variable
from pylb.config.model import Frontend as FrontendConfig
from pylb.rules.template import getter
from pylb.rules.view import View
from pylb.worker.backend import Backend
from pylb.worker.core import Core
from pylb.worker.phases.loginline import LOWERED, Get, Inline, Memo
from pylb.worker.phases.logtimes import DATES, NUMBERS, TIMERS, TOTAL, date, number
from pylb.worker.reasons import Reason
from pylb.worker.transaction import Transaction


class Fields:
    """The variables for one frontend, written in one style."""

    def __init__(self, config: FrontendConfig, core: Core, style: Style) -> None:
        self._core = core
        self._style = style
        self._tcp = config.mode == "tcp"
        self._frontend = config.name
        self._binds = frozenset(str(address) for address in config.bind)
        self._tls = config.tls is not None
        self._trusted = [ipaddress.ip_network(one) for one in config.trusted_proxies]
        self._view = View(self._trusted) if self._trusted else None
        self.many_clients = self._view is not None
        """Whether one connection's requests may come from several clients."""
        self._of_frontend = (-10.0, 0)
        self._of_backends: dict[Backend, tuple[float, int]] = {}

    def written(self, part: Variable) -> Get:
        """A function that gives a variable as it is written, escaped; a number may stay one."""
        style = self._style
        if part.name in INNER:
            inner: dict[str, Get] = {"(server)": self._server, "(timers)": TIMERS, "(retries)": _RETRIES}
            inner["(queues)"] = _QUEUES
            return inner[part.name]
        kind, _ = VARIABLES[part.name]
        nothing = style.nothing.get(kind, "")
        if part.name in NUMBERS:
            return number(part.name, nothing)
        get = self.raw(part)
        if kind is Kind.NUMBER:
            return get
        if part.name == "request":
            return _request_line(style.plain_line, lambda tx: style.line(_request(tx)), nothing)
        if kind is Kind.PLAIN:
            return _quoted(get) if style.quotes else get
        if part.name == "reason":
            return Inline("written(tx)", repr(nothing), written=lambda tx: self._text(_reason(tx), nothing))
        if kind is Kind.NAME:
            return lambda tx: self._text(get(tx), nothing)
        escape = style.line if kind is Kind.LINE else style.field
        return lambda tx: nothing if (value := get(tx)) is None else escape(value)

    def of_head(self, part: Variable) -> Get:
        """The same as `written`, for a transaction that has a head; Inline where that is less."""
        style = self._style
        nothing = style.nothing.get(VARIABLES[part.name][0], "")
        if part.name == "method":
            get = style.field(b"GET")
            return Inline(
                f"{get!r} if tx.head.method == b'GET' else methods[tx.head.method]",
                methods=Memo(style.field, nothing),
            )
        if part.name == "host":
            return Inline("hosts[tx.head.host]", hosts=Memo(style.field, nothing))
        if part.name == "protocol":
            return Inline(
                "http11 if tx.client.protocol == 'HTTP/1' and tx.head.http11 else written(tx)",
                http11='"HTTP/1.1"' if style.quotes else "HTTP/1.1",
                written=self.written(part),
            )
        if part.name == "uri":
            return _target(style, self.written(part))
        if part.name == "header.":
            found = _written_field(part.argument, style.field, nothing)
            return Inline(f"field(tx.head.raw, {LOWERED})", field=found)
        return self.written(part)

    def raw(self, part: Variable) -> Get:
        """A function that gives a variable as it is."""
        family = _FAMILIES.get(part.name)
        if family is not None:
            return family(part.argument)
        own: dict[str, Get] = {
            "client.ip": self._client_ip,
            "client.port": self._client_port,
            "frontend.name": lambda tx: self._frontend,
            "connections.all": lambda tx: self._clients()[0],
            "connections.frontend": lambda tx: self._clients()[1],
            "connections.backend": self._at_backend,
            "connections.server": _at_server,
            "bytes.out": _TUNNEL_BYTES if self._tcp else _BYTES_OUT,
            "bytes.body": _TUNNEL_BYTES if self._tcp else Inline("tx.bytes_out"),
        }
        if part.name in _OF_RULES:
            return self._of_rules(part)
        if part.name in DATES:
            return date(self._core, part.name)
        return own.get(part.name) or _PLAIN[part.name]

    def _name(self, name: str) -> str:
        return self._style.name(name.encode("utf-8", "backslashreplace"))

    def _text(self, name: str | None, nothing: str) -> str:
        return self._name(name) if name else nothing

    def _of_rules(self, part: Variable) -> Get:
        """A variable that is the same as the rules' one."""
        value = getter(part.name + part.argument, {})
        view = View(self._trusted, self._tls)

        def get(tx: Transaction) -> bytes | None:
            if tx.head is None:
                return None
            view.begin(tx.head, tx.client)
            return value(view)

        return get

    # Who

    def _client_ip(self, tx: Transaction) -> str:
        """The same as the rules' ``client.ip``."""
        source = tx.client.source
        if source is None:
            return "unix"
        view = self._view
        if view is None or tx.head is None:
            return source[0]
        view.begin(tx.head, tx.client)
        return view.client.decode()

    def _client_port(self, tx: Transaction) -> int:
        source = tx.client.source
        if source is None or self._view is not None and self._client_ip(tx) != source[0]:
            return 0
        return source[1]

    def _server(self, tx: Transaction) -> str:
        """Backend and server, as HAProxy: without a backend the frontend's name, without a server <NOSRV>."""
        server = tx.server
        if server is not None:
            return f"{self._name(server.backend)}/{self._name(server.name)}"
        return f"{self._name(self._frontend if tx.local else tx.backend.name)}/<NOSRV>"

    # How many

    def _clients(self) -> tuple[int, int]:
        """Client connections of all workers, and those of this frontend in this worker.

        The one that is told of counts, though it may be closed by now. The latter are counted once a second.
        """
        core = self._core
        if core.now - self._of_frontend[0] >= 1.0:
            binds = self._binds
            own = sum(client.facts.bind in binds for client in core.clients if client.facts is not None)
            self._of_frontend = (core.now, max(1, own))
        own = self._of_frontend[1]
        return max(own, len(core.clients) + core.held_by_others), own

    def _at_backend(self, tx: Transaction) -> int:
        """Requests at the backend's servers, over all workers; counted once a tick, as there may be many."""
        if tx.local:
            return 0
        backend, now = tx.backend, self._core.now
        known = self._of_backends.get(backend)
        if known is None or known[0] != now:
            known = self._of_backends[backend] = (now, sum(sum(server.active) for server in backend.servers))
        return known[1]


def _at_server(tx: Transaction) -> int:
    return 0 if tx.server is None else sum(tx.server.active)


# How it went


_BYTES_OUT = Inline(
    "tx.bytes_out + (len(tx.response.out) if tx.response is not None else 0)",
    "tx.bytes_out + len(tx.response.out)",
)
_TUNNEL_BYTES = Inline("0 if tx.own else tx.bytes_out")  # no response can be said in TCP mode
_TERMINATION = Inline("'--' if tx.reason is None else tx.reason.letter + tx.state", "'--'")


_RETRIES = Inline("'+' * bool(tx.retries) + str(tx.retries) if tx.tried else tx.retries", "0")
"""With a plus where another server was tried, as HAProxy."""


_QUEUES = Inline("f'{tx.srv_queue}/{tx.backend_queue}'", "'0/0'")
"""How many waited before it: for the server, for the backend."""


def _reason(tx: Transaction) -> str | None:
    reason = tx.reason
    return None if reason is None or reason is Reason.ANSWERED else reason.text


# What was asked for


def _request(tx: Transaction) -> bytes:
    assert tx.head is not None
    raw = tx.head.raw
    if tx.client.protocol == "HTTP/2":
        return raw[: raw.index(b"\r") - 3] + b"2.0"  # its head was written as HTTP/1.1's
    return raw[: raw.index(b"\r")]


def _request_line(plain: re.Pattern[bytes], escaped: Get, nothing: str) -> Get:
    """The request line. Most need no escaping, and many are those of the head before."""
    known = b""
    text = ""
    match = plain.match

    def get(tx: Transaction) -> str:
        nonlocal known, text
        head = tx.head
        if head is None:
            return nothing
        if tx.client.protocol != "HTTP/1":
            return escaped(tx)  # type: ignore[no-any-return]
        raw = head.raw
        if raw is not known:
            line = match(raw)
            text = escaped(tx) if line is None else line[0].decode("ascii")
            known = raw
        return text

    return get


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
    mark = b"\n" + name.lower().encode() + b":"

    def field(raw: bytes) -> bytes | None:
        at = raw.lower().find(mark)
        if at < 0:
            return None
        at += len(mark)
        return raw[at : raw.index(b"\r", at)].strip(b" \t")

    return field


def _written_field(name: str, escape: Callable[[bytes], str], nothing: str) -> Callable[[bytes, bytes], str]:
    """A function of a head and of the same in small letters; the last value is mostly the next one, too."""
    mark = b"\n" + name.lower().encode() + b":"
    length = len(mark)
    known: bytes | None = None
    text = ""

    def field(raw: bytes, lowered: bytes) -> str:
        nonlocal known, text
        at = lowered.find(mark)
        if at < 0:
            return nothing
        line = raw[at + length : raw.index(b"\r", at + length)]
        if line != known:
            text = escape(line.strip(b" \t"))
            known = line
        return text

    return field


def _target(style: Style, written: Get) -> Get:
    """The target as the client wrote it, of a head."""
    plain = """f'"{uri}"'""" if style.quotes else "uri"
    # A head's target has no character that can't be seen.
    safe = " and ".join(f"{character!r} not in uri" for character in style.escaped)
    source = (
        f"{plain} if (uri := tx.head.raw.split(b' ', 2)[1].decode('latin-1')).isascii() "
        f"and {safe} and len(uri) <= {escape.LINE} else written(tx)"
    )
    return Inline(source, written=written)


def _quoted(get: Get) -> Get:
    if isinstance(get, Inline):
        constant = get.usual[:1] == "'"
        usual = f"'\"' {get.usual} '\"'" if constant else f"'\"' + ({get.usual}) + '\"'"
        return Inline(f"'\"' + ({get.source}) + '\"'", usual, **get.names)
    return lambda tx: f'"{get(tx)}"'


def _header(name: str) -> Get:
    field = _finder(name)
    return lambda tx: field(tx.head.raw) if tx.head is not None else None


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


_OF_RULES = frozenset({"client.peer", "path", "path.", "argument.", "scheme", "port", "request.id"})
_FAMILIES: dict[str, Callable[[str], Get]] = {
    "header.": _header,
    "response_header.": _response_header,
    "cookie.": _cookie,
}
_PLAIN: dict[str, Get] = {
    "backend.name": lambda tx: None if tx.local else tx.backend.name,
    "server.name": lambda tx: tx.server.name if tx.server is not None else None,
    "server.address": lambda tx: str(tx.server.address) if tx.server is not None else None,
    "request": lambda tx: _request(tx) if tx.head is not None else None,
    "method": _method,
    "uri": _uri,
    "raw_path": _path,
    "query": _query,
    "host": _host,
    "protocol": _protocol,
    "bytes.in": Inline("tx.bytes_in"),
    "termination": _TERMINATION,
    "reason": _reason,
    "retries": Inline("tx.retries", "0"),
    "time.total": TOTAL,
    "tls.version": lambda tx: tx.client.tls_version.removeprefix("TLSv"),
    "tls.cipher": lambda tx: tx.client.tls_cipher,
    "tls.sni": lambda tx: tx.client.tls.get("authority") or None,
    "tls.subject": lambda tx: tx.client.subject or None,
}
