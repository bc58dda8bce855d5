"""What a client's requests get on their way to a server: who asks, by which way, and which request it is.

Pure, and below `request.py`, which prints heads with it. `Sends` is a frontend's, `Added` a connection's.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from functools import lru_cache

from pylb.http.errors import Refused
from pylb.http.requestfields import CONTINUED, OF_THE_CLIENT, TRACED, value_of
from pylb.http.requestline import same_host

_ADDRESS = re.compile(
    rb"\[?([0-9A-Fa-f]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f.]*)(?:\]:[0-9]+|\])?|([0-9.]+)(?::[0-9]+)?"
)
"""One of ``X-Forwarded-For``, some of which come with a port."""
USUAL_NAMES = frozenset({b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"})


class Sends:
    """Which fields a frontend's requests get.

    Args:
        names: in lower case; of `CLIENT_FIELDS` ``X-Real-IP``, ``Forwarded`` (RFC 7239), and of
            ``X-Forwarded-`` for, host, port, proto and ssl.
        via: whether ``Via`` is one of them (RFC 9110 §7.6.3).
        request_id: what is done about ``X-Request-ID``: *pass* it, *add* one where there is none, *replace*
            or *remove* it. What a trusted proxy has sent isn't replaced.
        traceparent: the same for ``traceparent`` and ``tracestate`` (W3C Trace Context).
    """

    __slots__ = ("names", "via", "request_id", "traceparent", "_kept")

    def __init__(
        self,
        names: frozenset[bytes] = USUAL_NAMES,
        via: bool = False,
        request_id: str = "pass",
        traceparent: str = "pass",
    ) -> None:
        self.names = names
        self.via = via
        self.request_id = request_id
        self.traceparent = traceparent
        self._kept = self._keeps(False), self._keeps(True)

    def kept(self, trusted: bool) -> frozenset[bytes]:
        """The fields that stay as a peer has sent them, who is trusted or not."""
        return self._kept[trusted]

    def _keeps(self, trusted: bool) -> frozenset[bytes]:
        kept: set[bytes] = set()
        if trusted:
            kept |= OF_THE_CLIENT | (CONTINUED - self.names)
        for mode, names in ((self.request_id, TRACED[:1]), (self.traceparent, TRACED[1:])):
            if mode in ("pass", "add") or (mode == "replace" and trusted):
                kept.update(names)
        return frozenset(kept)


USUAL = Sends()


def identity() -> bytes:
    """A new request's, for ``X-Request-ID``."""
    return uuid.uuid4().hex.encode()


def trace() -> bytes:
    """A new ``traceparent``: version, trace, parent, and that it may be recorded."""
    return b"00-%b-%b-01" % (identity(), identity()[:16])


@lru_cache(256)
def _once(names: frozenset[bytes], scheme: bytes, port: bytes) -> dict[bytes, bytes]:
    """By name, what is sent unless a trusted peer has said it: lines, each with a CRLF before it.

    Connections share it, as there are many of them.
    """
    once: dict[bytes, bytes] = {}
    if b"x-forwarded-proto" in names:
        once[b"x-forwarded-proto"] = b"\r\nX-Forwarded-Proto: " + scheme
    if b"x-forwarded-port" in names and port:
        once[b"x-forwarded-port"] = b"\r\nX-Forwarded-Port: " + port
    if b"x-forwarded-ssl" in names:
        once[b"x-forwarded-ssl"] = b"\r\nX-Forwarded-Ssl: " + (b"on" if scheme == b"https" else b"off")
    return once


_VIA = b"\r\nVia: %b pylb"


