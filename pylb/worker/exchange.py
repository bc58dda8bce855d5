"""The exchange: drives one request through its phases, between a client side and a server side.

Head judged (by the client's codec) → the frontend's phases of a request → pick → connection, from the pool or
a new one, tried again where that is safe → request sent → response head → the frontend's phases of a response
→ body → account. There is no task and no ``await`` on a request's way; a task runs only to connect.

All deadlines of a request are kept here: one for the client (to send the body, to take the response) and one
for the server (to be connected to, to answer, to take the body).

Floor: above the phases and the server side; below the client side, which makes exchanges and of which this
module knows only the vocabulary.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence

from pylb.http.errors import Answer, Refused, error
from pylb.http.request import RequestHead
from pylb.http.response import ResponseHead
from pylb.scoreboard import Field
from pylb.worker.backend import Server
from pylb.worker.body import Body
from pylb.worker.core import Core
from pylb.worker.descriptors import OUT_OF_DESCRIPTORS
from pylb.worker.facts import Client
from pylb.worker.frontend import Frontend, Result, Wait
from pylb.worker.phases import retry
from pylb.worker.phases.account import account
from pylb.worker.phases.pick import pick
from pylb.worker.reasons import Reason, in_words
from pylb.worker.server.connect import connect
from pylb.worker.sides import ClientSide, FromClient, FromServer, ServerSide, Spans, Trailers
from pylb.worker.transaction import Transaction
from pylb.worker.tunnel import Tunnel

_SLACK = 1.0  # seconds that a task may be late

_NEVER = math.inf
_now_ns = time.monotonic_ns


def begin(core: Core, facts: Client, frontend: Frontend[Transaction]) -> Exchange:
    """An exchange for a client side's next request."""
    spare = core.spare
    exchange: Exchange = spare.pop() if spare else Exchange(core)
    facts.requests += 1
    tx = exchange.tx
    tx.client = facts
    tx.frontend = frontend
    tx.backend = frontend.backend
    tx.began_ns = _now_ns()
    return exchange


