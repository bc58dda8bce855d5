"""The Docker Engine of this machine: containers with labels (`pylb.discover.labels`), over its unix socket.

The list of containers is asked for, and again at each event of one; events begin before the list, so that
none is missed between the two. (Docker Engine API, ``/containers/json`` and ``/events``.)
"""

from __future__ import annotations

import asyncio
import json

import aiohttp

from pylb.config.model import Discover
from pylb.control.sources.source import Source
from pylb.discover import labels
from pylb.discover.found import Answer, Failed

LARGEST = 16 << 20
"""Bytes of a list of containers."""
_TOGETHER = 0.1  # seconds in which events count as one, as those of a project that starts
_EVENTS = ["start", "die", "stop", "kill", "pause", "unpause", "health_status", "destroy", "rename", "update"]


class DockerSource(Source):
    """An engine, and one backend's containers in it."""

    def __init__(self, section: Discover, backend: str) -> None:
        self.limit = section.timeout
        self._path = section.docker or ""
        self._wanted = labels.Wanted(backend, section.label, section.network, section.port)
        self._label = [f"{section.label}.backend={backend}"]
        self._session: aiohttp.ClientSession | None = None
        self._events: aiohttp.ClientResponse | None = None

    async def look(self) -> Answer:
        try:
            if self._session is None:
                self._session = aiohttp.ClientSession(
                    "http://docker",
                    connector=aiohttp.UnixConnector(self._path),
                    timeout=aiohttp.ClientTimeout(total=None),
                )
            if self._events is None:
                wanted = {"type": ["container"], "label": self._label, "event": _EVENTS}
                self._events = await self._ask(self._session, "/events", wanted)
            wanted = {"label": self._label, "status": ["running"]}
            async with await self._ask(self._session, "/containers/json", wanted) as response:
                data = await response.content.read(LARGEST)
                if not response.content.at_eof():
                    data += await _rest(response)
            return labels.servers(json.loads(data), self._wanted)
        except (aiohttp.ClientError, ValueError) as error:
            await self.close()
            raise Failed(str(error) or type(error).__name__) from None

    async def _ask(
        self, session: aiohttp.ClientSession, path: str, filters: dict[str, list[str]]
    ) -> aiohttp.ClientResponse:
        response = await session.get(path, params={"filters": json.dumps(filters)})
        if response.status != 200:
            said = (await response.content.read(500)).decode(errors="replace").strip()
            response.close()
            raise Failed(f"the engine answers {path} with status {response.status}: {said}")
        return response

    async def changed(self) -> None:
        if self._events is None:
            await super().changed()
            return
        try:
            more = await self._events.content.readany()
        except aiohttp.ClientError:
            more = b""
        if not more:  # the engine has ended; the next look says what is there
            self._events.close()
            self._events = None
        await asyncio.sleep(_TOGETHER)

    async def close(self) -> None:
        if self._events is not None:
            self._events.close()
            self._events = None
        if self._session is not None:
            await self._session.close()
            self._session = None


async def _rest(response: aiohttp.ClientResponse) -> bytes:
    """What else there is of a body, within bounds."""
    data = b""
    async for piece in response.content.iter_any():
        data += piece
        if len(data) > LARGEST:
            raise Failed(f"the engine answers with more than {LARGEST >> 20} MiB")
    return data
