"""The vocabulary of a request: what the two sides of an exchange and the exchange say to each other.

A *side* is a codec: it turns the bytes of one connection (of HTTP/2: of one stream) into these words and
back. The exchange drives both and never asks how either speaks; the two sides never meet. The words are few:

====================  =====================================  ==========================================
from                  to the exchange                        from the exchange
====================  =====================================  ==========================================
client                request, request_body, request_end,    respond, interim, body, end, tunnel, last,
                      refuse, client_gone                    abort
server                response, interim, response_body,      request, body, end, tunnel, release, abort
                      response_end, switched, server_gone
flow control          client_full, client_ready,             pause, resume (of what is read)
                      server_full, server_ready
====================  =====================================  ==========================================

Every end that is not the end of a message has a `Reason`. How a side writes (in chunks or not, with a close
or not, in frames) is its own affair, and so is what it keeps between two messages.

After ``tunnel`` a side is a `Pipe`: bytes whatever they mean, each direction with an end of its own.

Floor: near the bottom of the worker. Knows heads and reasons, and neither connections nor the process.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from pylb.http.errors import Refused
from pylb.http.request import RequestHead
from pylb.http.response import ResponseHead
from pylb.worker.facts import Client
from pylb.worker.reasons import Reason

Trailers = Sequence[bytes]
"""Field lines without their CRLF, each found good."""

Spans = list[tuple[int, int]] | None
"""Where in a buffer the bytes of a body lie, from an offset up to another; None: all of it.

A buffer with spans is a piece of a chunked body as HTTP/1 frames it, its end and trailers included, so that a
side which frames in the same way can send it as it is."""


def contents(buffer: bytes, spans: Spans) -> bytes:
    """The bytes of a body in a buffer, without any framing."""
    if spans is None:
        return buffer
    if len(spans) == 1:
        start, end = spans[0]
        return buffer[start:end]
    return b"".join([buffer[start:end] for start, end in spans])


def size(buffer: bytes, at: int, spans: Spans) -> int:
    """How many bytes of a body are in a buffer from an offset on, without any framing."""
    return len(buffer) - at if spans is None else sum([end - start for start, end in spans])


class Pipe(ABC):
    """One end of a tunnel."""

    __slots__ = ()

    @abstractmethod
    def start(self, listener: FromPipe) -> None:
        """Tell ``listener`` from now on what comes; first what has come already."""

    @abstractmethod
    def send(self, data: bytes) -> None:
        """Send bytes to the peer."""

    @abstractmethod
    def finish(self) -> bool:
        """Tell the peer that nothing more is sent to it; False where that can't be said but by a close."""

    @abstractmethod
    def close(self) -> None:
        """Close when what was sent has left."""

    @abstractmethod
    def abort(self) -> None:
        """Close now."""

    @abstractmethod
    def pause(self) -> None:
        """Read no more for the moment."""

    @abstractmethod
    def resume(self) -> None:
        """Read again."""

    @property
    @abstractmethod
    def closing(self) -> bool:
        """Whether it is closed or about to be."""

    @property
    def movable(self) -> bool:
        """Whether another process could go on with it: a connection without TLS."""
        return False

    def copy(self) -> int | None:
        """A copy of its descriptor, for another process; None where it can't be given away now.

        Raises:
            OSError: there is no descriptor left.
        """
        return None

    def detach(self, over: Callable[[bytes], None]) -> None:
        """Let go of the connection without a word to the peer. From now on nothing is read, and nothing told;
        ``over`` is called, later than this call, with the bytes that have not left. Only after `copy`."""
        raise NotImplementedError


class FromPipe(ABC):
    """What a `Pipe` tells the tunnel."""

    __slots__ = ()

    @abstractmethod
    def came(self, data: bytes) -> None:
        """The peer has sent bytes."""

    @abstractmethod
    def ended(self) -> bool:
        """The peer sends nothing more; gives whether its connection stays open for the other direction."""

    @abstractmethod
    def gone(self, broken: bool) -> None:
        """The connection has ended."""

    @abstractmethod
    def full(self) -> None:
        """More is waiting for the peer than should."""

    @abstractmethod
    def ready(self) -> None:
        """The peer has taken enough of it."""

    @abstractmethod
    def crashed(self, error: Exception) -> None:
        """An error of pylb's own has happened; raises nothing."""


