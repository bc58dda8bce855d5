"""A worker process: one event loop that accepts, and relays what it accepted.

It owns nothing that must outlive it: listening sockets, inboxes and the scoreboard are the supervisor's.
It does what the supervisor's messages say (`listen`, `move`, `retire`, `cut`) and ends when it holds no
connection any more.

Floor: the top one of the data plane. It builds all parts and hands each what that needs; none of them knows
it, and it knows no protocol.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import time
from array import array
from collections import deque
from typing import Any

import uvloop

from pylb import log as logging_
from pylb.config import routing, stickiness
from pylb.config.accesslog import in_force
from pylb.log import log
from pylb.net import channel, messages, tcpoptions
from pylb.scoreboard import NO_BACKEND, Field, State, SupervisorField
from pylb.servers import Table
from pylb.worker import phases
from pylb.worker.backend import Backend
from pylb.worker.context import WorkerContext
from pylb.worker.core import SPARE, Core
from pylb.worker.descriptors import OUT_OF_DESCRIPTORS, Descriptors
from pylb.worker.frontend import Bind
from pylb.worker.handover import HandOver
from pylb.worker.listeners import Listener, Listeners
from pylb.worker.lists import Lists
from pylb.worker.logwriter import LAST, writer
from pylb.worker.mapfiles import MapFiles
from pylb.worker.phases import choose, keys
from pylb.worker.phases.gates import Gates
from pylb.worker.runqueue import RunQueue, open_descriptors
from pylb.worker.server.down import shutting_sessions
from pylb.worker.sweep import Sweep

_FIRST_COUNTER = int(Field.CONNECTIONS)  # from here on, the cells are written by `Worker.flush` only
_STOP = {"op": "retire", "to": [], "binds": []}
_FAREWELL = 1.0  # seconds in which the two sides of a tunnel that is cut may close it themselves
_TICK = 0.1  # seconds between writes of the gauges; also the resolution of the worker's clock


class Worker:
    """The parts of the process, the supervisor's orders to it, and its clock."""

    def __init__(self, context: WorkerContext, loop: asyncio.AbstractEventLoop) -> None:
        config = context.config
        copies = sum(len(sockets) for sockets in context.listeners.values())
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        limit = limit if limit != resource.RLIM_INFINITY else 1 << 30
        core = self.core = Core(
            *(loop, config.timeouts, config.limits, config.drain.spread),
            Descriptors(limit, open_descriptors() + copies),
        )
        core.now = time.monotonic()
        core.tcp_options = tcpoptions.options(config.tcp)
        self.board = context.board
        self.row = context.row
        self.cells = context.board.row(context.row)
        logging_.count_lost(self._count_lost)
        # The supervisor's orders.
        self._context = context
        self._orders: deque[dict[str, Any]] = deque()
        self._order_waits = asyncio.Event()
        self._ready = False
        self._cut = False  # the connections that remain are being closed
        self._cut_later: asyncio.TimerHandle | None = None
        self._gone = asyncio.Event()
        # The parts.
        self.alone = False
        self.backends: dict[str, Backend] = {}
        self.gates = Gates(core, context.board, context.row)
        for backend in config.backends:
            made = self.backends[backend.name] = Backend(
                *(backend, context.board, context.lists[backend.name], context.row),
                context.backend_tls.get(backend.name),
                config.timeouts,
            )
            made.upgrade_context = context.upgrade_tls.get(backend.name)
            made.key = keys.compiled(backend)
            made.stick(stickiness.compiled(backend, context.sticky.get(backend.name, b"")))
            made.choose = choose.compiled(made)
            self.gates.watch(made)
            if backend.on_marked_down == "shutdown-sessions":
                made.on_down.append(shutting_sessions(core, Table(context.board)))
        self._lists = Lists(core, self.cells, config.backends, self.backends, context.version)
        core.access_logs = {target: writer(target, to) for target, to in context.access_logs.items()}
        binds: dict[str, Bind] = {}
        listeners: dict[str, Listener] = {}
        for frontend in config.frontends:
            access_log = in_force(config.log.access, frontend.access_log)
            rules = routing.compiled(config, frontend, context.maps, self.backends, context.bodies)
            compiled = phases.compiled(frontend, self.backends, core, rules, context.bodies, access_log)
            sni = {name: self.backends[to] for name, to in frontend.sni.items()}
            for address in frontend.bind:
                key = str(address)
                bind = binds[key] = Bind(key, frontend, compiled, sni, core.head_limits)
                # A missing context raises here: a frontend with TLS is never served in clear text.
                tls = context.tls[key].context() if bind.tls else None
                listeners[key] = Listener(core, bind, frontend, tls)
        self.listeners = Listeners(core, context.listeners, listeners, config.backlog)
        inbox, inboxes = context.inbox, context.inboxes
        self.hand_over = HandOver(core, self.board, self.row, inbox, inboxes, binds, self.backends)
        self._map_files = MapFiles(core, [(context.maps[one.name], one.file) for one in config.maps])
        core.offer = self.hand_over.offer
        core.pause = self.listeners.pause
        core.emptier = self.emptier
        core.free_a_descriptor = self._free_a_descriptor
        core.announcing = self._announcing
        # Time.
        self._run_queue = RunQueue()
        self._times = context.board.times(NO_BACKEND, context.row)
        self._rows: list[int] = []  # of the scoreboard that are in use, as far as the backends know
        self._sweep = Sweep(core, config, _TICK)
        self._next_tick = 0.0

    # What `Core` calls

    def emptier(self) -> None:
        """A client connection or a tunnel has ended; when leaving, the last one lets the process end."""
        core = self.core
        if self._cut:
            if not core.tunnels:
                self._gone.set()
        elif core.leaving and not core.clients and not core.adopting:
            self._gone.set()

    def _announcing(self) -> bool:
        return self.core.stopping or bool(self.board.supervisor[SupervisorField.ANNOUNCING])

    def _free_a_descriptor(self) -> None:
        for backend in self.backends.values():
            for server in backend.servers:
                if server.pool.shrink():
                    return

    def _count_lost(self, lines: int) -> None:
        # At once: the traceback that a worker leaves behind is the last thing that it writes.
        counters = self.core.counters
        counters[Field.LOG_LOST] += lines
        self.cells[Field.LOG_LOST] = counters[Field.LOG_LOST]

    def _loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log an exception that no callback has caught; the event loop goes on."""
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in OUT_OF_DESCRIPTORS:
            self.core.out_of_descriptors(error)
        elif error is not None:
            self.core.internal(error)
        else:
            text = str(context.get("message"))
            self.core.say(logging.ERROR, ("loop", text), f"event loop: {text}")

    # Life

    async def serve(self) -> None:
        """Work until retired or until the supervisor is gone."""
        loop = self.core.loop
        context = self._context
        loop.add_signal_handler(signal.SIGTERM, self._order, _STOP)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the supervisor's to act on
        loop.add_reader(context.channel.fileno(), self._read_channel)
        loop.set_exception_handler(self._loop_error)
        self.hand_over.listen()
        self.gates.listen()
        self._tick()
        self._map_files.watch()
        while True:
            while not self._orders:
                self._order_waits.clear()
                await self._order_waits.wait()
            order = self._orders.popleft()
            try:
                if order["op"] == "listen":
                    await self.listeners.listen(order["slots"])
                    self._say_ready()
                elif order["op"] == "move":
                    self.hand_over.level(order["to"], order["count"], order["excess"], order["lively"])
            except Exception as error:
                if not self._ready:
                    raise  # a worker that can't begin ends, and the supervisor starts another one
                self.core.internal(error)
            if order["op"] == "retire":
                await self._leave(order)
                return

    def _say_ready(self) -> None:
        if not self._ready:
            self._ready = True
            self.cells[Field.STATE] = State.SERVING
            channel.send(self._context.channel, {"op": "ready"})

    def _read_channel(self) -> None:
        fds: list[int] = []
        for message in channel.waiting(self._context.channel, fds):
            if message is None:
                log.error("the supervisor is gone; closing when the requests under way are answered")
                self.core.loop.remove_reader(self._context.channel.fileno())
                message = _STOP
            wrong = messages.wrong(message, messages.TO_WORKER)
            if wrong:
                log.error("a message of the supervisor is passed over: %s", wrong)
            elif message["op"] == "reopen":
                for target, one in self.core.access_logs.items():
                    if fds and target.path == message["path"]:
                        one.reopened(fds[0])
            elif message["op"] in ("servers", "look"):
                self._lists.hear(message)
            else:
                self._order(message)

    def _order(self, order: dict[str, Any]) -> None:
        core = self.core
        if core.leaving:
            if order["op"] == "cut":
                self._cut_rest(order["reason"])
            elif order["op"] == "retire" and order["to"] and not core.stopping:
                moving = [client for client in core.clients if client.movable]
                self._move_to(order)
                for client in moving:
                    if not client.movable:  # a reload has removed its bind meanwhile
                        client.drain()
            elif order["op"] == "retire" and not core.stopping:
                # The other workers leave, too: none might be left for a connection that is given away now.
                core.stopping = True
                self.hand_over.keep()
                self._close_idle()
                self._cut_after(self._context.config.drain.timeout, "drain.timeout")
            return
        self._orders.append(order)
        self._order_waits.set()

    async def _leave(self, order: dict[str, Any]) -> None:
        """Give all connections to other workers, or close them in an orderly way where there are none.

        What can't be given away is served here to its end: at a stop for ``drain.timeout``; else for
        ``linger`` seconds (``drain.linger``), where 0 is no bound, or until the supervisor says ``cut``.
        """
        core, targets, linger = self.core, order["to"], order.get("linger", 0.0)
        core.leaving = True
        core.stopping = not targets
        self.cells[Field.STATE] = State.RETIRING
        self.listeners.stop()
        await self.listeners.close(set(order["binds"]))
        if targets:
            self._move_to(order)
        self._close_idle()
        before = set(core.clients)
        await self.listeners.close_rest(handshakes=not core.stopping)
        for client in core.clients - before:  # they will be told with their next response
            core.loop.call_later(core.spread, client.drain)
        self.emptier()
        if core.stopping:
            self._cut_after(self._context.config.drain.timeout, "drain.timeout")
        elif linger:
            self._cut_after(linger, "drain.linger")
        later, self._orders = self._orders, deque()
        for order in later:
            self._order(order)
        while not self._cut:
            await self._gone.wait()
            self._gone.clear()
            # Closed descriptors, and packets that came at the last moment.
            await asyncio.sleep(0)
            self.hand_over.receive()
            if not core.clients and not core.adopting:
                break
        if core.tunnels:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FAREWELL):
                    while core.tunnels:
                        self._gone.clear()
                        await self._gone.wait()
        # From here on the inbox is the supervisor's to empty: the loop turns a last time before the process
        # ends, and what it took then would be lost.
        core.loop.remove_reader(self._context.inbox.fileno())

    def _move_to(self, order: dict[str, Any]) -> None:
        """Give what those workers have a place for to them from now on; the rest stays here."""
        binds, renamed, gone = (set(order.get(key, ())) for key in ("binds", "renamed", "gone"))
        for client in self.core.clients:
            client.movable = client.movable and client.facts.bind in binds
        taken = binds - renamed
        targets = [row for row in order["to"] if row != self.row]
        self.hand_over.empty(targets, lambda bind, backend: bind in taken and backend not in gone)

    def _cut_after(self, seconds: float, reason: str) -> None:
        if self._cut_later is not None:
            self._cut_later.cancel()
        self._cut_later = self.core.loop.call_later(seconds, self._cut_rest, reason)

    def _cut_rest(self, reason: str) -> None:
        """Close what remains."""
        if self._cut:
            return
        self._cut = True
        log.warning(
            "%s: %d connections are closed, with %d tunnels",
            *(reason, len(self.core.clients), len(self.core.tunnels)),
        )
        for tunnel in list(self.core.tunnels):
            tunnel.cut()
        self._gone.set()

    def _close_idle(self) -> None:
        """Have the connections that stay here end, spread over `Core.spread`, so that clients don't come back
        as a herd. Busy ones are first: a response is the best moment to ask a client to come back."""
        core = self.core
        staying = [client for client in core.clients if core.stopping or not client.movable]
        staying.sort(key=lambda client: not client.busy)
        for position, client in enumerate(staying):
            core.loop.call_later(core.spread * position / len(staying), client.drain)

    # Time

    def _tick(self) -> None:
        """Look at gauges and deadlines ten times a second, however late the loop is."""
        loop = self.core.loop
        now = loop.time()
        lag = now - self._next_tick if self._next_tick else 0.0
        self._next_tick = now + _TICK
        loop.call_at(self._next_tick, self._tick)
        try:
            self._look(lag)
        except Exception as error:
            self.core.internal(error)

    def _look(self, lag: float) -> None:
        """Write gauges and counters to the scoreboard, and look for deadlines that have passed."""
        core = self.core
        now = core.now = time.monotonic()
        for look in core.on_tick:
            look()
        cells = self.cells
        self.flush()
        logging_.tick()
        cells[Field.HEARTBEAT_NS] = time.monotonic_ns()
        cells[Field.CPU_NS] = time.process_time_ns()
        cells[Field.WAITED_NS] = self._run_queue.waited_ns()
        cells[Field.LAG_US] = max(0, int(lag * 1e6))
        rows = self.board.live_rows()
        if rows != self._rows:
            self._rows = rows
            for backend in self.backends.values():
                backend.look_at(rows)
        self._lists.look()
        self.gates.tick()
        self.alone = len(rows) == 1
        if core.access_logs:
            self._write_access_logs()
        if core.limits.connections or core.access_logs:
            others = (self.board.row(row) for row in rows if row != self.row)
            core.held_by_others = sum(cells[Field.CONNECTIONS] for cells in others)
        if self._sweep.look(now, self.alone):
            self.hand_over.forget_quota()
            self.emptier()
            del core.spare[SPARE:]
            for level, text in core.repeats.due(now):
                log.log(level, "%s", text)
        if core.descriptors.paused and not core.leaving:
            slots = self.listeners.resumable()
            if slots is not None:
                self._order({"op": "listen", "slots": slots})
        if self.hand_over.deaf and not core.leaving:
            self.hand_over.listen()

    def _write_access_logs(self) -> None:
        core = self.core
        lost = 0
        for one in core.access_logs.values():
            one.push()
            lost += one.lost
        if lost > core.counters[Field.ACCESS_LOST]:
            core.counters[Field.ACCESS_LOST] = lost
            for one in core.access_logs.values():
                if one.why:
                    text = f"access log {one.name}: lines are missing: {one.why}"
                    core.say(logging.ERROR, ("access log", one.name), text)

    def close_access_logs(self) -> None:
        """Write what is left of them; nothing is served any more, so this may wait for a moment."""
        until = time.monotonic() + LAST
        for one in self.core.access_logs.values():
            one.close(until)
        self.core.counters[Field.ACCESS_LOST] = sum(one.lost for one in self.core.access_logs.values())

    def flush(self, all_servers: bool = False) -> None:
        """Write what was counted to the scoreboard."""
        core, counters = self.core, self.core.counters
        counters[Field.TUNNELS] = len(core.tunnels)
        counters[Field.CONNECTIONS] = len(core.clients)
        counters[Field.IN_FLIGHT] = self.board.active_total(self.row)
        self.cells[_FIRST_COUNTER:] = memoryview(array("q", counters[_FIRST_COUNTER:]))
        self._times[:] = memoryview(array("q", core.times))
        for backend in self.backends.values():
            backend.flush(all_servers)


def run(context: WorkerContext) -> None:
    """Be a worker until told to leave; called in the forked process."""
    gc.freeze()  # what the supervisor made is never garbage here
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        context.board.row(context.row)[Field.PID] = os.getpid()
        runner.run(_main(context))


async def _main(context: WorkerContext) -> None:
    worker = Worker(context, asyncio.get_running_loop())
    try:
        await worker.serve()
    finally:
        worker.close_access_logs()
        worker.flush(all_servers=True)
