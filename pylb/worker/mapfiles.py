"""Map files: read again when they change, while the worker serves.

Files are looked at once a second, and read, by a thread, since a disk may let one wait. What was read goes
into a new table in pieces of about a millisecond (where a large dictionary grows, of five), each between two
turns of the event loop; then it takes the place of the old one at once. A file that is missing or broken
leaves the map as it was.

Floor: beside the listeners; knows maps and the core, and no request.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from pylb.config.routing import read_map
from pylb.rules.maps import BadMap, Map
from pylb.worker.core import Core

_EVERY = 1.0  # seconds
LINES_AT_ONCE = 500


class MapFiles:
    """The maps of a worker, and the files that they come from."""

    def __init__(self, core: Core, maps: Sequence[tuple[Map, str]]) -> None:
        self._core = core
        self._maps = maps
        self._refused: dict[str, object] = {}
        """By map, the version of its file that could not be used, or why there is none."""

    def watch(self) -> None:
        """Look at the files for as long as the worker lives; without maps, do nothing."""
        if self._maps:
            self._core.spawn(self._watch())

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_EVERY)
            await self.look()

    async def look(self) -> None:
        """Read again what has changed."""
        for one, file in self._maps:
            refused = self._refused.get(one.name)
            last = one.version if refused is None else refused
            try:
                version, text = await asyncio.to_thread(read_map, file, last)
            except OSError as error:
                why = error.strerror or str(error)
                if refused != why:
                    self._refused[one.name] = why
                    self._say(one, file, why)
                continue
            if version == last:
                continue
            reading = one.reading(text)
            try:
                while not reading.step(LINES_AT_ONCE):
                    await asyncio.sleep(0)
            except BadMap as error:
                self._refused[one.name] = version
                self._say(one, file, str(error))
                continue
            self._refused.pop(one.name, None)
            one.version = version
            one.take(reading)
            self._core.say(
                logging.INFO, ("map", one.name, "read"), f"map {one.name}: {one.entries} entries of {file}"
            )

    def _say(self, one: Map, file: str, why: str) -> None:
        text = f"map {one.name}: {file}: {why}; what was read before stays in use"
        self._core.say(logging.ERROR, ("map", one.name, why), text)
