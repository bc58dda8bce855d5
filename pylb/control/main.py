"""The control plane's process: what happens once and not once per worker.

It may die at any time: traffic goes on, and the supervisor starts it again.
"""

from __future__ import annotations

import asyncio
import signal
import time
from typing import Any

from aiohttp import web

from pylb import __version__
from pylb import log as log_
from pylb.config.model import server_keys
from pylb.control import admin, snapshot
from pylb.control.context import ControlContext
from pylb.control.metrics import BoardCollector, exposition
from pylb.control.scaler import Scaler
from pylb.log import log
from pylb.net import channel
from pylb.scoreboard import ControlField


class ControlPlane:
    """Joins scaler and admin address to the supervisor's channel."""

    def __init__(self, context: ControlContext) -> None:
        self._context = context
        # Only those of this configuration: two that bear one name would be one label set in the metrics.
        self._servers = {key: context.servers[key] for key in server_keys(context.config)}
        self._state: dict[str, Any] = {}
        self._heard = asyncio.Event()
        self.gone = asyncio.Event()
        log_.count_lost(self._count_lost)
        self.scaler = Scaler(
            *(context.config, context.board, self._scale, context.controller_token, context.controller_tls)
        )

    def _scale(self, count: int, reason: str) -> None:
        channel.send(self._context.channel, {"op": "scale", "n": count, "reason": reason})

    def _count_lost(self, lines: int) -> None:
        self._context.board.control[ControlField.LOG_LOST] += lines

    def _pin(self, count: int | None) -> None:
        channel.send(self._context.channel, {"op": "pin", "n": count})

    def _read(self) -> None:
        for message in channel.waiting(self._context.channel):
            if message is None:
                self.gone.set()
                return
            if message.get("op") == "state":
                self._state = message
                self.scaler.target = message["target"]
                self.scaler.pinned = message["pinned"]
                self._heard.set()

    def status(self) -> dict[str, Any]:
        """What ``/status`` answers."""
        board = self._context.board
        return {
            "version": __version__,
            "uptime": round(time.time() - self._context.started_at, 1),
            "generation": self._state.get("generation", self._context.generation),
            "reload": self._state.get("reload"),
            "workers": snapshot.workers(board, self.scaler.busy.fractions),
            "servers": snapshot.servers(board, self._servers),
            "totals": snapshot.totals(board),
            "log_lost": board.log_lost(),
            "accept_queue": snapshot.accept_queue(board),
            "scaling": self.scaler.status(),
        }

    async def serve(self) -> None:
        """Work until told to stop or until the supervisor is gone."""
        context = self._context
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.gone.set)
        loop.add_reader(context.channel.fileno(), self._read)
        collector = BoardCollector(context.board, self._servers, self.scaler)
        app = admin.application(self.status, self._pin, lambda: exposition(collector), self.scaler.limits)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        if context.admin_socket is not None:
            await web.SockSite(runner, context.admin_socket.dup()).start()
        channel.send(context.channel, {"op": "ready"})
        tasks = [
            asyncio.create_task(self.scaler.controller.run()),
            asyncio.create_task(self._decide()),
            asyncio.create_task(self.gone.wait()),
        ]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if task.exception() is not None:
                log.error("control plane: %r", task.exception())
        for task in tasks:
            task.cancel()
        await runner.cleanup()

    async def _decide(self) -> None:
        await self._heard.wait()  # the count to start from is the supervisor's
        await self.scaler.run()


def run(context: ControlContext) -> None:
    """Be the control plane; called in the forked process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the supervisor's to act on
    asyncio.run(_main(context))


async def _main(context: ControlContext) -> None:
    await ControlPlane(context).serve()