class Exchange(FromClient, FromServer):
    """One request on its way; when that is over, the same object serves for another one."""

    __slots__ = (
        *("core", "tx", "client", "server"),
        *("client_deadline", "server_deadline", "unsent", "client_stuck"),
        *("plain", "body", "waiting", "connecting", "connects_until"),
    )

    def __init__(self, core: Core) -> None:
        self.core = core
        self.tx = Transaction()
        self.client: ClientSide | None = None
        """None when it is over."""
        self._reset()

    def _reset(self) -> None:
        self.plain = True  # nothing below was changed, but for the server and its deadline
        self.server: ServerSide | None = None
        # Deadlines, on the worker's clock.
        self.client_deadline = _NEVER
        self.server_deadline = _NEVER
        self.unsent = 0  # bytes that the client had not taken when last looked at
        self.client_stuck = False  # it doesn't take what is sent, so the server isn't read
        # What the request has, and what it waits for.
        self.body: Body | None = None
        self.waiting: Wait | None = None
        self.connecting: asyncio.Task[None] | None = None
        self.connects_until = _NEVER  # when one of the tries must have succeeded

    # From the client side

    def request(
        self, client: ClientSide, head: RequestHead | None, buffer: bytes, end: bool, spans: Spans = None
    ) -> None:
        self.client = client
        tx = self.tx
        tx.head = head
        if buffer or not end:
            self.plain = False
            tx.bytes_in = len(buffer)
            self.body = Body(buffer, spans, end, self.core.now)
            self._await_body()
        phases = tx.frontend.on_request
        if phases:
            self._phases(phases)
        else:
            self._try()

    def request_body(self, buffer: bytes, spans: Spans = None) -> None:
        tx = self.tx
        tx.bytes_in += len(buffer)
        if tx.bytes_in > tx.frontend.body_bytes > 0:
            self.refuse(Refused(413, "body_bytes"))
            return
        body = self.body
        if body is None:
            return  # it has said that this was all
        self._await_body()
        server = self.server
        if server is not None:
            body.whole = False
            self._await_server()
            server.body(buffer, spans)
        elif not body.keep(buffer, spans):
            self.server_full()

    def request_end(self, trailers: Trailers = ()) -> None:
        server = self.server
        if self.body is not None:
            self.body.end(trailers, server is None)
        self._await_body()
        if server is not None:
            self._await_server()
            server.end(trailers)

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
            self._answer(error(refused.status))

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
        tx.ended_ns = _now_ns()
        self._tell()
        tx.reset()
        self.core.spare.append(self)

    def client_full(self) -> None:
        self.plain = False
        self.client_stuck = True
        self.client_deadline = self.core.now + self.core.timeouts.client
        if self.server is not None:
            self.server_deadline = _NEVER
            self.server.pause()

    def client_ready(self) -> None:
        self.client_stuck = False
        self._await_body()
        if self.server is not None:
            self.server_deadline = self.core.now + self.core.timeouts.server
            self.server.resume()

    def unusable(self, why: str) -> None:
        """The client side can't pass on the response whose head it was given just now; it has sent nothing
        of it. The client is answered 502."""
        tx = self.tx
        tx.answered_ns = 0
        self._end_state(Reason.SERVER_BAD)
        status = retry.failed(self.core, tx, Reason.SERVER_BAD, f"bad response: {why}")
        self._leave_server()
        self._answer(error(status))

    # The way to a server

    def _phases(self, phases: Sequence[Callable[[Transaction], Result]]) -> None:
        """Run these of the frontend's phases, and then go to a server."""
        tx = self.tx
        result: Result = None
        done = 0
        try:
            for phase in phases:
                result = phase(tx)
                done += 1
                if result is not None:
                    break
        except Refused as refused:
            self.refuse(refused)
            return
        if tx.plan is not None:
            self.plain = False
        if result is None:
            self._try()
        elif isinstance(result, Answer):
            self._answered(result)
        else:
            self.plain = False
            self.waiting = result
            self.server_deadline = self.core.now + self.core.timeouts.server
            result.start(self._after(result, phases[done:]))

    def _after(
        self, wait: Wait, rest: Sequence[Callable[[Transaction], Result]]
    ) -> Callable[[Answer | None], None]:
        def go_on(answer: Answer | None) -> None:
            if self.waiting is not wait:
                return  # it was cancelled, and this may be another request by now
            self.waiting = None
            self.server_deadline = _NEVER
            self.tx.asked_ns = _now_ns()
            try:
                if answer is not None:
                    self._answered(answer)
                else:
                    self._phases(rest)
            except Exception as error:
                self.crashed(error)

        return go_on

    def _answered(self, answer: Answer) -> None:
        """A phase has answered: no server is asked."""
        self.tx.local = True
        self._end_state(Reason.ANSWERED)
        self._answer(answer)

    def _try(self) -> None:
        """Pick a server and give it the request."""
        tx = self.tx
        server = pick(tx)
        if server is None:
            self._end_state(Reason.NO_SERVER)
            self._answer(error(503))
            return
        core = self.core
        pool = server.pool
        if pool and not tx.fresh:
            side = pool.pop()
            if self.plain:
                self.server = side
                self.server_deadline = core.now + core.timeouts.server
                side.request(self, tx.head, b"", True)  # type: ignore[arg-type]  # never TCP
            else:
                self._send(side)
            return
        self.plain = False
        if not tx.asked_ns:
            tx.asked_ns = _now_ns()
        if self.connects_until == _NEVER:
            self.connects_until = core.now + core.timeouts.connect * (1 + tx.backend.retries) + _SLACK
        self.server_deadline = self.connects_until
        self.connecting = core.loop.create_task(self._connect(server))

    def _again(self) -> None:
        """Try once more: what ended the last try has not ended the request."""
        tx = self.tx
        self.core.counters[Field.RETRIES] += 1
        tx.retries += 1
        tx.reason = None
        tx.state = "-"
        self._try()

    def _send(self, side: ServerSide) -> None:
        self.server = side
        self._await_server()
        head = self.tx.head
        body = self.body
        if body is None:
            side.request(self, head, b"", True)  # type: ignore[arg-type]  # None in TCP mode only
        else:
            self.server_ready()  # who takes what the client sends
            trailers = body.trailers
            assert head is not None  # what has a body has a head
            side.request(self, head, body.kept, body.done and not trailers, body.spans)
            if trailers and self.server is side:
                side.end(trailers)
        if self.client_stuck and self.server is side:
            side.pause()

    async def _connect(self, server: Server) -> None:
        core = self.core
        try:
            try:
                side = await connect(core, server, self.tx)
            except (OSError, TimeoutError) as problem:
                self.connecting = None
                self._not_connected(problem)
                return
            self.connecting = None
            self.connects_until = _NEVER
            self.tx.connected_ns = _now_ns()
            if server.failing:
                server.works(core)
            self._send(side)
        except Exception as error:
            self.connecting = None  # this task is not to be cancelled, it ends
            self.crashed(error)

    def _not_connected(self, problem: OSError) -> None:
        """Try another server, or give up."""
        core = self.core
        tx = self.tx
        reason = Reason.CONNECT_LATE if isinstance(problem, TimeoutError) else Reason.CONNECT_FAILED
        self._end_state(reason)
        until = self.connects_until
        self._leave_server()
        if problem.errno in OUT_OF_DESCRIPTORS:  # no server's fault, and no other one can be connected to
            tx.reason = Reason.NO_RESOURCES
            core.out_of_descriptors(problem)
            self._answer(error(503))
            return
        status = retry.failed(core, tx, reason, in_words(problem))
        tx.tried |= {tx.index}
        if retry.another(tx):
            self.connects_until = until
            self._again()
        else:
            self._answer(error(status))

    def _leave_server(self) -> None:
        """Let go of the server, whatever it is doing; and of whatever else is waited for."""
        # What is counted comes first: it must be right whatever happens below. And what has raised is tried
        # again by `crashed`.
        self.connects_until = self.server_deadline = _NEVER
        counted = self.tx.counted
        if counted is not None:
            self.tx.counted = None
            counted.active[counted.row] -= 1
        if self.connecting is not None:
            self.connecting.cancel()
            self.connecting = None
        if self.waiting is not None:
            self.waiting.cancel()
            self.waiting = None
        if self.server is not None:
            self.server.abort()
            self.server = None

    # From the server side

    def response(self, head: ResponseHead, buffer: bytes, at: int, end: bool, spans: Spans = None) -> None:
        client = self.client
        if client is None:
            return
        tx = self.tx
        tx.answered_ns = _now_ns()
        phases = tx.frontend.on_response
        if phases:
            for phase in phases:
                head = phase(tx, head)
        if end:
            side = self.server
            counted = tx.counted
            self.server = tx.counted = None
            if counted is not None and side is not None:
                counted.active[counted.row] -= 1
                side.release()
            tx.response = head
            client.respond(head, buffer, at, True, spans)
            if self.client is None:
                return  # it could not: `unusable`, or it is gone
            if not self.plain:
                tx.bytes_out = len(buffer) - at
                self._over(True)
                return
            # `_over` for the usual request, which has changed little that has to be set back.
            core = self.core
            self.client = None
            self.server_deadline = _NEVER
            account(core, tx, head.status)
            if tx.frontend.on_account:
                tx.bytes_out = len(buffer) - at
                self._tell()
                tx.bytes_out = 0
            tx.head = tx.client = None  # type: ignore[assignment]  # set for each request
            tx.server = tx.response = None
            tx.answered_ns = 0
            core.spare.append(self)
        else:
            if self.body is not None:
                self.body.kept = b""  # it won't be sent again
            self._await_server()
            tx.response = head
            tx.bytes_out = len(buffer) - at
            client.respond(head, buffer, at, False, spans)

    def interim(self, head: ResponseHead) -> None:
        if self.client is not None:
            self._await_server()
            self.client.interim(head)

    def response_body(self, buffer: bytes, spans: Spans = None) -> None:
        client = self.client
        if client is not None:
            if not self.client_stuck:
                self.server_deadline = self.core.now + self.core.timeouts.server
            self.tx.bytes_out += len(buffer)
            client.body(buffer, spans)

    def response_end(self, trailers: Trailers = ()) -> None:
        client = self.client
        if client is None:
            return
        side, self.server = self.server, None
        self._leave_server()
        if side is not None:
            side.release()
        client.end(trailers)
        if self.client is not None:
            self._over(True)

    def switched(self, head: ResponseHead) -> None:
        client, side = self.client, self.server
        if client is None or side is None:
            return
        core = self.core
        tx = self.tx
        tx.response = head
        tx.answered_ns = _now_ns()
        near = client.tunnel(head)
        far = side.tunnel()
        self.server = None
        self.client_deadline = self.server_deadline = _NEVER  # the tunnel has one
        Tunnel(core, near, far, head.upgrade, self._tunnel_over).start()

    def server_gone(self, reason: Reason, why: str) -> None:
        """Send the request again where that is safe; else say so where that is still possible."""
        if self.client is None:
            return
        core = self.core
        tx = self.tx
        self.plain = False
        self._end_state(reason)
        if retry.same_again(tx, reason, self.body is None or self.body.whole):
            self._leave_server()
            tx.fresh = True
            self._again()
            return
        status = retry.failed(core, tx, reason, why)
        if reason is Reason.SERVER_LATE:
            core.counters[Field.TIMEOUTS] += 1
        self._leave_server()
        if tx.answered_ns:
            self._abort(reason)
        else:
            self._answer(error(status))

    def server_full(self) -> None:
        body = self.body
        if body is not None and not body.done and not body.paused and self.client is not None:
            body.pause(self.core.now)
            self.client.pause()

    def server_ready(self) -> None:
        body = self.body
        if body is not None and body.paused and self.client is not None:
            body.resume(self.core.now)
            self._await_body()
            self.client.resume()

    # Deadlines

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
            self.client_deadline = core.now + core.timeouts.client
        elif unsent or self.client_stuck or not (say or self.tx.answered_ns or self._held_back()):
            core.counters[Field.TIMEOUTS] += 1
            self._end_state(Reason.CLIENT_LATE)
            self._leave_server()
            self._abort(Reason.CLIENT_LATE)
        elif self._held_back():
            # pylb doesn't read, since the server doesn't; the server's deadline decides.
            self.client_deadline = core.now + core.timeouts.client
        else:
            core.counters[Field.TIMEOUTS] += 1
            self.refuse(Refused(408, "timeout"))

    def _held_back(self) -> bool:
        """Whether the client isn't read, since no server takes what it sends."""
        return self.body is not None and self.body.paused

    def _server_late(self) -> None:
        if self.server is not None:
            self.server_gone(Reason.SERVER_LATE, "no answer in time (timeouts.server)")
            return
        # A phase waits for too long; or all tries together have taken too long, and as each has a limit of
        # its own, something is wrong.
        status = 504 if self.waiting is None else 503
        self.core.counters[Field.TIMEOUTS] += 1
        self._end_state(Reason.CONNECT_LATE)
        self._leave_server()
        self._answer(error(status))

    def _await_server(self) -> None:
        """The server has to do something next, unless it isn't read since the client is stuck."""
        stuck = self.client_stuck
        self.server_deadline = _NEVER if stuck else self.core.now + self.core.timeouts.server

    def _await_body(self) -> None:
        """The client has to send more of the request, if there is more."""
        if self.client_stuck:
            return  # it has to take of the response
        body = self.body
        if body is None or body.done:
            self.client_deadline = _NEVER
        else:
            core = self.core
            idle, rate = core.timeouts.client, self.tx.frontend.body_rate
            self.client_deadline = body.deadline(core.now, idle, rate, self.tx.bytes_in)

    # Ends

    def _answer(self, answer: Answer) -> None:
        """Send a response of pylb's own; the exchange is over with it."""
        tx = self.tx
        client = self.client
        if client is None:
            return
        head = answer.head
        for phase in tx.frontend.on_response:
            head = phase(tx, head)
        tx.answered_ns = _now_ns()
        tx.response = head
        tx.own = True
        body = answer.body if tx.head is None or tx.head.method != b"HEAD" else b""
        tx.bytes_out = len(body)
        client.respond(head, body, 0, True)
        if self.client is not None:  # as in `response`
            self._over(True)

    def _abort(self, reason: Reason) -> None:
        """End in the middle of a response."""
        if self.client is not None:
            self.client.abort(reason)
            self._over(False)

    def _tunnel_over(self, reason: Reason | None, came: int, went: int) -> None:
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

    def _end_state(self, reason: Reason) -> None:
        """Note why and in which state it ends."""
        tx = self.tx
        if tx.reason is not None:
            return  # the first reason is the one
        tx.reason = reason
        if tx.answered_ns:
            tx.state = "D"
        elif self.server is not None:
            tx.state = "H"
        elif self.connecting is not None or tx.counted is not None or reason is Reason.NO_SERVER:
            tx.state = "C"
        else:
            tx.state = "Q" if self.waiting is not None else "R"

    def _over(self, whole: bool) -> None:
        """Account for the transaction, and be free for another one."""
        tx = self.tx
        self.client = None
        response = tx.response
        account(self.core, tx, response.status if whole and response is not None else 0)
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
