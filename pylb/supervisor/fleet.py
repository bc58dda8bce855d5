"""The worker processes: which run, of which generation, and who reads which listener.

It has its parts handed to it (how a worker starts, where inboxes and indices are) and knows neither the
supervisor's loop nor why a generation is replaced. What others have to do then is handed to it, too: it calls
`flipped` and `started`.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from pylb.config.model import Config
from pylb.log import log
from pylb.scoreboard import Field, RowField, Scoreboard, SlotField, SupervisorField
from pylb.supervisor.firstchecks import FirstChecks
from pylb.supervisor.generations import Generation, lacking
from pylb.supervisor.guard import Guard
from pylb.supervisor.inboxes import Inboxes
from pylb.supervisor.judging import judge
from pylb.supervisor.lingering import GRACE, close_oldest
from pylb.supervisor.processes import Backoff, Worker, describe
from pylb.supervisor.servers import Servers
from pylb.supervisor.slots import assign
from pylb.supervisor.spreading import Spreading
from pylb.supervisor.starting import Starter
from pylb.supervisor.wanted import Wanted
from pylb.supervisor.watchdog import DOUBTFUL, START_TIMEOUT

EARLY_DEATHS = 3
"""Of a generation that doesn't serve yet, after which it is given up."""
SETTLE = 1.0
"""Seconds that a replaced generation has, beyond ``drain.spread``, before it is one that lingers."""
STAND_INS = 3
"""How many workers start, at most, in place of those that are stuck and will soon be killed."""


@dataclass(frozen=True)
class Before:
    """What a new generation changes of the fleet, as it was."""

    newest: Generation
    wanted: frozenset[int]
    pinned: int | None
    not_before: dict[int, float]


