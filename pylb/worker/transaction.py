"""The transaction: the data of one request (who asked for what, where it went, when, and how it ended).

This is all that a phase sees. It holds no connection and drives nothing.

Floor: above frontend and backend, whose types it names; below the phases.
"""

from __future__ import annotations

from collections.abc import Callable

from pylb.config.model import Timeouts
from pylb.http.request import RequestHead
from pylb.http.response import ResponseHead
from pylb.rules.plan import Plan
from pylb.sticky.sticky import Visit
from pylb.worker.backend import Backend, Server
from pylb.worker.facts import Client
from pylb.worker.frontend import Frontend
from pylb.worker.reasons import Reason


class Transaction:
    """A request, from its first byte to its account.

    Marks of time are nanoseconds of `time.monotonic_ns`; 0 where that moment has not come.
    """

    __slots__ = (
        *("client", "frontend", "head", "backend", "server", "counted", "index", "tried", "fresh", "local"),
        *("retries", "rounds"),
        *("first_byte_ns", "began_ns", "asked_ns", "connected_ns", "answered_ns", "ended_ns"),
        *("response", "own", "reason", "state", "bytes_in", "bytes_out"),
        *("plan", "visit", "timeouts", "body_bytes", "held", "srv_queue", "backend_queue"),
    )

    def __init__(self) -> None:
        # Set for each request before any phase sees it.
        self.client: Client = None  # type: ignore[assignment]
        self.frontend: Frontend[Transaction] = None  # type: ignore[assignment]
        self.backend: Backend = None  # type: ignore[assignment]
        self.timeouts: Timeouts = None  # type: ignore[assignment]
        self.body_bytes = 0
        """The most bytes of its body; 0 for no limit."""
        self.began_ns = 0
        """When the head was whole."""
        self.reset()

    def go_to(self, backend: Backend) -> None:
        """Have a server of this backend asked, in its time."""
        self.backend = backend
        self.timeouts = backend.timeouts
        limit = backend.body_bytes
        self.body_bytes = self.frontend.body_bytes if limit is None else limit

    def reset(self) -> None:
        """Forget a request."""
        self.plan: Plan | None = None
        """None where no rule edits anything."""
        self.visit: Visit | None = None
        """What the client's cookie says of the server to keep to. Where a backend is sticky, a phase sets it
        for each request before anything reads it."""
        self.head: RequestHead | None = None
        """None where none could be read, and in TCP mode."""
        self.server: Server | None = None
        """The server of the present try, or of the last one."""
        self.counted: Server | None = None
        """The server whose active requests it is counted among."""
        self.held: Callable[[], None] | None = None
        """Gives its places back; None where it has none."""
        self.srv_queue = 0
        """How many waited before it for the same server."""
        self.backend_queue = 0
        """How many waited before it for any of the backend's."""
        self.index = -1
        """That server's index. (A position in the backend may be another server's by the next try.)"""
        self.tried: frozenset[int] = frozenset()
        """Indices of the servers that have failed it since the last pause."""
        self.fresh = False
        """Whether it must have a connection of its own."""
        self.local = False
        """Whether no backend has a part in it: refused, or answered by a rule."""
        self.retries = 0
        """How often it was given to a server once more, the same or another one."""
        self.rounds = 0
        """How often all servers were tried, and there was a pause."""
        self.first_byte_ns = 0
        """When the head began, if it came in several pieces."""
        self.asked_ns = 0
        """When it had waited for all that a phase waits for, or else when a connection for it was begun;
        0 where a server had it at once."""
        self.connected_ns = 0
        """When a connection was made for it; 0 where one was in the pool."""
        self.answered_ns = 0
        """When the response's head was there."""
        self.ended_ns = 0
        self.response: ResponseHead | None = None
        """The final response's head, a server's or pylb's own."""
        self.own = False
        """Whether the response is pylb's own."""
        self.reason: Reason | None = None
        """Why it ended, if not by a server's whole response."""
        self.state = "-"
        """Where it was then, as HAProxy's termination state says it: R (request), Q (queue), C (connect),
        H (headers), D (data, and what passes through a tunnel)."""
        self.bytes_in = 0
        """Bytes of the request's body, and of what came through a tunnel after it."""
        self.bytes_out = 0
        """Bytes of the response's body without framing, and of what was sent through a tunnel after it."""
