"""What an exchange is at, and how it ends: refused, answered by pylb itself, cut off, or whole.

However a request ends, it passes through here once: the first reason is noted with the state, whatever was
waited for is let go of, the client is answered or cut off, the account is made, and the object is set back
for another request.

Floor: the lowest of the exchange's own; below its deadlines. Doesn't know how a server is come by, nor when a
request is too late.
"""

from __future__ import annotations

import asyncio
import math
import time

from pylb.http.errors import Answer, Refused, error
from pylb.worker.body import Body
from pylb.worker.core import Core
from pylb.worker.frontend import Wait
from pylb.worker.phases import retry
from pylb.worker.phases.account import account
from pylb.worker.reasons import Reason
from pylb.worker.sides import ClientSide, FromClient, FromServer, ServerSide
from pylb.worker.transaction import Transaction

NEVER = math.inf
_NO_SERVER = frozenset({Reason.NO_SERVER, Reason.BREAKER_OPEN})
now_ns = time.monotonic_ns


class Ends(FromClient, FromServer):
    """The state of one request on its way, and its end."""

    __slots__ = (
        *("core", "tx", "client", "server", "__weakref__"),
        *("client_deadline", "server_deadline", "unsent", "untaken", "client_stuck"),
        *("plain", "body", "waiting", "connecting", "connects_until", "answer_by", "until"),
    )

    def __init__(self, core: Core) -> None:
        self.core = core
        self.tx = Transaction()
        self.client: ClientSide | None = None
        """None when it is over."""
        self._reset()
        core.exchanges.add(self)

    def _reset(self) -> None:
        self.plain = True
        """Whether nothing below was changed, but for the server and its deadline."""
        self.server: ServerSide | None = None
        # Deadlines, on the worker's clock.
        self.client_deadline = NEVER
        self.server_deadline = NEVER
        self.unsent = 0  # bytes that the client had not taken when last looked at
        self.untaken = 0  # likewise the server
        self.client_stuck = False  # it doesn't take what is sent, so the server isn't read
        # What the request has, and what it waits for.
        self.body: Body | None = None
        self.waiting: Wait | None = None
        self.connecting: asyncio.Task[None] | asyncio.TimerHandle | None = None  # or before the next try
        self.connects_until = NEVER  # when one of the tries must have succeeded
        self.answer_by = NEVER  # when the response to this try must have begun
        self.until = NEVER  # when the response must have begun, whatever is tried

    # Whatever it is at

    def _leave_server(self) -> None:
        """Let go of the server, whatever it is doing; and of whatever else is waited for."""
        # What is counted comes first: it must be right whatever happens below. And what has raised is tried
        # again by `crashed`.
        self.connects_until = self.server_deadline = self.answer_by = NEVER
        counted = self.tx.counted
        if counted is not None:
            self.tx.counted = None
            counted.active[counted.row] -= 1
        held, self.tx.held = self.tx.held, None
        if self.connecting is not None:
            self.connecting.cancel()
            self.connecting = None
        if self.waiting is not None:
            self.waiting.cancel()
            self.waiting = None
        if self.server is not None:
            self.server.abort()
            self.server = None
        if held is not None:
            held()

    def _end_state(self, reason: Reason) -> None:
        """Note why and in which state it ends."""
        tx = self.tx
        if tx.reason is not None:
            return  # the first reason is the one
        tx.reason = reason
        if tx.answered_ns:
            tx.state = "D"
        elif self.server is not None:
            # As HAProxy, which has CD for a client that leaves in an upload, and cH for one that stalls.
            uploading = reason is Reason.CLIENT_GONE and self.body is not None and not self.body.done
            tx.state = "D" if uploading else "H"
        elif reason is Reason.QUEUE_FULL:
            tx.state = "Q"
        elif self.connecting is not None or tx.counted is not None or reason in _NO_SERVER:
            tx.state = "C"
        else:
            tx.state = "Q" if self.waiting is not None else "R"

    def keep(self, side: ServerSide, server: object, personal: bool) -> None:
        client = self.client
        if client is None or side.closed:
            side.abort()
            return
        facts = self.tx.client
        own = facts.own
        if own is None:
            own = facts.own = {}
        before = own.get(server)
        if before is not None:
            before.abort()  # one request at a time has used it, so these were more (HTTP/2)
        own[server] = side
        if personal:
            client.stay()

    # Ends

    def refuse(self, refused: Refused, client: ClientSide | None = None) -> None:
        if client is not None:
            self.client = client
        if self.client is None:
            return
        tx = self.tx
        self.core.count_refusal(refused)
        tx.local = tx.server is None
        self._end_state(Reason.CLIENT_LATE if refused.status == 408 else Reason.REFUSED)
        self._leave_server()
        if tx.answered_ns:
            self._abort(Reason.REFUSED)
        elif self.client is not None:
            self.client.last()  # what follows can't be trusted either
            self._answer(error(refused.status), refused.to_head)

    def client_gone(self, reason: Reason) -> None:
        if self.client is None:
            return
        self._end_state(reason)
        self._leave_server()
        self._over(False)

    def never(self, reason: Reason) -> None:
        """The connection has ended before there was a request. It is told to the phases of the account and
        counted nowhere, as no request has come."""
        tx = self.tx
        tx.reason, tx.state, tx.local = reason, "R", True
        tx.ended_ns = now_ns()
        self._tell()
        tx.reset()
        self.core.spare.append(self)

    def unusable(self, why: str) -> None:
        """The client side can't pass on the response whose head it was given just now; it has sent nothing
        of it. The client is answered 502."""
        tx = self.tx
        tx.answered_ns = 0
        self._end_state(Reason.SERVER_BAD)
        status = retry.failed(self.core, tx, Reason.SERVER_BAD, f"bad response: {why}")
        self._leave_server()
        self._answer(error(status))

    def _answer(self, answer: Answer, to_head: bool = False) -> None:
        """Send a response of pylb's own; the exchange is over with it.

        Args:
            to_head: it has no body, as where the request's head says so.
        """
        tx = self.tx
        client = self.client
        if client is None:
            return
        if tx.frontend.raw:  # there is nothing to say it with
            self._abort(Reason.REFUSED)
            return
        page = tx.frontend.page
        if page is not None and answer.error:
            answer = page(tx, answer.head.status, True) or answer
        tx.own = True
        head = answer.head
        for phase in tx.frontend.on_response or ():
            head = phase(tx, head)
        tx.answered_ns = now_ns()
        tx.response = head
        to_head = to_head or (tx.head is not None and tx.head.method == b"HEAD")
        body = b"" if to_head else answer.body
        tx.bytes_out = len(body)
        client.respond(head, body, 0, True)
        if self.client is not None:  # as in `response`
            self._over(True)

    def _in_place_of_the_server(self, answer: Answer, end: bool) -> None:
        """Answer, and let go of the server, whose response (all of it is there: ``end``) isn't passed on."""
        self._let_server_go(end)
        self._answer(answer)

    def _let_server_go(self, end: bool) -> None:
        """Let go of the server, whose response (all of it is there: ``end``) isn't passed on."""
        side = self.server
        if end:
            self.server = None
        self._leave_server()
        if end and side is not None:
            side.release()

    def _abort(self, reason: Reason) -> None:
        """End in the middle of a response."""
        if self.client is not None:
            self.client.abort(reason)
            self._over(False)

    def moved(self) -> None:
        """Another worker goes on with the request, which is a tunnel: it is that one's to account for."""
        tx = self.tx
        self.client = None
        counted, held = tx.counted, tx.held
        tx.counted = tx.held = None
        if counted is not None:
            counted.active[counted.row] -= 1
        if held is not None:
            tx.backend.gate.doors.part(held)
        tx.reset()
        self._reset()
        self.core.spare.append(self)

    def tunnel_over(self, reason: Reason | None, came: int, went: int) -> None:
        """Both ends of the tunnel are closed; so many bytes have come from the client, and gone to it."""
        if self.client is None:
            return
        tx = self.tx
        tx.reason, tx.state = reason, "-" if reason is None else "D"
        tx.bytes_in += came
        tx.bytes_out += went
        self._leave_server()
        self._over(False)

    def crashed(self, error_: Exception) -> None:
        """An error of pylb's own: the request is answered with 500, or its connection ends."""
        core = self.core
        core.internal(error_)
        client = self.client
        if client is None:
            return
        self._end_state(Reason.INTERNAL)
        try:
            self._leave_server()
            if self.tx.response is None:  # nothing of one has been sent
                client.last()
                self._answer(error(500))
                return
        except Exception as another:
            core.internal(another)
        try:
            client.abort(Reason.INTERNAL)
        except Exception as another:
            core.internal(another)
        try:
            if self.client is not None:
                self._over(False)
        except Exception as another:
            core.internal(another)

    # Once, when it is over

    def _over(self, whole: bool) -> None:
        """Account for the transaction, and be free for another one."""
        tx = self.tx
        self.client = None
        response = tx.response
        account(self.core, tx, response.status if whole and response is not None else 0, now_ns())
        if tx.frontend.on_account:
            self._tell()
        tx.reset()
        self._reset()
        self.core.spare.append(self)

    def _tell(self) -> None:
        """Have the phases of the account look at the transaction; an error there ends nothing."""
        tx = self.tx
        for phase in tx.frontend.on_account:
            try:
                phase(tx)
            except Exception as error:
                self.core.internal(error)
