"""The view: what a rule sees of a request. Each thing is worked out when the first rule asks for it.

One view serves a frontend's requests one after the other (`begin`); who needs it for longer takes a new one.
It reads a `RequestHead` and a few facts of the connection (`Known`), so the worker fills it from a
transaction, and ``explain`` from a command line.

Names of fields have one spelling for ``-`` and ``_``, as CGI and WSGI servers take them for the same. What a
client has sent several times has several values.

Floor: above `normal`, below templates and matchers.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from functools import cache
from typing import Protocol
from urllib.parse import unquote_to_bytes

from pylb.http.fields import CLIENT_FIELDS
from pylb.http.request import RequestHead
from pylb.rules import normal

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_FOLD = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ_", b"abcdefghijklmnopqrstuvwxyz-")


class Known(Protocol):
    """The facts of a client's connection; the worker's `Client` has them."""

    @property
    def source(self) -> tuple[str, int] | None:
        """The peer's address and port, of a trusted PROXY header where there is one."""

    @property
    def bind(self) -> str:
        """The bound address that it came by."""

    @property
    def protocol(self) -> str:
        """``HTTP/2``, or ``HTTP/1``."""

    @property
    def tls(self) -> dict[str, bytes]:
        """``authority``: the server name that its TLS handshake asked for."""

    @property
    def alpn(self) -> Sequence[bytes]:
        """The protocol that TLS agreed on; of TLS that passes through, those that the client offers."""

    @property
    def tls_version(self) -> str:
        """``TLSv1.3``; empty without TLS."""

    @property
    def subject(self) -> bytes:
        """The subject of its verified certificate."""


_MOST_PROXIES = 32
"""Addresses of ``X-Forwarded-For`` that are looked at, from the right; no request passes so many proxies."""


