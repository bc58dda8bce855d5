"""A controller to talk with, whose source has four idle cores, and waiting for what comes of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

from controller.address import parse
from controller.server import ControllerServer


class FourCores:
    """A source with four idle cores."""

    name = "test"

    def sample(self, now: float) -> None:
        pass

    def idle(self) -> float:
        return 4.0

    def capacity(self, used: Mapping[str, float]) -> float:
        return 4.0

    def usable(self) -> float:
        return 4.0

    def per_cpu(self) -> list[float]:
        return [1.0] * 4


@contextlib.asynccontextmanager
async def serving(path: Path) -> AsyncIterator[ControllerServer]:
    """A controller on a unix socket."""
    server = ControllerServer(FourCores())
    await server.start(parse(f"unix:{path}"))
    try:
        yield server
    finally:
        await server.close()


async def until(condition: Callable[[], object]) -> None:
    """Wait until it is so.

    Raises:
        TimeoutError: it isn't within 50 seconds.
    """
    async with asyncio.timeout(50):
        while not condition():
            await asyncio.sleep(0.01)
