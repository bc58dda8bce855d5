"""A worker process: one event loop that accepts, and relays what it accepted.

It owns nothing that must outlive it: listening sockets, inboxes and the scoreboard are the supervisor's.
It does what the supervisor's messages say (`listen`, `move`, `retire`) and ends when it is empty.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import math
import os
import random
import resource
import signal
import socket
import time
from array import array
from collections import deque
from collections.abc import Coroutine, Hashable
from typing import Any

import uvloop

from pylb import latency
from pylb import log as logging_
from pylb.config.model import Server
from pylb.http.errors import Refused
from pylb.http.request import HeadLimits
from pylb.log import log
from pylb.net import channel, messages
from pylb.repeats import Repeats
from pylb.scoreboard import NO_BACKEND, REASONS, Field, State, SupervisorField
from pylb.worker import proxied
from pylb.worker.client import ClientConnection
from pylb.worker.context import WorkerContext
from pylb.worker.descriptors import OUT_OF_DESCRIPTORS, Descriptors
from pylb.worker.exchange import Exchange
from pylb.worker.handover import HandOver
from pylb.worker.http2 import Http2Connection
from pylb.worker.http2server import Http2ServerStream, Http2Upstream
from pylb.worker.listener import Listener
from pylb.worker.pool import Backend
from pylb.worker.recall import Recalls
from pylb.worker.runqueue import RunQueue
from pylb.worker.server import ServerConnection
from pylb.worker.tcp import TcpConnection
from pylb.worker.tunnel import Tunnel

_FIRST_COUNTER = int(Field.CONNECTIONS)  # from here on, the cells are written by `Worker.flush` only
_STOP = {"op": "retire", "to": [], "binds": []}
_LONG_NS = 1_000_000_000  # from here on a request under way is a thing that keeps its connection here
_FAREWELL = 1.0  # seconds for tunnels that are cut to be closed by both sides
_TICK = 0.1  # seconds between writes of the gauges; also the resolution of `now`


class Worker:
    """State of the process, shared by all its connections."""

    def __init__(self, context: WorkerContext, loop: asyncio.AbstractEventLoop) -> None:
        config = context.config
        self.loop = loop
        self.row_index = context.row
        self.board = context.board
        self.cells = context.board.row(context.row)
        # Counted in a list and written to the cells with each tick: a cell costs several times as much.
        self.counters = [0] * int(Field.END)
        logging_.count_lost(self._count_lost)
        self.timeouts = config.timeouts
        limits = config.limits
        self.limits = limits
        self.spread = config.drain.spread
        self.head_limits = HeadLimits(limits.line_bytes, limits.header_bytes, limits.header_count)
        self.now = time.monotonic()
        self.clients: set[ClientConnection | TcpConnection | Http2Connection] = set()
        self.server_connections: set[ServerConnection | Http2Upstream | Http2ServerStream] = set()
        self.tunnels: set[Tunnel] = set()
        self.connecting: set[Exchange] = set()  # those that wait for a connection to a server
        self.repeats = Repeats()
        self.moves = False  # whether connections are wanted elsewhere
        self.recalls = Recalls(self.spread)
        self.leaving = False  # told to retire
        self.stopping = False  # no worker will take over: connections close
        self._cut = False  # the time for what remains is over
        self._cut_later: asyncio.TimerHandle | None = None
        self.alone = False
        self.tls = context.tls
        self._run_queue = RunQueue()
        self._held_by_others = 0  # client connections of other workers, as of the last tick
        self.times = [0] * latency.WIDTH  # of requests that are for no backend
        self._times = context.board.times(NO_BACKEND, context.row)
        backends = {}
        for backend in config.backends:

            def index_of(server: Server, name: str = backend.name) -> int:
                return context.servers[name, server.name, str(server.address)]

            backends[backend.name] = Backend(
                *(backend, context.board, index_of, context.row, lambda: self.alone),
                context.backend_tls.get(backend.name),
            )
        self._backends = list(backends.values())
        self._rows = 0  # of the scoreboard that are in use, as far as the backends know
        self.upstreams = [up for backend in backends.values() for up in backend.upstreams]
        self.listeners = {
            str(bind): Listener(self, str(bind), frontend, backends)
            for frontend in config.frontends
            for bind in frontend.bind
        }
        self.hand_over = HandOver(self, context.inbox, context.inboxes)
        self.offer = self.hand_over.offer
        self._context = context
        self._accepting: dict[tuple[str, int], asyncio.AbstractServer | proxied.ProxiedServer] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._orders: deque[dict[str, Any]] = deque()
        self._order_waits = asyncio.Event()
        self._gone = asyncio.Event()
        self._sweep_every = max(_TICK, min(1.0, min(config.timeouts.model_dump().values()) / 4))
        self._next_sweep = 0.0
        self._next_tick = 0.0
        self._ready = False
        self._slots: list[int] = []  # whose sockets are to be read
        self._paused_at = 0.0
        copies = sum(len(sockets) for sockets in context.listeners.values())
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        limit = limit if limit != resource.RLIM_INFINITY else 1 << 30
        self.descriptors = Descriptors(limit, _open_descriptors() + copies)

    # For connections

    def full(self) -> bool:
        """Whether there are as many client connections, over all workers, as there may be."""
        limit = self.limits.connections
        return bool(limit) and len(self.clients) + self._held_by_others >= limit

    def held(self) -> int:
        """How many client connections have a descriptor, those included that aren't in `clients` yet."""
        return len(self.clients) + self.hand_over.adopting

    def count_refusal(self, refused: Refused) -> None:
        """A client's request is not passed on."""
        self.counters[Field.REFUSED] += 1
        self.counters[Field.REFUSED_FOR + REASONS.index(refused.reason)] += 1

    def recall_at(self, born: float) -> float:
        """When a client that connected at ``born`` (monotonic) is asked to connect anew."""
        age = self.limits.connection_age
        return born + age * random.uniform(0.9, 1.1) if age else math.inf

    def client_gone(self) -> None:
        """A client connection or a tunnel has ended; when leaving, the last one lets the process end."""
        if self._cut:
            if not self.tunnels:
                self._gone.set()
        elif self.leaving and not self.clients and not self.hand_over.adopting:
            self._gone.set()

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run something rare beside the connections."""
        task = self.loop.create_task(self._spawned(coroutine))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _count_lost(self, lines: int) -> None:
        # At once: the traceback that a worker leaves behind is the last thing that it writes.
        self.counters[Field.LOG_LOST] += lines
        self.cells[Field.LOG_LOST] = self.counters[Field.LOG_LOST]

    async def _spawned(self, coroutine: Coroutine[Any, Any, None]) -> None:
        try:
            await coroutine
        except Exception as error:
            self.internal(error)

    # What goes wrong

    def say(self, level: int, kind: Hashable, text: str) -> None:
        """Log what may happen again and again; repetitions of a ``kind`` are counted."""
        if self.repeats.happened(kind, self.now, level, text):
            log.log(level, "%s", text)

    def internal(self, error: BaseException) -> None:
        """An error of our own has ended a request or a connection."""
        self.counters[Field.INTERNAL] += 1
        with contextlib.suppress(Exception):
            place = error.__traceback__
            while place is not None and place.tb_next is not None:
                place = place.tb_next
            where = "?"
            if place is not None:
                where = f"{os.path.basename(place.tb_frame.f_code.co_filename)}:{place.tb_lineno}"
            text = f"an error of pylb's own at {where}: {error!r}"
            kind = ("internal", type(error), where)
            if self.repeats.happened(kind, self.now, logging.ERROR, text):
                log.error("%s", text, exc_info=(type(error), error, error.__traceback__))

    def _loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What no callback has caught; the event loop goes on."""
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in OUT_OF_DESCRIPTORS:
            self.out_of_descriptors(error)
        elif error is not None:
            self.internal(error)
        else:
            text = str(context.get("message"))
            self.say(logging.ERROR, ("loop", text), f"event loop: {text}")

    # Descriptors

    def pause(self, seconds: float = 0.0) -> None:
        """Accept nothing until there are fewer connections, and not for so long."""
        # What libuv has accepted by now has been taken from the kernel's queue; the rest waits there.
        accepting, self._accepting = self._accepting, {}
        for server in accepting.values():
            server.close()
        if not self.descriptors.pause(self.now, seconds):
            return
        self._paused_at = self.now
        self.counters[Field.PAUSES] += 1
        self.say(
            logging.WARNING,
            "pause",
            f"accepting is paused: {self.held()} client connections are held, and the limit of "
            f"{self.descriptors.limit} descriptors (ulimit -n) suffices for {self.descriptors.bound}",
        )

    def out_of_descriptors(self, error: OSError) -> None:
        """There are none left, whoever has them."""
        self.say(logging.ERROR, "descriptors", f"out of descriptors: {error.strerror}")
        if not self.leaving:
            self.pause(1.0)

    def _go_on_accepting(self) -> None:
        if self.leaving or not self.descriptors.goes_on(self.held(), self.now):
            return
        self._order({"op": "listen", "slots": self._slots})
        text = f"accepting goes on after {self.now - self._paused_at:.1f} s"
        self.say(logging.INFO, "go on", text)

    def close_an_idle_server_connection(self) -> None:
        """Make room for one to another server: of those in the pools, one that was unused for long."""
        for upstream in self.upstreams:
            if upstream.pool:
                upstream.pool[0].abort()
                return

    # Life

    async def serve(self) -> None:
        """Work until retired or until the supervisor is gone."""
        loop = self.loop
        context = self._context
        loop.add_signal_handler(signal.SIGTERM, self._order, _STOP)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the supervisor's to act on
        loop.add_reader(context.channel.fileno(), self._read_channel)
        loop.set_exception_handler(self._loop_error)
        self.hand_over.listen()
        self._tick()
        while True:
            while not self._orders:
                self._order_waits.clear()
                await self._order_waits.wait()
            order = self._orders.popleft()
            try:
                if order["op"] == "listen":
                    self._slots = order["slots"]
                    await self._listen(order["slots"])
                elif order["op"] == "move":
                    self.hand_over.level(order["to"], order["count"], order["excess"], order["lively"])
            except Exception as error:
                if not self._ready:
                    raise  # who can't begin says so, and another one tries
                self.internal(error)
            if order["op"] == "retire":
                await self._leave(order["to"], set(order["binds"]), order.get("linger", 0.0))
                return

    def _order(self, order: dict[str, Any]) -> None:
        if self.leaving:
            if order["op"] == "cut":
                self._cut_rest(order["reason"])
            elif order["op"] == "retire" and order["to"] and not self.stopping:
                moving = [client for client in self.clients if client.movable]
                self._move_to(order["to"], set(order["binds"]))
                for client in moving:
                    if not client.movable:  # its bind is gone meanwhile
                        client.drain()
            elif order["op"] == "retire" and not self.stopping:
                # The others leave, too: what they were given now might be nobody's.
                self.stopping = True
                self.hand_over.keep()
                self._close_idle()
                self._cut_after(self._context.config.drain.timeout, "drain.timeout")
            return
        self._orders.append(order)
        self._order_waits.set()

    def _read_channel(self) -> None:
        for message in channel.waiting(self._context.channel):
            if message is None:
                log.error("the supervisor is gone; closing when the requests under way are answered")
                self.loop.remove_reader(self._context.channel.fileno())
                message = _STOP
            wrong = messages.wrong(message, messages.TO_WORKER)
            if wrong:
                log.error("a message of the supervisor is passed over: %s", wrong)
            else:
                self._order(message)

    async def _listen(self, slots: list[int]) -> None:
        """Accept from exactly these slots' sockets; a unix socket is one for all slots."""
        wanted: dict[tuple[str, int], socket.socket] = {}
        for bind, sockets in self._context.listeners.items():
            if bind.startswith("unix:"):
                if slots:
                    wanted[bind, 0] = sockets[0]
            else:
                for slot in slots:
                    wanted[bind, slot] = sockets[slot]
        for key in list(self._accepting):
            if key not in wanted:
                self._accepting.pop(key).close()
        for (bind, slot), sock in wanted.items():
            if (bind, slot) in self._accepting:
                continue
            if self.descriptors.paused:
                break  # when there is room again, this is done again
            listener = self.listeners[bind]
            if listener.by_hand:
                self._accepting[bind, slot] = proxied.ProxiedServer(self, listener, sock)
                continue
            # A copy, as closing the server closes what it was given.
            copy = sock.dup()
            backlog = self._context.config.backlog
            create: Any = self.loop.create_server
            options: dict[str, Any] = {}
            if bind.startswith("unix:"):
                create = self.loop.create_unix_server
                options["cleanup_socket"] = False  # it is the supervisor's; Python 3.13 says True
            server = await create(listener.accepted, sock=copy, backlog=backlog, **options)
            if self.descriptors.paused:
                server.close()  # meanwhile
            else:
                self._accepting[bind, slot] = server
        if not self._ready:
            self._ready = True
            self.cells[Field.STATE] = State.SERVING
            channel.send(self._context.channel, {"op": "ready"})

    async def _leave(self, targets: list[int], binds: set[str], linger: float) -> None:
        """Give all connections to other workers, or close them in an orderly way where there are none.

        What can't be given away is served here to its end: at a stop for ``drain.timeout``; else for
        ``linger`` seconds, where 0 is no bound, or until the supervisor says ``cut``.

        ``binds`` are those that the others have; what came in by another one is served here to its end.
        """
        self.leaving = True
        self.stopping = not targets
        self.cells[Field.STATE] = State.RETIRING
        accepting, self._accepting = self._accepting, {}
        for server in accepting.values():
            server.close()
        await self._close_listeners(binds)
        if targets:
            self._move_to(targets, binds)
        self._close_idle()
        self.client_gone()
        if self.stopping:
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
            if not self.clients and not self.hand_over.adopting:
                break
        if self.tunnels:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FAREWELL):
                    while self.tunnels:
                        self._gone.clear()
                        await self._gone.wait()
        # From here on the inbox is the supervisor's to empty: the loop turns a last time before the process
        # ends, and what it took then would be lost.
        self.loop.remove_reader(self._context.inbox.fileno())

    def _move_to(self, targets: list[int], binds: set[str]) -> None:
        """Give connections by these binds to the workers of these rows from now on."""
        for client in self.clients:
            client.movable = client.movable and client.listener.bind in binds
        self.hand_over.empty([row for row in targets if row != self.row_index])

    def _cut_after(self, seconds: float, reason: str) -> None:
        if self._cut_later is not None:
            self._cut_later.cancel()
        self._cut_later = self.loop.call_later(seconds, self._cut_rest, reason)

    def _cut_rest(self, reason: str) -> None:
        """Close what remains."""
        if self._cut:
            return
        self._cut = True
        log.warning(
            "%s: %d connections are closed, with %d tunnels", reason, len(self.clients), len(self.tunnels)
        )
        for tunnel in list(self.tunnels):
            tunnel.cut()
        self._gone.set()

    async def _close_listeners(self, read_by_others: set[str]) -> None:
        """Close our copies of all slots' sockets.

        Of a bind that nobody else will read, what the kernel has completed is accepted first. Every worker
        does so. The last copy to be closed was emptied just before, so a late handshake is accepted or
        refused, but not accepted and then forgotten.
        """
        for bind, sockets in self._context.listeners.items():
            listener = self.listeners[bind]
            for sock in sockets:
                if bind in read_by_others:
                    sock.close()
                    continue
                while True:
                    try:
                        connection, address = sock.accept()
                    except OSError:
                        sock.close()
                        break
                    connection.setblocking(False)
                    self.counters[Field.ACCEPTED] += 1
                    if listener.by_hand:
                        proxied.begin(self, listener, connection, address)
                        continue
                    with contextlib.suppress(OSError):
                        await self.loop.connect_accepted_socket(listener.protocol, connection)

    def _close_idle(self) -> None:
        """Have connections that stay here end, one after the other, so that clients don't come back as a
        herd; busy ones first, as an answer is the best moment to say it."""
        staying = [client for client in self.clients if self.stopping or not client.movable]
        staying.sort(key=lambda client: not client.busy)
        for position, client in enumerate(staying):
            self.loop.call_later(self.spread * position / len(staying), client.drain)

    # Time

    def _tick(self) -> None:
        """Ten times a second."""
        loop_now = self.loop.time()
        lag = loop_now - self._next_tick if self._next_tick else 0.0
        self._next_tick = loop_now + _TICK
        self.loop.call_at(self._next_tick, self._tick)
        try:
            self._look(lag)
        except Exception as error:
            self.internal(error)

    def _look(self, lag: float) -> None:
        """Write the gauges, look for passed deadlines."""
        now = self.now = time.monotonic()
        cells = self.cells
        self.flush()
        logging_.tick()
        cells[Field.HEARTBEAT_NS] = time.monotonic_ns()
        cells[Field.CPU_NS] = time.process_time_ns()
        cells[Field.WAITED_NS] = self._run_queue.waited_ns()
        cells[Field.LAG_US] = max(0, int(lag * 1e6))
        used = self.board.supervisor[SupervisorField.ROWS]
        if used != self._rows:
            self._rows = used
            for backend in self._backends:
                backend.look_at(used)
        rows = self.board.live_rows()
        self.alone = len(rows) == 1
        if self.limits.connections:
            others = (self.board.row(row) for row in rows if row != self.row_index)
            self._held_by_others = sum(cells[Field.CONNECTIONS] for cells in others)
        if now >= self._next_sweep:
            self._next_sweep = now + self._sweep_every
            self.hand_over.forget_quota()
            self.client_gone()
            for level, text in self.repeats.due(now):
                log.log(level, "%s", text)
            for client in [client for client in self.clients if client.deadline < now]:
                client.expire()
            if self.limits.connection_age:
                for client in self.clients:
                    if client.recall_at < now:
                        client.recall_at = math.inf  # asked
                        client.recall()
            self.counters[Field.LIVELY] = 0 if self.alone else sum(one.lively() for one in self.clients)
            self._count_fixed()
            for tunnel in [tunnel for tunnel in self.tunnels if tunnel.deadline < now]:
                tunnel.expire()
            for server in [server for server in self.server_connections if server.deadline < now]:
                server.expire()
            for exchange in [one for one in self.connecting if one.connect_deadline < now]:
                exchange.connect_expired()
        if self.descriptors.paused:
            self._go_on_accepting()
        if self.hand_over.deaf and not self.leaving:
            self.hand_over.listen()

    def _count_fixed(self) -> None:
        """Count what can't move to another worker: TLS, HTTP/2, tunnels, and requests that take long."""
        since = time.monotonic_ns() - _LONG_NS
        self.counters[Field.FIXED] = sum(
            not isinstance(client, ClientConnection)
            or not client.movable
            or (client.busy and client.started_ns < since)
            for client in self.clients
        )

    def flush(self) -> None:
        """Write what was counted to the scoreboard."""
        counters = self.counters
        counters[Field.TUNNELS] = len(self.tunnels)
        counters[Field.CONNECTIONS] = len(self.clients)
        counters[Field.IN_FLIGHT] = sum(upstream.active[upstream.row] for upstream in self.upstreams)
        self.cells[_FIRST_COUNTER:] = memoryview(array("q", counters[_FIRST_COUNTER:]))
        self._times[:] = memoryview(array("q", self.times))
        for backend in self._backends:
            backend.flush()


def _open_descriptors() -> int:
    """How many this process has open."""
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 64  # a guess; there is no /proc


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
        worker.flush()
