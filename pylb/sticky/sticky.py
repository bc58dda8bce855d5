"""A backend's stickiness: which server a request's cookie names, and what its response says of the cookie.

The modes are those of HAProxy's ``cookie`` (configuration manual, §4.2): *insert* has a cookie of pylb's own;
*rewrite* puts the server into the value of a cookie that servers set, *prefix* in front of it (``ID~VALUE``);
*passive* only reads one that servers set to their own name.

Floor: above `tokens` and `cookies`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pylb.sticky.cookies import Cookie, bare
from pylb.sticky.tokens import FUTURE, UNIT, Kind, Token, Tokens

Mode = Literal["insert", "rewrite", "prefix", "passive"]

_KEPT = 4096
"""Values of cookies that are known again."""
_LARGEST = 256
"""Bytes of one."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the configuration says; seconds, 0 where nothing is said."""

    cookie: bytes
    mode: Mode = "insert"
    values: Kind = "name"
    indirect: bool = True
    nocache: bool = True
    preserve: bool = False
    attributes: bytes = b"; Path=/"
    """What stands behind the value of a cookie that is inserted."""
    max_idle: int = 0
    max_life: int = 0


class Sticky:
    """The stickiness of one backend.

    Args:
        secret: of hashed and signed values.
        backend: its name.
    """

    def __init__(self, settings: Settings, secret: bytes = b"", backend: str = "") -> None:
        self.cookie = Cookie(settings.cookie)
        self._settings = settings
        self._mode = settings.mode
        self.dated = bool(settings.max_idle or settings.max_life)
        """Whether dates matter, so that times are to be passed in."""
        self.edits_requests = self._mode == "prefix" or (self._mode == "insert" and settings.indirect)
        self._tokens = Tokens(settings.values, secret, backend)
        # Of the servers that there are.
        self.places: dict[bytes, tuple[int, ...]] = {}
        """By ID the positions of the servers that it names; there may be several."""
        self._ids: dict[str, bytes] = {}
        self.quiet: object = None
        """The last response in which the cookie was not set; most repeat."""
        self._lines: dict[bytes, bytes] = {}  # by ID, of an inserted cookie without dates
        # Values that were read.
        self._values: dict[bytes, Token] = {}

    def know(self, servers: Iterable[tuple[str, str, str]]) -> None:
        """Which servers there are, by position: name, name in cookies (or empty), address."""
        places: dict[bytes, list[int]] = {}
        self._ids = {}
        self._values.clear()
        for position, (name, cookie, address) in enumerate(servers):
            id_ = self._ids[name] = self._tokens.id_of(cookie or name, address)
            places.setdefault(id_, []).append(position)
        self.places = {id_: tuple(positions) for id_, positions in places.items()}
        self._lines = {id_: self._line(Token(id_)) for id_ in self.places}

    def positions(self, token: Token | None) -> tuple[int, ...]:
        """Of the servers that a token names."""
        return () if token is None else self.places.get(token.id, ())

    # Requests

    def wanted(self, head: bytes, now: float = 0.0) -> Token | None:
        """What a request's cookie says that names a server; None where none does, or it is too old."""
        for value in self.cookie.values(head):
            token = self._valid(value)
            if token is not None and not (self.dated and self._too_old(token, now)):
                return token
        return None

    def visit(self, head: bytes, now: float = 0.0) -> Visit:
        """A request that has the cookie: what that says, and how it is taken out."""
        cut = self.cookie.usual(head) if self._mode == "insert" else None
        if cut is None:
            return Visit(self, head, self.wanted(head, now), None)
        value = cut[0]
        token = self._values.get(value) or self._valid(bare(value))
        if self.dated and token is not None and self._too_old(token, now):
            token = None
        return Visit(self, head, token, cut if self.edits_requests else None)

    def _valid(self, value: bytes) -> Token | None:
        """The token of a server that there is, whatever its dates."""
        if self._mode == "prefix":
            value, delimiter, _ = value.partition(b"~")
            if not delimiter:
                return None
        try:
            return self._values[value]
        except KeyError:
            token = self._tokens.read(value)
            if token is None or token.id not in self.places:
                return None
            if len(value) <= _LARGEST:
                if len(self._values) >= _KEPT:
                    self._values.clear()
                self._values[value] = token
            return token

    def _too_old(self, token: Token, now: float) -> bool:
        settings = self._settings
        return any(
            since and bound and not -FUTURE <= now - since <= bound
            for since, bound in ((token.first, settings.max_life), (token.last, settings.max_idle))
        )

    def request(self, head: bytes) -> bytes:
        """A request's head as the server gets it, where `edits_requests`."""
        if not self.edits_requests:
            return head
        if self._mode == "prefix":
            return self.cookie.changed(head, _without_id)
        return self.cookie.without(head)

    # Responses

    def names(self, token: Token | None, server: str) -> bool:
        """Whether a token names this server."""
        return token is not None and token.id == self._ids.get(server)

    def keeps(self, token: Token | None, server: str) -> bool:
        """Whether the client of a server is told nothing, in a response that doesn't set the cookie."""
        if self._mode != "insert":
            return True
        known = token is not None and token.id == self._ids.get(server)
        return known and not (self.dated or token.last)  # type: ignore[union-attr]  # it is known

    def response(self, head: bytes, server: str, token: Token | None, now: float = 0.0) -> bytes:
        """A response's head as the client gets it.

        Args:
            server: the name of the server whose it is.
            token: what the request's cookie said, as `wanted` gave it.
        """
        id_ = self._ids.get(server)
        if id_ is None or self._mode == "passive":
            return head
        if self._mode == "insert":
            return self._insert(head, server, id_, token, now)
        new = self._tokens.written(Token(id_))
        if self._mode == "rewrite":
            return self.cookie.set_to(head, lambda value: new)
        return self.cookie.set_to(head, lambda value: new + b"~" + value)

    def _insert(self, head: bytes, server: str, id_: bytes, token: Token | None, now: float) -> bytes:
        settings = self._settings
        if self.cookie.is_set(head):
            if settings.preserve:
                return head
            head = self.cookie.unset(head)
        known = token if self.names(token, server) else None
        if known is not None and (self._fresh(known, now) if self.dated else not known.last):
            return head
        if self.dated:
            first = (known.first if known is not None else 0) or int(now)
            line = self._line(Token(id_, int(now), first if settings.max_life else 0))
        else:
            line = self._lines[id_]
        if settings.nocache:
            line += b"Cache-Control: private\r\n"
        return head[:-2] + line + b"\r\n"

    def _fresh(self, token: Token, now: float) -> bool:
        """Whether the dates of a cookie needn't be written anew."""
        settings = self._settings
        if bool(token.first) is not bool(settings.max_life):
            return False
        return not settings.max_idle or now - token.last < UNIT

    def _line(self, token: Token) -> bytes:
        value = self._tokens.written(token)
        return b"Set-Cookie: %b%b%b\r\n" % (self.cookie.sign, value, self._settings.attributes)


