"""The controller without a socket: for a balancer on the machine whose cores it uses itself.

Beside `client`, whose interface it has; knows leases and sources, and no peer.
"""

from __future__ import annotations

import asyncio
import math
import time

from controller.leases import LEASE_SECONDS, LeaseTable
from controller.protocol import Grant, Hello, Report
from controller.sources import Source

SAMPLE_SECONDS = 0.25


class EmbeddedController:
    """The same source and lease arithmetic as the server's, for one balancer; the interface of
    `controller.client.ControllerClient`."""

    connected = True
    description = "embedded"
    problem = ""

    def __init__(self, hello: Hello, source: Source) -> None:
        self.hello = hello
        self.source = source
        self._table = LeaseTable()
        self._grant: Grant | None = None
        self._granted_at = 0.0
        self._report: Report | None = None
        self._began = math.inf
        self.since = math.inf
        """When there was something to grant from, monotonic seconds."""

    def report(self, report: Report) -> None:
        """Say how the balancer is; the grant is renewed at once."""
        self._report = report
        now = time.monotonic()
        if now < self.since:
            return  # nothing was measured yet, which doesn't mean that no core is idle
        self._table.join("self", self.hello, now)
        self._table.report("self", report, now)
        source = self.source
        grants = self._table.tick(now, source.capacity(self._table.used()), source.idle())
        self._grant, self._granted_at = grants["self"], now

    def current(self, now: float) -> Grant | None:
        """The grant in force, None when its lease is over."""
        if self._grant is None or now - self._granted_at > LEASE_SECONDS:
            return None
        return self._grant

    async def run(self) -> None:
        """Keep measuring."""
        while True:
            self.sample(time.monotonic())
            await asyncio.sleep(SAMPLE_SECONDS)

    def sample(self, now: float) -> None:
        """Measure; from the second time on something is known."""
        self.source.sample(now)
        if self.since == math.inf and now > self._began:
            self.since = now
            if self._report is not None:
                self.report(self._report)
        self._began = min(self._began, now)
