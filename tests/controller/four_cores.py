"""A controller to talk with: its source has four idle cores."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
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
