"""The process of the control plane: scaling and the admin address, which exist once and not once per worker.

The top floor of `pylb.control`. It sees workers through the scoreboard only, and changes nothing itself:
what it decides it asks of the supervisor. It may die at any time: traffic goes on, and the supervisor
starts it again.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

from aiohttp import web

from pylb import __version__, interpreter
from pylb import log as log_
from pylb.control import admin, backends, operate, snapshot, why
from pylb.control.checks import Checks
from pylb.control.context import ControlContext
from pylb.control.discovery import Discovery
from pylb.control.ejections import Ejections
from pylb.control.gate import Gate
from pylb.control.metrics import BoardCollector, exposition
from pylb.control.observations import Observations
from pylb.control.orders import Orders
from pylb.control.scaler import Scaler
from pylb.control.servers import Servers
from pylb.log import log
from pylb.net import channel, messages
from pylb.scoreboard import ControlField

_BEAT = 0.25  # seconds between heartbeats, by which the supervisor knows that it lives
_AGAIN = 1.0  # seconds until a part that has failed is started again


class ControlPlane:
    """Joins scaler and admin address to the supervisor's channel."""

    def __init__(self, context: ControlContext) -> None:
        self._context = context
        self.orders = Orders(context.channel)
        self.servers = Servers(context.config, context.board, context.lists, context.version)
        self.checks = Checks(
            *(self.servers.table, context.check_contexts, context.kept, self.orders.keep),
            *(self.orders.changed, context.config.unsafe_regex),
        )
        self.discovery = Discovery(context.config, context.sources, context.kept, self.orders)
        self._state: dict[str, Any] = {}
        self._heard = asyncio.Event()
        self.gone = asyncio.Event()
        self._site: web.SockSite | None = None
        self._stopping_site: asyncio.Future[None] | None = None
        self.observations = Observations(self.orders.keep)
        self.observations.take_back(context.kept)
        self.ejections = Ejections(
            *(context.board, self.servers, self.observations, self.orders.keep, self.orders.changed),
            *(context.kept, self._reason),
        )
        log_.count_lost(self._count_lost)
        self.scaler = Scaler(
            *(context.config, context.board, self._scale, context.controller_token, context.controller_tls)
        )

    def _scale(self, count: int, reason: str) -> None:
        self.orders.send({"op": "scale", "n": count, "reason": reason})

    def _count_lost(self, lines: int) -> None:
        self._context.board.control[ControlField.LOG_LOST] += lines

    async def _pin(self, count: int | None) -> tuple[int, str]:
        """Have the supervisor pin the count; gives an HTTP status and a sentence that says what was done."""
        return await self.orders.ask({"op": "pin", "n": count})

    def _read(self) -> None:
        for message in channel.waiting(self._context.channel):
            if message is None:
                self.gone.set()
                return
            wrong = messages.wrong(message, messages.TO_CONTROL)
            if wrong:
                log.error("a message of the supervisor is passed over: %s", wrong)
            elif message.get("op") == "state":
                self._take(message)
            elif message.get("op") == "servers":
                try:
                    self.servers.hear(message)
                except Exception:
                    log.exception("a list of servers could not be taken over")
            elif message.get("op") == "done":
                self.orders.done(message["id"], message["status"], message["said"])

    def _take(self, state: dict[str, Any]) -> None:
        """Act on a ``state`` message."""
        self._state = state
        self.scaler.target = state["target"]
        self.scaler.pinned = state["pinned"]
        self._heard.set()
        done = state.get("pin")  # the last order that was carried out: its number, a status and a sentence
        if isinstance(done, list) and len(done) == 3:
            self.orders.done(*done)
        if state.get("stopping") and self._site is not None and not self._context.admin_address.is_unix:
            # The next instance needs the port. (Of a unix socket the supervisor has renamed the file.)
            site, self._site = self._site, None
            self._stopping_site = asyncio.ensure_future(site.stop())
            if self._context.admin_socket is not None:
                self._context.admin_socket.close()

    def status(self) -> dict[str, Any]:
        """What ``/status`` answers."""
        board = self._context.board
        return {
            "version": __version__,
            "python": asdict(interpreter.BUILD),
            "uptime": round(time.time() - self._context.started_at, 1),
            "generation": self._state.get("generation", self._context.generation),
            "reload": self._state.get("reload"),
            "workers": snapshot.workers(board, self.scaler.busy.fractions),
            "servers": snapshot.servers(board, self.servers.indices, self.checks.status),
            "backends": backends.told(self.servers, self.ejections.panics),
            "discovery": self.discovery.status(),
            "queues": snapshot.queues(board),
            "totals": snapshot.totals(board),
            "log_lost": board.log_lost(),
            "accept_queue": snapshot.accept_queue(board),
            "scaling": self.scaler.status(),
        }

    def _reason(self, index: int) -> str:
        """What the checks of a server say."""
        check = self.checks.status(index) or {}
        return str(check.get("reason") or "")

    def why(self, name: str) -> dict[str, Any]:
        """What ``/why`` answers of a server: ``BACKEND/SERVER``, or the server's name alone."""
        entries = snapshot.servers(self._context.board, self.servers.indices, self.checks.status)
        now = time.time()
        found = [
            why.described(
                entry, self.observations.told((entry["backend"], entry["name"], entry["address"])), now
            )
            | self.discovery.why(entry["backend"], entry["name"])
            for entry in entries
            if name in (entry["name"], f"{entry['backend']}/{entry['name']}")
        ]
        return {"message": "\n".join(map(why.text, found)), "servers": found}

    def _beat(self) -> None:
        """Write the heartbeat, now and every `_BEAT` seconds."""
        self._context.board.control[ControlField.HEARTBEAT_NS] = time.monotonic_ns()
        asyncio.get_running_loop().call_later(_BEAT, self._beat)

    async def serve(self) -> None:
        """Work until told to stop or until the supervisor is gone."""
        context = self._context
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.gone.set)
        loop.add_reader(context.channel.fileno(), self._read)
        self._beat()
        collector = BoardCollector(
            *(context.board, self.servers.indices, self.scaler, self.checks.status, self.ejections.counts),
            self.discovery.status,
        )
        gate = Gate(
            *(context.admin_address, context.admin_token, os.uname().nodename, context.admin_read_token)
        )
        app = admin.application(
            self.status, self._pin, lambda: exposition(collector), self.scaler.limits, gate, self.why
        )
        operate.add_routes(app, self.servers, context.file, self.orders.ask)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        if context.admin_socket is not None:
            self._site = web.SockSite(runner, context.admin_socket.dup())
            await self._site.start()
        channel.send(context.channel, {"op": "ready"})
        self.servers.on_change.append(self.checks.change)
        self.checks.change(list(self.servers), [])
        tasks = [
            asyncio.create_task(self._keep("the controller's end", self.scaler.controller.run)),
            asyncio.create_task(self._keep("scaling", self._decide)),
            asyncio.create_task(self._keep("outlier detection", self.ejections.run)),
            *(asyncio.create_task(self._keep(name, work)) for name, work in self.discovery.parts()),
        ]
        await self.gone.wait()
        for task in tasks:
            task.cancel()
        await runner.cleanup()

    async def _keep(self, part: str, work: Callable[[], Awaitable[None]]) -> None:
        """Run a part, and run it again when it fails; the others, as the admin address, go on meanwhile."""
        said: set[str] = set()
        while True:
            try:
                await work()
            except Exception as error:
                # Once per kind; the same one may come every second.
                if repr(error)[:200] not in said and len(said) < 100:
                    said.add(repr(error)[:200])
                    log.exception("%s failed unexpectedly; it is begun anew", part)
            await asyncio.sleep(_AGAIN)

    async def _decide(self) -> None:
        await self._heard.wait()  # only the supervisor knows the count to start from
        await self.scaler.run()


def run(context: ControlContext) -> None:
    """Be the control plane; called in the forked process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the supervisor acts on it
    asyncio.run(_main(context))


async def _main(context: ControlContext) -> None:
    await ControlPlane(context).serve()
