"""What the supervisor tells a worker of servers: lists of them, and that the table of servers has changed.

Floor: below the process. Knows backends, and no connection.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pylb.config.backend import Backend as BackendConfig
from pylb.net.serverlists import Reader
from pylb.scoreboard import Field
from pylb.worker.backend import Backend
from pylb.worker.core import Core


class Lists:
    """Has the backends go by the newest lists.

    Args:
        core: has the counters that are written to the worker's row.
        cells: that row.
        version: of the lists with which the backends were made.
    """

    def __init__(
        self,
        core: Core,
        cells: memoryview,
        configs: Iterable[BackendConfig],
        backends: Mapping[str, Backend],
        version: int,
    ) -> None:
        self._core = core
        self._cells = cells
        self._reader = Reader({config.name: config for config in configs})
        self._backends = backends
        self._lost = False
        core.counters[Field.LISTS] = version

    def hear(self, message: Mapping[str, Any]) -> None:
        """A ``servers`` or ``look`` message."""
        try:
            if message["op"] == "servers":
                self._take(message)
            else:
                self.look()
        except Exception as error:
            self._lost = True
            self._core.internal(error)

    def _take(self, message: Mapping[str, Any]) -> None:
        found = self._reader.take(message)
        if found is not None:
            name, listed = found
            self._backends[name].set_servers(listed)
        # A worker that has failed here may know servers that it should not: their indices stay theirs.
        if message["part"] == message["parts"] and not self._lost:
            self._cells[Field.LISTS] = self._core.counters[Field.LISTS] = message["version"]

    def look(self) -> None:
        """Have each backend look at the table of servers, if that has changed."""
        for backend in self._backends.values():
            if backend.versions[0] != backend.seen:
                backend.look()
