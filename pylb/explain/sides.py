"""The two ends of an exchange that is only tried out: they note what they are told.

Floor: the bottom of `pylb.explain`, beside `request`. They implement the vocabulary of `pylb.worker.sides`;
what a server would answer they don't know, so of a request that goes to one nothing follows.
"""

from __future__ import annotations

from pylb.http.request import RequestHead
from pylb.http.response import ResponseHead
from pylb.worker.facts import Client
from pylb.worker.pool import Pooled
from pylb.worker.reasons import Reason
from pylb.worker.sides import ClientSide, FromServer, Pipe, Spans, Trailers
from pylb.worker.way import Way


class NotingClient(ClientSide):
    """Who has asked; ``response`` is pylb's own answer, None where none was sent."""

    def __init__(self, facts: Client) -> None:
        self.facts = facts
        self.response: ResponseHead | None = None
        self.content = b""

    def respond(self, head: ResponseHead, buffer: bytes, at: int, end: bool, spans: Spans = None) -> None:
        self.response = head
        self.content = buffer[at:]

    def tunnel(self, head: ResponseHead) -> Pipe:
        raise NotImplementedError("no server has answered")

    def interim(self, head: ResponseHead) -> None: ...

    def body(self, buffer: bytes, spans: Spans = None) -> None: ...

    def end(self, trailers: Trailers) -> None: ...

    def stay(self) -> None: ...

    def last(self) -> None: ...

    def abort(self, reason: Reason) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    @property
    def unsent(self) -> int:
        return 0


class NotingServer(Pooled):
    """Who is asked: ``head`` is the request as an HTTP/1 server gets it."""

    def __init__(self) -> None:
        self.closed = False
        self.asked = False
        self.backend = ""
        self.name = ""
        self.head = b""

    def request(
        self, exchange: FromServer, head: RequestHead, buffer: bytes, end: bool, spans: Spans = None
    ) -> None:
        assert isinstance(exchange, Way) and exchange.tx.server is not None
        self.asked = True
        self.backend, self.name = exchange.tx.backend.name, exchange.tx.server.name
        self.head = head.printed()

    def tunnel(self) -> Pipe:
        raise NotImplementedError("it has not answered")

    def body(self, buffer: bytes, spans: Spans = None) -> None: ...

    def end(self, trailers: Trailers) -> None: ...

    def release(self) -> None: ...

    def abort(self) -> None: ...

    def expire(self) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...