class Added:
    """What the requests of one connection get.

    Args: as of `RequestHead`.
    """

    __slots__ = (
        "suffix",
        "fixed",
        "versions",
        "_sends",
        "client",
        "_host",
        "_scheme",
        "_trusts",
        "_once",
        "_always",
    )

    def __init__(
        self,
        sends: Sends,
        client: bytes,
        host: bytes,
        scheme: bytes,
        port: bytes,
        extra: bytes,
        trusts: Callable[[bytes], bool] | None,
        version: bytes,
    ) -> None:
        self._sends = sends
        self.client = client
        self._host = host
        self._scheme = scheme
        self._trusts = trusts
        names = sends.names
        once = self._once = _once(names, scheme, port)
        self.versions = sends.via
        """Whether a request of HTTP/1.0 gets something else than one of HTTP/1.1."""
        self._always = _VIA % version if sends.via else b""
        if extra:
            self._always += b"\r\n" + extra[:-2]
        self.suffix = b""
        """What mostly goes behind the fields, up to the value of ``Host``."""
        self.fixed: bytes | None = None
        """All of that, where the host is no part of it; both are nothing where it depends on the request."""
        if trusts is None and b"forwarded" not in names and sends.request_id == sends.traceparent == "pass":
            out = b"".join(once.values()) + self._always
            if b"x-real-ip" in names:
                out += b"\r\nX-Real-IP: " + client
            if b"x-forwarded-for" in names:
                out += b"\r\nX-Forwarded-For: " + client
            if b"x-forwarded-host" in names:
                self.suffix = out + b"\r\nX-Forwarded-Host: "
            else:
                self.fixed = out

    def behind(
        self,
        block: bytes,
        cut: list[re.Match[bytes]],
        given: list[bytes],
        host: bytes | None,
        target: tuple[bytes, bytes] | None,
        http11: bool,
    ) -> bytes:
        """What goes behind a request's own fields, whatever that depends on.

        Args:
            block: the fields; ``cut`` are the lines that were cut, ``given`` the names of those that mean
                something and stay.
            host: the value of ``Host``.
            target: the scheme and the authority of an absolute target.
            http11: whether the request came in HTTP/1.1, and not in HTTP/1.0.

        Raises:
            Refused: 400, ``Host`` and target name two hosts.
        """
        forwarded_for: list[bytes] = []
        forwarded: list[bytes] = []
        if self._trusts is not None:  # what its own fields say is continued
            forwarded_for = [value_of(block, match) for match in cut if match[1] == b"x-forwarded-for"]
            forwarded = [value_of(block, match) for match in cut if match[1] == b"forwarded"]
        names = self._sends.names
        out: list[bytes] = []
        if host is None:
            host = (target[1] if target is not None else b"") or self._host
            out.append(b"\r\nHost: " + host)
        elif target is not None and not same_host(target[1], host, target[0]):
            # RFC 9112 §3.2.2 has the authority win, but servers differ; refusing leaves no doubt.
            raise Refused(400, "target")
        out += [line for name, line in self._once.items() if name not in given]
        out.append(self._always if http11 else self._always.replace(_VIA % b"1.1", _VIA % b"1.0", 1))
        if b"x-real-ip" in names and b"x-real-ip" not in given:
            out.append(b"\r\nX-Real-IP: " + self._origin(forwarded_for))
        if b"x-forwarded-for" in names:
            out.append(b"\r\nX-Forwarded-For: " + b", ".join([*forwarded_for, self.client]))
        if b"x-forwarded-host" in names and b"x-forwarded-host" not in given:
            out.append(b"\r\nX-Forwarded-Host: " + host)
        if b"forwarded" in names:
            forwarded.append(_forwarded_element(self.client, self._scheme, host))
            out.append(b"\r\nForwarded: " + b", ".join(forwarded))
        return b"".join(out)

    def _origin(self, forwarded_for: list[bytes]) -> bytes:
        """The last address on the way that is no trusted proxy's."""
        address = self.client
        for before in reversed([one.strip() for value in forwarded_for for one in value.split(b",")]):
            if self._trusts is None or not self._trusts(address):
                break
            found = _ADDRESS.fullmatch(before)
            if found is None:
                break  # what stands before it was written by nobody that is known
            address = found[1] or found[2]
        return address

    def identifies(self, given: list[bytes]) -> tuple[bool, bool]:
        """Whether a request gets an ``X-Request-ID`` and a ``traceparent`` of its own."""
        sends = self._sends
        return (
            sends.request_id in ("add", "replace") and b"x-request-id" not in given,
            sends.traceparent in ("add", "replace") and b"traceparent" not in given,
        )


def _forwarded_element(client: bytes, scheme: bytes, host: bytes) -> bytes:
    """What this hop says in ``Forwarded`` (RFC 7239 §4)."""
    # §6: an address, or that there is none to tell.
    node = b"unknown" if client == b"unix" else client
    node = b'"[%s]"' % node if b":" in node else node
    element = b"for=%s;proto=%s" % (node, scheme)
    return element + b';host="%s"' % host if host else element
