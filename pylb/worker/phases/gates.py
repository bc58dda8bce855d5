"""All gates of a worker (`queue`): which backends have one, who wakes them, and what they learn of ends.

Floor: phases.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from logging import WARNING

from pylb.places import Holder
from pylb.scoreboard import Scoreboard
from pylb.worker.backend import Backend
from pylb.worker.core import Core
from pylb.worker.phases.queue import Gate
from pylb.worker.reasons import Reason
from pylb.worker.transaction import Transaction

_NEUTRAL = frozenset(
    {Reason.ANSWERED, Reason.REFUSED, Reason.CLIENT_GONE, Reason.CLIENT_LATE, Reason.BREAKER_OPEN}
    | {Reason.QUEUE_FULL, Reason.NO_RESOURCES, Reason.CUT, Reason.INTERNAL, Reason.TUNNEL_LATE}
)
"""Ends that say nothing of the servers."""


def breakers(backends: Iterable[Backend], core: Core) -> Callable[[Transaction], None] | None:
    """A phase of the account, if any backend has a circuit breaker: ends open and close it."""
    if not any(backend.config.breaker is not None for backend in backends):
        return None

    def over(tx: Transaction) -> None:
        gate, config = tx.backend.gate, tx.backend.config.breaker
        if gate is None or config is None or tx.local or tx.reason in _NEUTRAL:
            return
        status = tx.response.status if tx.response is not None else 0
        failed = tx.reason is not None or any(status in some for some in config.status)
        breaker = gate.breaker
        if breaker.over(failed, core.now):
            name = tx.backend.name
            if breaker.closed:
                core.say(WARNING, ("breaker", name, "closed"), f"backend {name}: its breaker has closed")
            else:
                bad, seen = breaker.figures
                text = f"backend {name}: its breaker has opened: {bad} of {seen} requests have failed"
                core.say(WARNING, ("breaker", name, "open"), text)

    return over


class Gates:
    """All gates of a worker, and the eventfd by which other workers tell it that it is next."""

    def __init__(self, core: Core, board: Scoreboard, row: int) -> None:
        self._core = core
        self._board = board
        self._row = row
        self.gates: list[Gate] = []
        self._holder = Holder(board.places, row)

    def watch(self, backend: Backend) -> None:
        """Make the backend's gate, as soon as it needs one."""
        if backend.gate is None and needed(backend):
            backend.gate = Gate(self._core, backend, self._board, self._row, self._holder)
            self.gates.append(backend.gate)
        backend.on_look = self._looked

    def _looked(self, backend: Backend) -> None:
        self.watch(backend)
        if backend.gate is not None:
            backend.gate.look()

    def listen(self) -> None:
        """Hear of other workers."""
        wakes = self._board.places.wakes
        if wakes:
            self._core.loop.add_reader(wakes[self._row], self._woken, wakes[self._row])

    def _woken(self, wake: int) -> None:
        with suppress(BlockingIOError):
            os.eventfd_read(wake)
        self._each(Gate.pump)

    def tick(self) -> None:
        """Ten times a second."""
        self._each(Gate.tick)

    def _each(self, do: Callable[[Gate], None]) -> None:
        for gate in self.gates:
            try:
                do(gate)
            except Exception as error:
                self._core.internal(error)


def needed(backend: Backend) -> bool:
    """Whether a backend's requests must come to a gate."""
    config = backend.config
    bounded = config.maxconn or any(server.maxconn for server in backend.servers)
    return bool(bounded or config.breaker is not None or backend.retry.timed)