class ClientSide(ABC):
    """What an exchange asks of the connection (of HTTP/2: the stream) that a request came by."""

    __slots__ = ()

    facts: Client
    """What is known of the client."""

    @property
    def carrier(self) -> object:
        """The connection."""
        return self

    @abstractmethod
    def respond(self, head: ResponseHead, buffer: bytes, at: int, end: bool, spans: Spans = None) -> None:
        """Send the final response's head, and what has come of its body.

        Args:
            buffer: the body's first bytes are ``buffer[at:]``, or what ``spans`` says of ``buffer``. Where
                ``at`` is not 0, ``buffer[:at]`` is the head as the server sent it, so that bytes which need
                no change are not copied.
            end: the response is whole. The exchange is over for this side: it goes on to the next request.
        """

    @abstractmethod
    def interim(self, head: ResponseHead) -> None:
        """Send a 1xx response."""

    @abstractmethod
    def body(self, buffer: bytes, spans: Spans = None) -> None:
        """Send a further piece of the response's body."""

    @abstractmethod
    def end(self, trailers: Trailers) -> None:
        """The response is whole, as with ``end`` of `respond`."""

    @abstractmethod
    def tunnel(self, head: ResponseHead) -> Pipe:
        """The server has agreed to change the protocol; say so, and be a pipe from now on."""

    @abstractmethod
    def stay(self) -> None:
        """The client has authenticated a connection to a server: neither can leave this process."""

    @abstractmethod
    def last(self) -> None:
        """The next response is the last one, where a connection has one request at a time."""

    @abstractmethod
    def abort(self, reason: Reason) -> None:
        """End without a whole response, for this reason. The exchange is over for this side."""

    @abstractmethod
    def pause(self) -> None:
        """Read no more of the request's body for the moment."""

    @abstractmethod
    def resume(self) -> None:
        """Read again."""

    @property
    @abstractmethod
    def unsent(self) -> int:
        """Bytes of responses that the client has not taken yet."""

    @property
    def lags(self) -> bool:
        """Whether the client takes responses more slowly than they come, though it isn't full yet."""
        return False


class ServerSide(ABC):
    """What an exchange asks of the connection (of HTTP/2: the stream) to a server."""

    __slots__ = ()

    closed: bool
    """Whether it can't be used any more."""

    @property
    def unsent(self) -> int:
        """Bytes of the request that the server has not taken yet."""
        return 0

    @abstractmethod
    def request(
        self, exchange: FromServer, head: RequestHead, buffer: bytes, end: bool, spans: Spans = None
    ) -> None:
        """Send a request for an exchange: its head, what there is of its body, and whether that is all.

        In TCP mode there is no head, and the side must not look at it.
        """

    @abstractmethod
    def body(self, buffer: bytes, spans: Spans = None) -> None:
        """Send a further piece of the request's body."""

    @abstractmethod
    def end(self, trailers: Trailers) -> None:
        """The request is whole."""

    @abstractmethod
    def tunnel(self) -> Pipe:
        """Be a pipe from now on."""

    @abstractmethod
    def release(self) -> None:
        """The response is whole: let go of the exchange, and serve another one if that is possible."""

    @abstractmethod
    def abort(self) -> None:
        """Let go of the exchange now, whatever the state."""

    @abstractmethod
    def pause(self) -> None:
        """Read no more of the response for the moment."""

    @abstractmethod
    def resume(self) -> None:
        """Read again."""

    def read_pieces(self) -> None:  # noqa: B027  # only a connection can
        """Read no more at a time than a `pylb.worker.pieces.PIECE`, to the end of the response."""


class FromServer(ABC):
    """What a server side tells the exchange that it works for."""

    __slots__ = ()

    @abstractmethod
    def response(self, head: ResponseHead, buffer: bytes, at: int, end: bool, spans: Spans = None) -> None:
        """The final response's head has come; the arguments are those of `ClientSide.respond`."""

    @abstractmethod
    def interim(self, head: ResponseHead) -> None:
        """A 1xx response has come."""

    @abstractmethod
    def response_body(self, buffer: bytes, spans: Spans = None) -> None:
        """A further piece of the response's body has come."""

    @abstractmethod
    def response_end(self, trailers: Trailers) -> None:
        """The response is whole."""

    @abstractmethod
    def switched(self, head: ResponseHead) -> None:
        """The server has changed the protocol, as the client has asked for."""

    @abstractmethod
    def keep(self, side: ServerSide, server: object, personal: bool) -> None:
        """The server side isn't to serve anybody else from now on: as long as both connections last, it is
        for the client's further requests to ``server``. Said in place of a return to the pool.

        Args:
            personal: the client has authenticated the connection, so its requests have to come by it.
        """

    @abstractmethod
    def server_gone(self, reason: Reason, why: str) -> None:
        """The server's side has ended, and can't be used any more; ``why`` is for the log."""

    @abstractmethod
    def server_full(self) -> None:
        """More of the request is waiting for the server than should."""

    @abstractmethod
    def server_ready(self) -> None:
        """The server has taken enough of it."""

    @abstractmethod
    def crashed(self, error: Exception) -> None:
        """An error of pylb's own has happened; raises nothing."""


class FromClient(ABC):
    """What a client side tells its exchange."""

    __slots__ = ()

    @abstractmethod
    def request(
        self, client: ClientSide, head: RequestHead | None, buffer: bytes, end: bool, spans: Spans = None
    ) -> None:
        """A request's head has come, with this much of its body; ``end``: that is all of it."""

    @abstractmethod
    def request_body(self, buffer: bytes, spans: Spans = None) -> None:
        """A further piece of the request's body has come."""

    @abstractmethod
    def request_end(self, trailers: Trailers) -> None:
        """The request is whole."""

    @abstractmethod
    def refuse(self, refused: Refused) -> None:
        """What has come can't be passed on. The side is given the response to send, and takes no more of
        this request."""

    @abstractmethod
    def client_gone(self, reason: Reason) -> None:
        """The client has left, or its stream was reset."""

    @abstractmethod
    def client_full(self) -> None:
        """More of the response is waiting for the client than should."""

    @abstractmethod
    def client_ready(self) -> None:
        """The client has taken enough of it."""

    @abstractmethod
    def crashed(self, error: Exception) -> None:
        """An error of pylb's own has happened; raises nothing."""