class View:
    """A request, as rules see it.

    Args:
        trusted: networks of proxies whose ``X-Forwarded-For`` is believed.
        tls: whether the frontend ends TLS.
        lenient: whether ambiguous paths are read by the most lenient reading in place of being refused.
    """

    __slots__ = (
        *("_trusted", "_lenient", "tls", "head", "known", "groups", "server", "backend"),
        *("_target", "_path", "_host", "_folded", "_client", "_cookies", "_arguments"),
    )

    def __init__(self, trusted: Sequence[Network] = (), tls: bool = False, lenient: bool = False) -> None:
        self._trusted = trusted
        self._lenient = lenient
        self.tls = tls
        # Set by `begin`.
        self.head: RequestHead = None  # type: ignore[assignment]
        self.known: Known = None  # type: ignore[assignment]
        self._target: bytes | None = None
        self._path: bytes | None = None
        self._host: bytes | None = None
        self._folded: bytes | None = None
        self._client: bytes | None = None
        self._cookies: dict[bytes, list[bytes]] | None = None
        self._arguments: dict[bytes, list[bytes]] | None = None
        self.groups: dict[str, bytes] = {}
        """What the groups of the regexes that have matched have found, by name and by number."""
        self.server = b""
        """The server that was picked, where one was."""
        self.backend = b""

    def begin(self, head: RequestHead, known: Known) -> None:
        """Look at another request."""
        self.head = head
        self.known = known
        self._target = self._path = self._host = self._folded = self._client = None
        self._cookies = self._arguments = None
        if self.groups:
            self.groups = {}

    # The request line

    @property
    def method(self) -> bytes:
        return self.head.method

    @property
    def target(self) -> bytes:
        """Path and query as the client wrote them."""
        target = self._target
        if target is None:
            target = self._target = self.head.target
        return target

    @property
    def raw_path(self) -> bytes:
        return self.target.partition(b"?")[0]

    @property
    def query(self) -> bytes:
        """What stands behind the question mark, as it was written."""
        return self.target.partition(b"?")[2]

    @property
    def path(self) -> bytes:
        """The normalised path; raises `normal.Ambiguous`."""
        path = self._path
        if path is None:
            usual = normal.USUAL(self.head.raw)
            if usual is not None:
                path = usual[1]
            elif self._lenient:
                path = normal.lenient(self.raw_path)
            else:
                path = normal.path(self.raw_path)
            self._path = path
        return path

    @property
    def some_path(self) -> bytes:
        """The normalised path; of an ambiguous one, the most lenient reading."""
        try:
            return self.path
        except normal.Ambiguous:
            return normal.lenient(self.raw_path)

    def arguments(self, name: bytes) -> list[bytes]:
        """The values of a parameter of the query, decoded."""
        arguments = self._arguments
        if arguments is None:
            arguments = self._arguments = {}
            for pair in self.query.split(b"&"):
                key, _, value = pair.partition(b"=")
                if pair:
                    arguments.setdefault(_decoded(key), []).append(_decoded(value))
        return arguments.get(name, [])

    # The fields

    @property
    def host(self) -> bytes:
        """In lower case, without port and trailing dot."""
        host = self._host
        if host is None:
            host = self._host = normal.host(self.head.host)
        return host

    def fields(self, name: bytes) -> list[bytes]:
        """The values of all fields of a name, which is as `field_name` makes it.

        Of a client that is no trusted proxy, forwarding fields are as good as not sent.
        """
        name = name.replace(b"_", b"-")
        if name in CLIENT_FIELDS and not self.head.trusted:
            return []
        raw = self.head.raw
        folded = self._folded
        if folded is None:
            folded = self._folded = raw.translate(_FOLD)
        line = b"\n" + name + b":"
        begin = folded.find(line)
        found = []
        while begin >= 0:
            begin += len(line)
            found.append(raw[begin : raw.index(b"\r", begin)].strip(b"\t "))
            begin = folded.find(line, begin)
        return found

    def field(self, name: bytes) -> bytes | None:
        """The first of them."""
        values = self.fields(name)
        return values[0] if values else None

    def cookies(self, name: bytes) -> list[bytes]:
        """The values of a cookie (RFC 6265 §4.2.1), without quotes around them."""
        cookies = self._cookies
        if cookies is None:
            cookies = self._cookies = {}
            for field in self.fields(b"cookie"):
                for pair in field.split(b";"):
                    key, equals, value = pair.partition(b"=")
                    value = value.strip(b"\t ")
                    if value[:1] == b'"' and value[-1:] == b'"' and len(value) > 1:
                        value = value[1:-1]
                    if equals:
                        cookies.setdefault(key.strip(b"\t "), []).append(value)
        return cookies.get(name, [])

    def cookie(self, name: bytes) -> bytes | None:
        """The first of them."""
        values = self.cookies(name)
        return values[0] if values else None

    def argument(self, name: bytes) -> bytes | None:
        """The first value of a parameter of the query."""
        values = self.arguments(name)
        return values[0] if values else None

    @property
    def request_id(self) -> bytes:
        """As the server gets it; a new one where it gets none."""
        return self.head.request_id

    # The connection

    @property
    def peer(self) -> bytes:
        """The address that the connection comes from; empty for a unix socket."""
        source = self.known.source
        return b"" if source is None else source[0].encode()

    @property
    def client(self) -> bytes:
        """The rightmost address that is not one of a trusted proxy, of the peer's and ``X-Forwarded-For``."""
        client = self._client
        if client is None:
            client = self.peer
            if self.head.trusted and self._trusted:
                chain = b",".join(self.fields(b"x-forwarded-for")).split(b",")
                for said in chain[: -_MOST_PROXIES - 1 : -1]:
                    if not self._trusts(client):
                        break
                    address = address_of(_without_port(said.strip(b"\t ")))
                    if address is None:
                        break  # what stands left of it was written by nobody that is known
                    client = written(address)
            self._client = client
        return client

    def _trusts(self, client: bytes) -> bool:
        address = address_of(client)
        if address is None:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._trusted)

    @property
    def port(self) -> int:
        """Of the bind that it came by; 0 for a unix socket."""
        return _port(self.known.bind)

    @property
    def scheme(self) -> bytes:
        return b"https" if self.tls else b"http"

    @property
    def sni(self) -> bytes:
        """The server name that the client's TLS asked for, in lower case."""
        return self.known.tls.get("authority", b"").lower().rstrip(b".")

    @property
    def alpn(self) -> Sequence[bytes]:
        """The protocol that TLS agreed on; of TLS that passes through, those that the client offers."""
        return self.known.alpn

    @property
    def subject(self) -> bytes:
        """The subject of the client's verified certificate, ``CN=x,O=y``."""
        return self.known.subject

    @property
    def tls_version(self) -> str:
        """``1.3``; empty without TLS."""
        return self.known.tls_version.removeprefix("TLSv")

    @property
    def protocol(self) -> str:
        """``h2``, ``http/1.1`` or ``http/1.0``."""
        if self.known.protocol == "HTTP/2":
            return "h2"
        return "http/1.1" if self.head.http11 else "http/1.0"


def field_name(text: str) -> bytes:
    """The name of a field as `View.fields` is asked for it; ``X_Y`` is a spelling of ``x-y``."""
    return text.lower().replace("_", "-").encode()


def _decoded(text: bytes) -> bytes:
    return unquote_to_bytes(text.replace(b"+", b" ")) if b"%" in text or b"+" in text else text


@cache
def _port(bind: str) -> int:
    port = bind.rpartition(":")[2]
    return int(port) if port.isdigit() else 0


def _without_port(text: bytes) -> bytes:
    """An address of ``X-Forwarded-For``, some of which come with a port."""
    if text[:1] == b"[":
        return text[1:].partition(b"]")[0]
    return text.partition(b":")[0] if text.count(b":") == 1 else text


def address_of(text: bytes) -> Address | None:
    """An address, without its zone; None for what is none."""
    try:
        return ipaddress.ip_address(text.partition(b"%")[0].decode("ascii", "replace"))
    except ValueError:
        return None


def written(address: Address) -> bytes:
    """An address as text; IPv4 in IPv6 as ``::ffff:192.0.2.1`` (RFC 5952 §5)."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return b"::ffff:" + str(address.ipv4_mapped).encode()
    return str(address).encode()
