"""The worker processes: which run, who reads which listener, who gets how many connections."""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Callable, Mapping

from pylb.config.model import Config, ServerKey
from pylb.log import log
from pylb.net import channel, levelling, steering
from pylb.net.listeners import Listeners
from pylb.scoreboard import Field, RowField, Scoreboard, SlotField, State, SupervisorField
from pylb.supervisor.guard import Guard
from pylb.supervisor.processes import Backoff, Worker, describe, fork
from pylb.supervisor.readings import reading
from pylb.supervisor.secrets import Secrets
from pylb.supervisor.watchdog import DOUBTFUL, STUCK
from pylb.worker.context import WorkerContext

START_TIMEOUT = 30.0
EARLY_DEATHS = 3
SETTLE = 1.0
"""Seconds that a replaced generation has, beyond ``drain.spread``, before it is one that lingers."""
GRACE = 5.0
"""Seconds that a worker has beyond the time in which it is to be gone."""
LEVEL_PAUSE = 0.2
STAND_INS = 3
"""How many workers start, at most, in place of those that are stuck and will soon be killed."""
MOST_ROWS = 512
"""Of the scoreboard, unless even that is too few; each has an inbox, of two descriptors in every process."""


def rows_for(slots: int, generations: int, descriptors: int) -> int:
    """How many workers may exist at once.

    Args:
        slots: how many serve at most; during a reload twice as many.
        generations: replaced ones that may linger; there is room for as many workers again, that scaling
            has replaced.
        descriptors: that a process may have; 0 or less for any number.
    """
    most = min(MOST_ROWS, descriptors // 8) if descriptors > 0 else MOST_ROWS
    return max(4 * slots + 4, min(2 * slots * (1 + generations), most))


def assign(slots: int, owners: Mapping[int, int]) -> dict[int, list[int]]:
    """Which slots each worker reads: its own, and the one of the lowest slot reads the ownerless ones.

    Args:
        slots: how many slots there are.
        owners: slot to worker (any integer that tells workers apart).
    """
    if not owners:
        return {}
    result: dict[int, list[int]] = {worker: [] for worker in owners.values()}
    lowest = owners[min(owners)]
    for slot in range(slots):
        result[owners.get(slot, lowest)].append(slot)
    return result


class Fleet:
    """All workers of all generations, and the sockets that lead connections to them."""

    def __init__(
        self,
        config: Config,
        slots: int,
        board: Scoreboard,
        listeners: Listeners,
        servers: dict[ServerKey, int],
        entry: Callable[[WorkerContext], None],
        in_child: Callable[[], None],
        secrets: Secrets,
    ) -> None:
        self.config, self.slots, self.board, self.listeners = config, slots, board, listeners
        self.servers, self.entry, self.in_child = servers, entry, in_child
        self.workers: dict[int, Worker] = {}  # by row
        self.generation = self.serving_generation = 1
        self.wanted = set(range(config.workers.min))
        """The slots in which a worker is to run."""
        self.stopping = False
        self.short = ""  # why a worker can't be started now, for want of a row
        self.failed_starts = 0  # of the generation that is not serving yet
        self.guard = Guard()
        self.on_flip: Callable[[], None] = lambda: None
        self.on_start: Callable[[Worker], None] = lambda worker: None
        self.backoff = Backoff()
        self.not_before: dict[int, float] = {}  # slot: when its next worker may start
        self.weights: list[int] = []
        self.arrivals = steering.Arrivals()
        self.steerable = True
        pairs = [channel.pair() for _ in range(board.rows)]
        self.inboxes = [reader for reader, _ in pairs]
        self.inbox_writers = [writer for _, writer in pairs]
        self.secrets = {1: secrets}  # by generation: the one that serves, and the newest
        self.used_rows: set[int] = set()
        self.level_after = 0.0
        self.recalled = -math.inf  # when clients that can't move were last to be asked to connect anew
        self.steer_after = 0.0

    @property
    def target(self) -> int:
        """How many workers are to run.

        Setting it takes the lowest free slots; or gives up those whose workers hold the fewest connections
        that can't move, since they leave soonest.
        """
        return len(self.wanted)

    @target.setter
    def target(self, count: int) -> None:
        while len(self.wanted) < count:
            self.wanted.add(min(set(range(self.slots)) - self.wanted))
        while len(self.wanted) > count:
            self.wanted.remove(min(self.wanted, key=self._held_back))

    def _held_back(self, slot: int) -> tuple[bool, int, int]:
        """How much keeps a slot's worker from leaving; of equals the highest slot comes first."""
        worker = self._one_per_slot(self.serving_generation).get(slot)
        if worker is None or not worker.ready or worker.stuck:
            return (False, 0, -slot)
        cells = self.board.row(worker.row)
        return (True, cells[Field.FIXED] + cells[Field.TUNNELS], -slot)

    # -- who is there ----------------------------------------------------------------------------

    def serving(self) -> list[Worker]:
        """Ready workers of the serving generation that show signs of life, by slot."""
        found = self._one_per_slot(self.serving_generation).values()
        return sorted(
            (worker for worker in found if worker.ready and not worker.stuck), key=lambda worker: worker.slot
        )

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
        return self._one_per_slot(self.generation)

    # -- life ------------------------------------------------------------------------------------

    def begin(self, generation: int, config: Config, secrets: Secrets) -> None:
        """Workers that start from now on are of this generation."""
        self.generation, self.config = generation, config
        self.secrets = {self.serving_generation: self.secrets[self.serving_generation], generation: secrets}

    def spawn(self, slot: int) -> bool:
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
            return False
        self.short = ""
        try:
            ours, theirs = channel.pair()
        except OSError as error:
            return self._not_started(slot, error)
        cells = self.board.row(row)
        cells[Field.SLOT], cells[Field.GENERATION] = slot, self.generation
        cells[Field.STATE] = State.STARTING
        self._note_rows(row)
        secrets = self.secrets[self.generation]
        context = WorkerContext(
            self.config, row, slot, self.generation, self.listeners.sockets, self.board,
            theirs, self.inboxes[row], self.inbox_writers, self.servers,
            secrets.listeners, secrets.backends,
        )  # fmt: skip
        others = [worker.channel for worker in self.workers.values()]

        def prepare() -> None:
            self.in_child()
            # A sibling's end of file must not be held off by our copy of the supervisor's end.
            for sock in (ours, *others):
                sock.close()
            for index, inbox in enumerate(self.inboxes):
                if index != row:
                    inbox.close()

        started = time.monotonic()
        title = f"pylb: worker {slot} (gen {self.generation})"
        try:
            pid = fork(title, f"worker {slot}", prepare, lambda: self.entry(context))
        except Exception as error:
            ours.close()
            theirs.close()
            cells[Field.STATE] = State.FREE
            if not isinstance(error, OSError):
                raise
            return self._not_started(slot, error)
        theirs.close()
        self.used_rows.add(row)
        worker = Worker(
            pid, ours, started, row=row, slot=slot, generation=self.generation, config=self.config
        )
        worker.kill_at = started + START_TIMEOUT
        self.workers[row] = worker
        worker.listening = [slot]
        worker.send({"op": "listen", "slots": [slot]})
        self.on_start(worker)
        return True

    def _note_rows(self, *new: int) -> None:
        """Tell the workers below which row all others are; before a worker begins, ``new`` is its row."""
        self.board.supervisor[SupervisorField.ROWS] = 1 + max((*self.workers, *new), default=0)

    def _not_started(self, slot: int, error: OSError) -> bool:
        log.error("cannot start a worker: %s", error)
        self.not_before[slot] = time.monotonic() + 1.0
        return False

    def ready(self, worker: Worker) -> None:
        """A worker serves."""
        if worker.ready:
            return
        worker.ready = True
        if not self.stopping:
            linger = self.config.drain.linger if worker.retiring else 0.0
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
            delay = self.backoff.died(worker.slot, now - worker.started)
            self.not_before[worker.slot] = now + delay
            if not worker.ready and worker.generation != self.serving_generation:
                self.failed_starts += 1
            log.error(
                "worker %d (pid %d) died: %s; starting another in %.1f s",
                worker.slot, worker.pid, describe(status), delay,
            )  # fmt: skip
        self.reconcile()
        self.drain_inboxes()

    def scale(self, target: int, reason: str) -> None:
        """Run so many workers (clamped to the configuration)."""
        low, high = self.config.workers.min, min(self.config.workers.max, self.slots)
        wanted = max(min(low, high), min(high, target))
        if wanted != self.target:
            word = "up" if wanted > self.target else "down"
            log.info("scale %s from %d to %d: %s", word, self.target, wanted, reason)
            self.target = wanted
            self.reconcile()

    def retire(self, worker: Worker, to: list[int]) -> None:
        """Tell a worker to hand over what can move, serve the rest to its end, and leave."""
        linger = self.config.drain.linger
        if not worker.retiring:
            worker.retiring = True
            worker.replaced_at = time.monotonic()
            if worker.ready:
                worker.kill_at = time.monotonic() + linger + GRACE if linger else None
        worker.successors = to
        binds = list(self.listeners.sockets)
        worker.send({"op": "retire", "to": to, "binds": binds, "linger": linger})

    def reconcile(self) -> None:
        """Bring what runs, who reads what, and the steering in line with the target."""
        if self.stopping:
            return
        for slot in self._lacking(time.monotonic()):
            self.spawn(slot)
        current = self._current()
        if self.generation != self.serving_generation and all(
            slot in current and current[slot].ready and not current[slot].stuck for slot in self.wanted
        ):
            log.info("generation %d serves", self.generation)
            self.serving_generation = self.generation
            self.on_flip()
        serving = self.serving()
        staying = [worker for worker in serving if worker.slot in self.wanted]
        if not staying:  # better a worker too many than none
            self._assign(serving)
            return
        self.steer(staying)  # first no new connections for those that leave,
        self._assign(staying)  # then somebody else who reads their listeners,
        rows = [worker.row for worker in staying]
        kept = [
            worker
            for generation in {self.generation, self.serving_generation}
            for worker in self._one_per_slot(generation).values()
            if worker.slot in self.wanted
        ]
        for worker in list(self.workers.values()):
            # Who is stuck keeps its place until another has it; then it leaves as soon as it can.
            leaving = worker not in kept and not (worker.stuck and worker.slot in self.wanted)
            if leaving and not worker.retiring or worker.retiring and worker.successors != rows:
                self.retire(worker, rows)

    def _lacking(self, now: float) -> list[int]:
        """Slots in which a worker is to be started now."""
        current = self._current()
        slots = [slot for slot in sorted(self.wanted) if slot not in current]
        stuck = sum(worker.stuck and not worker.retiring for worker in self.workers.values())
        if current and all(worker.stuck for worker in current.values()) and stuck < len(current) + STAND_INS:
            slots.append(min(current))  # somebody must serve until they are back or replaced
        return [slot for slot in slots if self.not_before.get(slot, 0.0) <= now]

    def _close_oldest(self, now: float) -> None:
        """Bound the replaced generations that linger."""
        lingering: dict[int, list[Worker]] = {}
        for worker in self.workers.values():
            if worker.retiring and worker.generation not in (self.generation, self.serving_generation):
                lingering.setdefault(worker.generation, []).append(worker)
        # Those that were replaced just now may be gone in a moment.
        settled = now if self.short else now - self.config.drain.spread - SETTLE
        old = [
            generation
            for generation in sorted(lingering)
            if min(worker.replaced_at for worker in lingering[generation]) <= settled
        ]
        most = self.config.drain.generations
        for generation in old[: max(0, len(old) - most)]:
            workers = [worker for worker in lingering[generation] if not worker.cut]
            if not workers:
                continue
            rows = [self.board.row(worker.row) for worker in workers]
            log.warning(
                "generation %d is closed, as more than %d linger (drain.generations): "
                "it held %d connections and %d tunnels",
                *(generation, most),
                *(sum(cells[field] for cells in rows) for field in (Field.CONNECTIONS, Field.TUNNELS)),
            )
            for worker in workers:
                worker.cut = True
                worker.kill_at = now + GRACE
                worker.send({"op": "cut", "reason": "drain.generations"})

    def _assign(self, serving: list[Worker]) -> None:
        lists = assign(self.slots, {worker.slot: worker.row for worker in serving})
        # Those that gain go first, so that no listener is without a reader in between.
        for worker in sorted(serving, key=lambda worker: -len(lists[worker.row])):
            if worker.listening != lists[worker.row]:
                worker.listening = lists[worker.row]
                worker.send({"op": "listen", "slots": worker.listening})

    # -- connections -----------------------------------------------------------------------------

    def steer(self, serving: list[Worker]) -> None:
        """Renew the weights if they changed noticeably."""
        fresh = [0] * self.slots
        held = {
            worker.slot: self.board.row(worker.row)[Field.CONNECTIONS]
            + self.board.slot(worker.slot)[SlotField.ACCEPT_QUEUE]
            for worker in serving
        }
        strong = time.monotonic() - self.recalled < 2 * LEVEL_PAUSE
        for slot, weight in steering.weights_for(held, self.arrivals.rate, strong).items():
            fresh[slot] = weight
        limit = steering.TOTAL // (20 * max(1, len(serving)))
        same = len(self.weights) == len(fresh) and all(
            (old == 0) == (new == 0) and abs(old - new) <= limit
            for old, new in zip(self.weights, fresh, strict=True)
        )
        if not same:
            self.attach(fresh)

    def attach(self, weights: list[int]) -> None:
        """Put the steering program on every TCP bind's group."""
        if not any(weights):
            return
        self.weights = weights
        for slot, weight in enumerate(weights):
            self.board.slot(slot)[SlotField.WEIGHT] = weight
        for group in self.listeners.groups():
            if not steering.attach(group[0], weights) and self.steerable:
                self.steerable = False
                log.warning("the kernel refuses the steering program; connections go by its own hash")

    def drain_inboxes(self) -> None:
        """Send connections that were meant for a worker that is gone or stuck to one that serves."""
        serving = list(self.workers.values()) if self.stopping else self.serving()
        serving = [worker for worker in serving if not worker.stuck]
        if not serving:
            return
        stuck = {row for row, worker in self.workers.items() if worker.stuck}
        for row in self.used_rows - self.workers.keys() | stuck:
            for turn in range(1024):
                target = self.inbox_writers[serving[turn % len(serving)].row]
                packet = channel.recv_connections(self.inboxes[row])
                if packet is None:
                    break
                header, fds = packet
                if not channel.send_connections(target, header, fds):
                    # No room there now: back to where it was, for the next tick.
                    if not channel.send_connections(self.inbox_writers[row], header, fds):
                        log.error("%d connections lost with a worker: no inbox has room", len(fds))
                    channel.close_all(fds)
                    break
                channel.close_all(fds)

    def level(self, now: float) -> None:
        """Have overfull workers hand connections over."""
        serving = [
            worker
            for worker in self.serving()
            if worker.slot in self.wanted and worker.watch.silence < DOUBTFUL
        ]
        if len(serving) < 2 or now < self.level_after:
            return
        counts = {worker.row: self.board.row(worker.row)[Field.CONNECTIONS] for worker in serving}
        moves = levelling.plan(counts, max(levelling.PER_TICK, sum(counts.values()) // 4))
        # What can't move is asked to come back; that helps only as far as it is at work.
        lively = levelling.given(
            levelling.plan({worker.row: self.board.row(worker.row)[Field.LIVELY] for worker in serving})
        )
        excess = levelling.given(moves)
        if any(lively[row] for row in excess):
            self.recalled = now
        for move in moves:
            source = move.source
            order = {"op": "move", "to": move.target, "count": move.count}
            self.workers[source].send(order | {"excess": excess[source], "lively": lively[source]})
        if moves:  # let them arrive before counting again, or they would be moved to and fro
            self.level_after = now + LEVEL_PAUSE

    def tick(self, now: float) -> None:
        """What is to be done every now and then, each step by itself."""
        with self.guard("judging workers"):
            self.judge(now)
        for worker in self.workers.values():
            with self.guard("sending to a worker"):
                worker.flush()
            if worker.kill_at is not None and now >= worker.kill_at:
                log.warning("worker %d (pid %d) does not answer: killing it", worker.slot, worker.pid)
                worker.kill_at = None
                worker.signal(signal.SIGKILL)
        with self.guard("looking at the accept queues"):
            for slot in range(self.slots):
                self.board.slot(slot)[SlotField.ACCEPT_QUEUE] = self.listeners.accept_queue(slot)
        with self.guard("emptying inboxes"):
            self.drain_inboxes()
        if self.stopping:
            return
        with self.guard("starting workers"):
            self.reconcile_due(now)
        with self.guard("closing the oldest generation"):
            self._close_oldest(now)
        with self.guard("levelling"):
            self.level(now)
        if now >= self.steer_after:
            self.steer_after = now + steering.LOOK
            with self.guard("steering"):
                self.arrivals.look(self.board.total(Field.ACCEPTED), now)
                self.steer([worker for worker in self.serving() if worker.slot in self.wanted])

    def reconcile_due(self, now: float) -> None:
        """Start workers whose back-off is over, or that found no free row before."""
        if self._lacking(now):
            self.reconcile()
        else:
            self.short = ""

    def judge(self, now: float) -> None:
        """Find workers that show no sign of life: they get no connections, and after a time are killed."""
        limit = max(STUCK, self.config.workers.watchdog)
        changed = False
        for worker in self.workers.values():
            beat = self.board.row(worker.row)[Field.HEARTBEAT_NS]
            silence = worker.watch.look(now, beat, lambda pid=worker.pid: reading(pid))  # type: ignore[misc]
            if worker.stuck != (silence >= STUCK):
                changed = True
                worker.stuck = silence >= STUCK
                self.board.note(worker.row)[RowField.STUCK] = worker.stuck
                log.warning(
                    "worker %d (pid %d) shows no sign of life: no new connections for it"
                    if worker.stuck
                    else "worker %d (pid %d) shows signs of life again",
                    *(worker.slot, worker.pid),
                )
            if silence >= limit and not worker.killed:
                worker.killed = True
                log.error(
                    "worker %d (pid %d) has shown no sign of life for %.1f s: killing it",
                    *(worker.slot, worker.pid, silence),
                )
                worker.signal(signal.SIGKILL)
        if changed:
            self.reconcile()

    def busy(self) -> bool:
        """Whether the loop should tick fast."""
        return any(
            worker.retiring
            or not worker.ready
            or worker.watch.silence >= DOUBTFUL
            or self.board.row(worker.row)[Field.CONNECTIONS]
            for worker in self.workers.values()
        )

    def stop(self) -> None:
        """The final stop: everything drains, nobody takes over."""
        self.stopping = True
        for worker in self.workers.values():
            worker.retiring = True
            worker.kill_at = time.monotonic() + worker.config.drain.timeout + GRACE
            worker.send({"op": "retire", "to": [], "binds": []})

    def close(self) -> None:
        """Close the inboxes."""
        for sock in (*self.inboxes, *self.inbox_writers):
            with contextlib.suppress(OSError):
                sock.close()
