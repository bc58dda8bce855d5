"""The deadlines of a request: one for the client and one for the server.

The client has to send the request's body and to take the response; the server has to be connected to, to
answer, and to take the body. Who is to do something next has a deadline, and nobody else: while a request
isn't whole that is the client, unless the server doesn't take what there is. Once the response has begun,
what comes from the server gives the client time, too: where both speak, each may be silent for as long as the
other isn't.

Floor: above the ends of an exchange, below its way to a server. What happens to a late server is decided
above: it is told as any other failure of a server.
"""

from __future__ import annotations

from pylb.http.errors import Refused, error
from pylb.scoreboard import Field
from pylb.worker.ends import NEVER, Ends
from pylb.worker.reasons import Reason


class Deadlines(Ends):
    """When something must have happened, and what is done when it has not."""

    __slots__ = ()

    def due(self) -> float:
        """When `expire` is to be called, on the worker's clock."""
        return min(self.client_deadline, self.server_deadline)

    def expire(self, say: bool = True) -> None:
        """A deadline has passed: the client or the server is late.

        Args:
            say: a request that comes too slowly is answered with 408; otherwise it is only ended, where that
                costs no other request (HTTP/2).
        """
        core = self.core
        client = self.client
        if client is None:
            return
        if self.client_deadline >= core.now:
            self._server_late()
            return
        unsent = client.unsent
        if unsent and unsent != self.unsent:
            # A response that is taken slowly is taken; but by the next look there must be a difference.
            self.unsent = unsent
            self.client_deadline = core.now + self.tx.timeouts.client
        elif unsent or self.client_stuck or not (say or self.tx.answered_ns or self._held_back()):
            core.counters[Field.TIMEOUTS] += 1
            self._end_state(Reason.CLIENT_LATE)
            self._leave_server()
            self._abort(Reason.CLIENT_LATE)
        elif self._held_back():
            # pylb doesn't read, since the server doesn't; the server's deadline decides.
            self.client_deadline = core.now + self.tx.timeouts.client
        else:
            core.counters[Field.TIMEOUTS] += 1
            self.refuse(Refused(408, "timeout"))

    def _held_back(self) -> bool:
        """Whether the client isn't read, since no server takes what it sends."""
        return self.body is not None and self.body.paused

    def _server_late(self) -> None:
        if self.server is not None:
            now, unsent = self.core.now, self.server.unsent
            if unsent and unsent != self.untaken and now <= self.answer_by:
                # A request that is taken slowly is taken, as with a response.
                self.untaken = unsent
                self._await_server()
                return
            key = "timeouts.server" if now <= self.answer_by else "retry.per_try or retry.timeout"
            self.server_gone(Reason.SERVER_LATE, f"no answer in time ({key})")
            return
        # A phase waits for too long; or all tries together have taken too long, and as each has a limit of
        # its own, something is wrong.
        status = 504 if self.waiting is None else 503
        self.core.counters[Field.TIMEOUTS] += 1
        self._end_state(Reason.CONNECT_LATE)
        self._leave_server()
        self._answer(error(status))

    # Set anew

    def _await_server(self) -> None:
        """The server has to do something next; unless it isn't read since the client is stuck, or waits for
        more of the request."""
        body = self.body
        if self.client_stuck or (body is not None and not body.done and not body.paused):
            self.server_deadline = NEVER
        else:
            deadline = self.core.now + self.tx.timeouts.server
            self.server_deadline = deadline if deadline < self.answer_by else self.answer_by

    def _await_body(self) -> None:
        """The client has to send more of the request, if there is more."""
        if self.client_stuck:
            return  # it has to take of the response
        body = self.body
        if body is None or body.done:
            self.client_deadline = NEVER
        else:
            core = self.core
            tx = self.tx
            # Who was answered before its request is whole talks with the server, at whatever pace they like.
            rate = 0 if tx.answered_ns else tx.frontend.body_rate
            self.client_deadline = body.deadline(core.now, tx.timeouts.client, rate, tx.bytes_in)