class Fleet:
    """All workers of all generations.

    Args:
        first: the generation to begin with.
        board: the scoreboard; its slots are written here.
        servers: their lists.
        inboxes: of the workers.
        starter: starts one.
        guard: of each step of the tick.
        first_checks: of the servers that a new generation brings; it serves once they are over.
        flipped: called when a new generation serves, before the old one is retired.
        started: called with each new worker.
    """

    def __init__(
        self,
        first: Generation,
        board: Scoreboard,
        servers: Servers,
        inboxes: Inboxes,
        starter: Starter,
        guard: Guard,
        first_checks: FirstChecks,
        flipped: Callable[[], None],
        started: Callable[[Worker], None],
    ) -> None:
        self.newest = self.served = first
        self.board, self.slots = board, board.slots
        self.workers: dict[int, Worker] = {}  # by row
        self.wanted = Wanted(self.slots, lambda: self.newest.config.workers, self._held_back)
        self.stopping = False
        self.short = ""  # why a worker can't be started now, for want of a row
        self.failed_starts = 0  # of the generation that is not serving yet
        self.spreading = Spreading(board, lambda: self.newest.listeners)
        self._servers = servers
        self._inboxes = inboxes
        self._starter = starter
        self._guard = guard
        self._first_checks = first_checks
        self._flipped = flipped
        self._started = started
        self._backoff = Backoff()
        self._not_before: dict[int, float] = {}  # slot: when its next worker may start
        self._used_rows: set[int] = set()

    def _held_back(self, slot: int) -> tuple[bool, int, int]:
        """How much keeps a slot's worker from leaving; of equals the highest slot comes first."""
        worker = self._one_per_slot(self.served.number).get(slot)
        if worker is None or not worker.ready or worker.stuck:
            return (False, 0, -slot)
        cells = self.board.row(worker.row)
        return (True, cells[Field.FIXED] + cells[Field.TUNNELS], -slot)

    # -- who is there ----------------------------------------------------------------------------

    def serving(self) -> list[Worker]:
        """Ready workers of the serving generation that show signs of life, by slot."""
        found = self._one_per_slot(self.served.number).values()
        return sorted(
            (worker for worker in found if worker.ready and not worker.stuck), key=lambda worker: worker.slot
        )

    def _staying(self) -> list[Worker]:
        """Those of the serving workers that go on."""
        return [worker for worker in self.serving() if worker.slot in self.wanted.slots]

    def _one_per_slot(self, generation: int) -> dict[int, Worker]:
        """Workers of a generation that aren't leaving, by slot. A slot has two of them where one stands in
        for one that is stuck, or was until now."""
        found = [
            worker
            for worker in self.workers.values()  # the oldest first
            if worker.generation == generation and not worker.retiring
        ]
        return {
            worker.slot: worker
            for worker in sorted(found, key=lambda worker: (not worker.stuck, worker.ready))
        }

    def _current(self) -> dict[int, Worker]:
        """Workers of the newest generation that aren't leaving, by slot."""
        return self._one_per_slot(self.newest.number)

    # -- generations -----------------------------------------------------------------------------

    def before(self) -> Before:
        """What `begin` will change; for `back_to`."""
        return Before(
            *(self.newest, frozenset(self.wanted.slots), self.wanted.pinned),
            dict(self._not_before),
        )

    def index(self, config: Config) -> None:
        """Give the servers of a configuration their indices; raises as `Servers.prepare`."""
        in_use = [self.served.config, *(worker.config for worker in self.workers.values())]
        self._servers.prepare(config, in_use)

    def begin(self, generation: Generation) -> None:
        """Workers that start from now on are of this generation; whatever it raises, `back_to` undoes."""
        self.newest = generation
        self.failed_starts = 0
        self._backoff.forget()
        self._not_before.clear()
        log.info("reload: starting generation %d", generation.number)
        self._first_checks.begin(generation, self.served.config)
        self.wanted.fit()
        self.spreading.attach(list(self.spreading.weights))
        self.reconcile()

    def back_to(self, before: Before) -> None:
        """The newest generation is given up, however far it has come; `reconcile` goes on from there."""
        new = [worker for worker in self.workers.values() if worker.generation > before.newest.number]
        for worker in new:
            worker.retiring = True
            worker.signal(signal.SIGKILL)
        self._first_checks.cancel()
        self.newest = before.newest
        self.wanted.slots, self.wanted.pinned = set(before.wanted), before.pinned
        self._not_before.clear()
        self._not_before.update(before.not_before)

    # -- life ------------------------------------------------------------------------------------

    def spawn(self, slot: int) -> None:
        """Start a worker of the newest generation in a slot."""
        row = self.board.free_row()
        if row is None:
            if not self.short:
                leaving = sum(worker.retiring for worker in self.workers.values())
                self.short = (
                    f"no row of the scoreboard is free for another worker: of {self.board.rows}, {leaving} "
                    "belong to replaced workers that serve what they have to the end; "
                    "it starts when one of them has left"
                )
                log.warning("%s", self.short)
            return
        self.short = ""
        self._note_rows(row)
        siblings = [worker.channel for worker in self.workers.values()]
        try:
            worker = self._starter.start(self.newest, slot, row, siblings)
        except OSError as error:
            log.error("cannot start a worker: %s", error)
            self._not_before[slot] = time.monotonic() + 1.0
            return
        worker.kill_at = worker.started + START_TIMEOUT
        self._used_rows.add(row)
        self.workers[row] = worker
        self._started(worker)

    def _note_rows(self, *new: int) -> None:
        """Tell the workers below which row all others are; before a worker begins, ``new`` is its row."""
        self.board.supervisor[SupervisorField.ROWS] = 1 + max((*self.workers, *new), default=0)

    def ready(self, worker: Worker) -> None:
        """A worker serves."""
        if worker.ready:
            return
        worker.ready = True
        if not self.stopping:
            linger = self.newest.config.drain.linger if worker.retiring else 0.0
            worker.kill_at = time.monotonic() + linger + GRACE if linger else None
        log.info("worker %d ready in %.0f ms", worker.slot, 1000 * (time.monotonic() - worker.started))
        self.reconcile()

    def gone(self, worker: Worker, status: int) -> None:
        """A worker's process ended."""
        del self.workers[worker.row]
        worker.channel.close()
        self.board.note(worker.row)[RowField.STUCK] = 0
        self.board.retire(worker.row)
        self._note_rows()
        if worker.retiring:
            log.info("worker %d (pid %d) left: %s", worker.slot, worker.pid, describe(status))
        else:
            now = time.monotonic()
            delay = self._backoff.died(worker.slot, now - worker.started)
            self._not_before[worker.slot] = now + delay
            if not worker.ready and worker.generation != self.served.number:
                self.failed_starts += 1
            log.error(
                "worker %d (pid %d) died: %s; starting another in %.1f s",
                worker.slot, worker.pid, describe(status), delay,
            )  # fmt: skip
        self.reconcile()
        self.drain_inboxes()

    def scale(self, count: int, reason: str) -> None:
        """Run so many workers (clamped to the configuration)."""
        if self.wanted.scale(count, reason):
            self.reconcile()

    def retire(self, worker: Worker, to: list[int]) -> None:
        """Tell a worker to hand over what can move, serve the rest to its end, and leave."""
        linger = self.newest.config.drain.linger
        if not worker.retiring:
            worker.retiring = True
            worker.replaced_at = time.monotonic()
            if worker.ready:
                worker.kill_at = time.monotonic() + linger + GRACE if linger else None
        worker.successors = to
        binds = list(self.newest.listeners.sockets)
        theirs = [self.workers[row].config for row in to if row in self.workers]
        renamed, gone = lacking(worker.config, theirs)
        order = {"op": "retire", "to": to, "binds": binds, "linger": linger}
        worker.send({**order, "renamed": renamed, "gone": gone})

    def reconcile(self) -> None:
        """Bring what runs, who reads what, and the steering in line with the target."""
        if self.stopping:
            return
        for slot in self._lacking(time.monotonic()):
            self.spawn(slot)
        current = self._current()
        if (
            self.newest.number != self.served.number
            and all(
                slot in current and current[slot].ready and not current[slot].stuck
                for slot in self.wanted.slots
            )
            and not self._first_checks.under_way
        ):
            log.info("generation %d serves", self.newest.number)
            self.served = self.newest
            self._flipped()
        serving = self.serving()
        staying = self._staying()
        if not staying:  # better a worker too many than none
            self._assign(serving)
            return
        self.spreading.steer(staying)  # first no new connections for those that leave,
        self._assign(staying)  # then another worker reads their listeners,
        rows = [worker.row for worker in staying]
        kept = [
            worker
            for generation in {self.newest.number, self.served.number}
            for worker in self._one_per_slot(generation).values()
            if worker.slot in self.wanted.slots
        ]
        for worker in list(self.workers.values()):
            # Who is stuck keeps its place until another has it; then it leaves as soon as it can.
            leaving = worker not in kept and not (worker.stuck and worker.slot in self.wanted.slots)
            if leaving and not worker.retiring or worker.retiring and worker.successors != rows:
                self.retire(worker, rows)

    def _lacking(self, now: float) -> list[int]:
        """Slots in which a worker is to be started now."""
        current = self._current()
        slots = [slot for slot in sorted(self.wanted.slots) if slot not in current]
        stuck = sum(worker.stuck and not worker.retiring for worker in self.workers.values())
        if current and all(worker.stuck for worker in current.values()) and stuck < len(current) + STAND_INS:
            slots.append(min(current))  # a worker must serve until they are back or replaced
        return [slot for slot in slots if self._not_before.get(slot, 0.0) <= now]

    def _close_oldest(self, now: float) -> None:
        """Bound the replaced generations that linger; one that was replaced just now may be gone in a
        moment."""
        kept = (self.newest.number, self.served.number)
        lingering = [one for one in self.workers.values() if one.retiring and one.generation not in kept]
        drain = self.newest.config.drain
        settled = now if self.short else now - drain.spread - SETTLE
        close_oldest(lingering, self.board, drain.generations, settled, now)

    def _assign(self, serving: list[Worker]) -> None:
        lists = assign(self.slots, {worker.slot: worker.row for worker in serving})
        # Those that gain go first, so that no listener is without a reader in between.
        for worker in sorted(serving, key=lambda worker: -len(lists[worker.row])):
            if worker.listening != lists[worker.row]:
                worker.listening = lists[worker.row]
                worker.send({"op": "listen", "slots": worker.listening})

    # -- connections -----------------------------------------------------------------------------

    def drain_inboxes(self) -> None:
        """Send connections that were meant for a worker that is gone or stuck to one that serves."""
        serving = list(self.workers.values()) if self.stopping else self.serving()
        targets = [worker.row for worker in serving if not worker.stuck]
        if targets:
            stuck = {row for row, worker in self.workers.items() if worker.stuck}
            self._inboxes.drain(self._used_rows - self.workers.keys() | stuck, targets)

    def tick(self, now: float) -> None:
        """What is to be done every now and then, each step by itself."""
        with self._guard("judging workers"):
            if judge(self.workers.values(), self.board, self.newest.config.workers.watchdog, now):
                self.reconcile()
        for worker in self.workers.values():
            with self._guard("sending to a worker"):
                worker.flush()
            if worker.kill_at is not None and now >= worker.kill_at:
                log.warning("worker %d (pid %d) does not answer: killing it", worker.slot, worker.pid)
                worker.kill_at = None
                worker.signal(signal.SIGKILL)
        with self._guard("looking at the accept queues"):
            for slot in range(self.slots):
                self.board.slot(slot)[SlotField.ACCEPT_QUEUE] = self.newest.listeners.accept_queue(slot)
        with self._guard("emptying inboxes"):
            self.drain_inboxes()
        if self.stopping:
            return
        with self._guard("starting workers"):
            self.reconcile_due(now)
        with self._guard("closing the oldest generation"):
            self._close_oldest(now)
        with self._guard("levelling"):
            self.spreading.level(now, self._staying())
        with self._guard("steering"):
            self.spreading.look(now, self._staying)

    def reconcile_due(self, now: float) -> None:
        """Start workers whose back-off is over, or that found no free row before."""
        if self._lacking(now):
            self.reconcile()
        else:
            self.short = ""

    def busy(self) -> bool:
        """Whether the loop should tick fast."""
        return any(
            worker.retiring
            or not worker.ready
            or worker.watch.silence >= DOUBTFUL
            or self.board.row(worker.row)[Field.CONNECTIONS]
            for worker in self.workers.values()
        )

    def start(self) -> None:
        """Begin to serve."""
        self.spreading.attach([1 if slot in self.wanted.slots else 0 for slot in range(self.slots)])
        self.reconcile()

    def kill(self) -> None:
        """The stop without a drain."""
        self.stopping = True
        for worker in self.workers.values():
            worker.retiring = True
            worker.signal(signal.SIGKILL)

    def stop(self) -> None:
        """The final stop: every worker drains, and none takes over."""
        self.stopping = True
        for worker in self.workers.values():
            worker.retiring = True
            worker.kill_at = time.monotonic() + worker.config.drain.timeout + GRACE
            worker.send({"op": "retire", "to": [], "binds": []})
