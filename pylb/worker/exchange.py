"""The exchange: drives one request through its phases, between a client side and a server side.

Head judged (by the client's codec) → the frontend's phases of a request → pick → connection, from the pool or
a new one, tried again where that is safe → request sent → response head → the frontend's phases of a response
→ body → account. There is no task and no ``await`` on a request's way; a task runs only to connect.

Here is what both sides say in between: the pieces of a request and of a response, and who is full. The rest
of an exchange stands below, each floor knowing only those under it: its way to a server (`way`), its
deadlines (`deadlines`), its ends (`ends`).

Floor: above the phases and the server side; below the client side, which makes exchanges and of which this
module knows only the vocabulary.
"""

from __future__ import annotations

from pylb.http.errors import Refused
from pylb.http.request import RequestHead
from pylb.http.response import ResponseHead
from pylb.worker.body import Body
from pylb.worker.core import Core
from pylb.worker.ends import NEVER, now_ns
from pylb.worker.facts import Client
from pylb.worker.frontend import Frontend
from pylb.worker.phases.account import account
from pylb.worker.phases.retry import kept
from pylb.worker.pieces import PIECE
from pylb.worker.sides import ClientSide, Spans, Trailers, size
from pylb.worker.transaction import Transaction
from pylb.worker.tunnel import Tunnel
from pylb.worker.way import Way


def begin(core: Core, facts: Client, frontend: Frontend[Transaction]) -> Exchange:
    """An exchange for a client side's next request."""
    spare = core.spare
    exchange: Exchange = spare.pop() if spare else Exchange(core)
    facts.requests += 1
    tx = exchange.tx
    tx.client = facts
    tx.frontend = frontend
    backend = tx.backend = frontend.backend
    tx.timeouts = backend.timeouts
    tx.body_bytes = frontend.most_bytes
    tx.began_ns = now_ns()
    return exchange


class Exchange(Way):
    """One request on its way; when that is over, the same object serves for another one."""

    __slots__ = ()

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
        if tx.bytes_in > tx.body_bytes > 0:
            self.refuse(Refused(413, "body_bytes"))
            return
        body = self.body
        if body is None:
            return  # it has said that this was all
        self._await_body()
        server = self.server
        if server is not None:
            if body.whole:
                body.sent(buffer, spans, kept(tx))
            self._await_server()
            server.body(buffer, spans)
        elif not body.keep(buffer, spans):
            self.server_full()

    def request_end(self, trailers: Trailers = ()) -> None:
        server = self.server
        if self.body is not None:
            self.body.end(trailers)
        self._await_body()
        if server is not None:
            self._await_server()
            server.end(trailers)

    def client_full(self) -> None:
        self.plain = False
        self.client_stuck = True
        self.client_deadline = self.core.now + self.tx.timeouts.client
        if self.server is not None:
            self.server_deadline = NEVER
            self.server.pause()
            self.server.read_pieces()

    def client_ready(self) -> None:
        self.client_stuck = False
        self._await_body()
        if self.server is not None:
            self._await_server()
            self.server.resume()

    # From the server side

    def response(self, head: ResponseHead, buffer: bytes, at: int, end: bool, spans: Spans = None) -> None:
        client = self.client
        if client is None:
            return
        tx = self.tx
        tx.answered_ns = now_ns()
        frontend = tx.frontend
        phases = frontend.on_response
        if phases is not None:
            status = head.status
            again = status in frontend.again
            if again and frontend.instead(tx, status, self.body is None or self.body.whole):
                self._instead(end)
                return
            page = frontend.page
            if page is not None and (answer := page(tx, status, False)) is not None:
                self._in_place_of_the_server(answer, end)
                return
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
            held = tx.held
            if held is not None:
                tx.held = None
                held()
            if not self.plain:
                tx.bytes_out = size(buffer, at, spans)
                self._over(True)
                return
            # `_over` for the usual request, which has changed little that has to be set back.
            core = self.core
            self.client = None
            self.server_deadline = NEVER
            account(core, tx, head.status, tx.answered_ns)  # all of it has come with the head
            if tx.frontend.on_account:
                tx.bytes_out = len(buffer) - at if spans is None else size(buffer, at, spans)
                try:  # as `_tell`
                    for tell in tx.frontend.on_account:
                        tell(tx)
                except Exception as error:
                    core.internal(error)
                tx.bytes_out = 0
            tx.head = tx.client = None  # type: ignore[assignment]  # set for each request
            tx.server = tx.response = tx.plan = None
            tx.answered_ns = 0
            core.spare.append(self)
        else:
            if self.body is not None:
                self.body.let_go()
                self._await_body()
            self.answer_by = NEVER
            self._await_server()
            tx.response = head
            tx.bytes_out = size(buffer, at, spans)
            client.respond(head, buffer, at, False, spans)
            if len(buffer) >= PIECE:
                self._pace()

    def interim(self, head: ResponseHead) -> None:
        if self.client is not None:
            self._await_server()
            self.client.interim(head)

    def response_body(self, buffer: bytes, spans: Spans = None) -> None:
        client = self.client
        if client is not None:
            if self.server_deadline != NEVER:  # else it is the client's turn
                self.server_deadline = self.core.now + self.tx.timeouts.server
            elif not self.client_stuck and self.client_deadline != NEVER:
                # Its request isn't whole, but it may listen while the server speaks (gRPC's streams).
                self.client_deadline = self.core.now + self.tx.timeouts.client
            self.tx.bytes_out += len(buffer) if spans is None else size(buffer, 0, spans)
            client.body(buffer, spans)
            if len(buffer) >= PIECE:
                self._pace()

    def _pace(self) -> None:
        """Read less at a time for a client that lags: what was read and isn't taken is in memory."""
        if self.client is not None and self.server is not None and self.client.lags:
            self.server.read_pieces()

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
        tx.answered_ns = now_ns()
        if tx.server is not None and tx.server.outcomes is not None:
            tx.server.outcomes.good += 1
        if tx.head is not None:  # it is HTTP's: the client may be told which server to keep to
            for phase in tx.frontend.on_response or ():
                head = phase(tx, head)
        tx.response = head
        near = client.tunnel(head)
        far = side.tunnel()
        self.server = None
        self.client_deadline = self.server_deadline = NEVER  # the tunnel has one
        tunnel = Tunnel(core, near, far, head.upgrade, self.tunnel_over, tx.timeouts.tunnel)
        tunnel.server = tx.server
        tunnel.exchange = self
        tunnel.start()

    def server_full(self) -> None:
        body = self.body
        if body is not None and not body.done and not body.paused and self.client is not None:
            body.pause(self.core.now)
            self.client.pause()
            if self.server is not None:
                self._await_server()

    def server_ready(self) -> None:
        body = self.body
        if body is not None and body.paused and self.client is not None:
            body.resume(self.core.now)
            self._await_body()
            if self.server is not None:
                self._await_server()
            self.client.resume()