class Visit:
    """A request with the cookie; called with its printed head, it gives what the server is to see of it.

    One serves all requests of a connection that are alike.

    Args:
        cut: the cookie's value and place, if it is there once.
    """

    __slots__ = ("raw", "sticky", "token", "position", "_places", "_cut", "_before", "_after")

    def __init__(
        self, sticky: Sticky, raw: bytes, token: Token | None, cut: tuple[bytes, int, int] | None
    ) -> None:
        self.raw = raw
        self.sticky = sticky
        self.token = token
        self.position = -1 if token is None else sticky.places[token.id][0]
        """Of the server that it names first."""
        self._places = sticky.places
        self._cut = cut
        self._before: bytes | None = None
        self._after = b""

    def holds(self) -> bool:
        """Whether it is good for another request with the same head."""
        sticky = self.sticky
        return self._places is sticky.places and not sticky.dated

    def __call__(self, head: bytes) -> bytes:
        if head is self._before:
            return self._after
        cut = self._cut
        # In the printed head it mostly is at the same place.
        if cut is not None and head.startswith(self.raw[: cut[2]]):
            out = head[: cut[1]] + head[cut[2] :]
        else:
            out = self.sticky.request(head)
        self._before, self._after = head, out
        return out


def _without_id(value: bytes) -> bytes:
    """Of ``ID~VALUE`` what the server knows."""
    id_, delimiter, own = value.partition(b"~")
    return own if delimiter else value
