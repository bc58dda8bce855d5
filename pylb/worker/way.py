"""The way of a request to a server: the frontend's phases, pick, a connection from the pool or a new one, and
again where that is safe.

There is no task and no ``await`` where a connection is in the pool; a task runs only to connect.

Floor: above the deadlines, below the exchange, which gives it a request and hears the answer. Knows of a
server side only the vocabulary, and how to have one connected.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import random

from pylb.balance.members import NONE
from pylb.http.errors import Answer, Refused, error
from pylb.scoreboard import Field
from pylb.worker.backend import Server
from pylb.worker.deadlines import Deadlines
from pylb.worker.descriptors import OUT_OF_DESCRIPTORS
from pylb.worker.ends import NEVER, now_ns
from pylb.worker.frontend import Result, Wait
from pylb.worker.phases import retry
from pylb.worker.phases.pick import pick
from pylb.worker.phases.queue import Waiter
from pylb.worker.pool import Pooled
from pylb.worker.reasons import Reason, in_words
from pylb.worker.server.connect import connect
from pylb.worker.sides import ServerSide
from pylb.worker.transaction import Transaction

_SLACK = 1.0  # seconds that a task may be late


class Way(Deadlines):
    """How a request comes to a server, and to another one."""

    __slots__ = ()

    # Phases

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
        if result is None:
            self._try()
        elif isinstance(result, Answer):
            self._answered(result)
        elif isinstance(result, Wait):
            self.plain = False
            self.waiting = result
            self.server_deadline = self.core.now + tx.timeouts.server
            result.start(self._after(result, phases[done:]))
        else:
            self._dropped()

    def _after(
        self, wait: Wait, rest: Sequence[Callable[[Transaction], Result]]
    ) -> Callable[[Answer | None], None]:
        def go_on(answer: Answer | None) -> None:
            if self.waiting is not wait:
                return  # it was cancelled, and this may be another request by now
            self.waiting = None
            self.server_deadline = NEVER
            self.tx.asked_ns = now_ns()
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
        self._end_state(Reason.REFUSED if answer.error else Reason.ANSWERED)
        self._answer(answer)

    def _dropped(self) -> None:
        """A phase has dropped it: the client is told nothing."""
        self.tx.local = True
        self._end_state(Reason.REFUSED)
        self._abort(Reason.CUT)

    # Tries

    def _try(self, server: Server | None = None) -> None:
        """Give the request to a server, picked now unless it was before."""
        tx = self.tx
        if server is None:
            server = pick(tx)
            if server is None:
                server = self._not_at_once()
                if server is None:
                    return
        core = self.core
        client, pool = tx.client, server.pool
        side: ServerSide | None
        if pool.idle and client.requests != 1 and client.own is None and not tx.fresh:
            side, _ = pool.idle.popitem()  # the usual
            if side.idle_until < core.now:
                side.expire()
                side = pool.take(core.now)
        elif server.shared and tx.head is not None and not tx.head.upgrade:
            side = next((shared.side() for shared in server.shared if shared.free), None)
        else:
            side = None if tx.fresh else self._unused(server)
        if side is not None:
            if self.plain:
                self.server = side
                self.server_deadline = core.now + tx.timeouts.server
                side.request(self, tx.head, b"", True)  # type: ignore[arg-type]  # never TCP
            else:
                self._send(side)
            return
        self.plain = False
        if not tx.asked_ns:
            tx.asked_ns = now_ns()
        if self.connects_until == NEVER:
            self.connects_until = core.now + tx.timeouts.connect * (1 + tx.backend.retry.retries) + _SLACK
        self.server_deadline = min(self.connects_until, self.until)
        self.connecting = core.loop.create_task(self._connect(server))

    def _not_at_once(self) -> Server | None:
        """No server was picked: the backend's gate gives one, or all have failed it, or there is none. None
        where the request waits, or is answered."""
        tx = self.tx
        gate = tx.backend.gate
        reason = Reason.NO_SERVER
        if gate is not None:
            found = gate.pick(tx)
            if isinstance(found, Server):
                self._admitted()
                return found
            if isinstance(found, Waiter):
                self._queue(found)
                return None
            reason = found
        if tx.tried and reason is Reason.NO_SERVER:
            self._pause()
            return None
        self._end_state(reason)
        self._answer(error(503))
        return None

    def _admitted(self) -> None:
        """The gate has given the request a server; from now on it has the time that its tries have."""
        tx = self.tx
        if tx.backend.gate.timed:
            now = self.core.now
            self.plain = False
            if self.until == NEVER:
                self.until = retry.until(tx, now)
            self.answer_by = retry.answer_by(tx, now, self.until)

    def _queue(self, waiter: Waiter) -> None:
        """Wait for a place at a server."""
        self.plain = False
        self.waiting = waiter
        self.connects_until = NEVER
        self.server_deadline = min(self.core.now + waiter.seconds, self.until)

        def go_on(answer: Answer | None) -> None:
            if self.waiting is not waiter:
                return
            self.waiting = None
            self.server_deadline = NEVER
            self.tx.asked_ns = now_ns()
            try:
                if waiter.server is not None:
                    self._admitted()
                self._try(waiter.server)
            except Exception as error:
                self.crashed(error)

        waiter.start(go_on)

    def _pause(self) -> None:
        """Wait for a moment, and try all servers once more."""
        core = self.core
        tx = self.tx
        tx.tried = NONE
        tx.rounds += 1
        self.plain = False
        seconds = tx.backend.retry.pause_before(tx.rounds, random())
        self.connects_until += seconds
        self.server_deadline = self.until
        self.connecting = core.loop.call_later(seconds, self._paused)

    def _paused(self) -> None:
        self.connecting = None
        try:
            self._try()
        except Exception as error:
            self.crashed(error)

    def _unused(self, server: Server) -> Pooled | None:
        """A connection that there is for this request: the client's own, or one of the pool."""
        tx = self.tx
        own, pool, now = tx.client.own, server.pool, self.core.now
        if own is not None:
            side: Pooled | None = own.pop(server, None)
            if side is not None:
                pool.leave(side)
                if not side.closed and side.idle_until >= now:
                    return side
                side.abort()
        if not pool.idle:
            return None
        if tx.client.requests == 1 and not retry.harmless(tx, self.body is None or self.body.done):
            return pool.take_for_first(now)
        return pool.take(now)

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
            self.connects_until = NEVER
            self.tx.connected_ns = now_ns()
            if server.failing:
                server.works(core)
            self._send(side)
        except Exception as error:
            self.connecting = None  # this task is not to be cancelled, it ends
            self.crashed(error)

    # Tries that fail

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
        if retry.again(tx, reason, self.body is None or self.body.whole, core.now) and core.now < self.until:
            tx.tried |= {tx.index}
            self.connects_until = until
            self._again()
        else:
            self._answer(error(status))

    def server_gone(self, reason: Reason, why: str) -> None:
        """Send the request again where that is safe; else say so where that is still possible."""
        if self.client is None:
            return
        core = self.core
        tx = self.tx
        self.plain = False
        self._end_state(reason)
        again = retry.again(tx, reason, self.body is None or self.body.whole, core.now)
        again = again and core.now < self.until
        if reason is Reason.SERVER_STALE and again:
            self._leave_server()
            tx.fresh = True
            self._again()
            return
        status = retry.failed(core, tx, reason, why)
        if reason is Reason.SERVER_LATE:
            core.counters[Field.TIMEOUTS] += 1
        self._leave_server()
        if again:
            tx.tried |= {tx.index}
            self._again()
        elif tx.answered_ns or retry.silent(tx, reason):
            self._abort(reason)
        else:
            self._answer(error(status))

    def _instead(self, end: bool) -> None:
        """Ask for another response in place of the one whose head has come (all of it: ``end``)."""
        tx = self.tx
        self.plain = False
        tx.answered_ns = 0
        self._let_server_go(end)
        tx.tried |= {tx.index}
        self._again()

    def _again(self) -> None:
        """Try once more: what ended the last try has not ended the request."""
        tx = self.tx
        self.core.counters[Field.RETRIES] += 1
        tx.retries += 1
        tx.reason = None
        tx.state = "-"
        self._try()
