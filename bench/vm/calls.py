"""Requests to QEMU's monitor and to a guest's agent.

Sources: QEMU QMP Reference Manual and QEMU Guest Agent Protocol Reference (``guest-sync-delimited``).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from pathlib import Path
from typing import Any

CALL_SECONDS = 20.0
"""In which QEMU or an agent must answer; an emulated machine that gets no CPU is slow."""


class GuestError(RuntimeError):
    """QEMU or the agent refused, or a guest did not start."""


class Calls:
    """Requests and answers as lines of JSON over a unix socket: QMP's and the agent's way."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._lock = asyncio.Lock()
        self._numbers = itertools.count(1)

    async def call(self, name: str, arguments: dict[str, Any], seconds: float = CALL_SECONDS) -> Any:
        """One call.

        Raises:
            GuestError: it was refused.
            OSError, TimeoutError: nobody answers; the next call connects anew.
        """
        async with self._lock:
            try:
                async with asyncio.timeout(seconds):
                    if self._writer is None:
                        await self._connect()
                    return await self._call(name, arguments)
            except (OSError, asyncio.IncompleteReadError, TimeoutError, asyncio.CancelledError) as error:
                self.close()
                if isinstance(error, asyncio.IncompleteReadError):
                    raise ConnectionError("QEMU has ended the connection") from None
                raise

    async def _connect(self) -> None:
        reader, writer = await asyncio.open_unix_connection(str(self._path), limit=1 << 24)
        self._reader, self._writer = reader, writer

    async def _call(self, name: str, arguments: dict[str, Any]) -> Any:
        assert self._reader is not None and self._writer is not None
        number = next(self._numbers)
        request: dict[str, Any] = {"execute": name, "id": number}
        if arguments:
            request["arguments"] = arguments
        self._writer.write(json.dumps(request).encode() + b"\n")
        while True:
            answer = json.loads(await self._reader.readuntil(b"\n"))
            if answer.get("id") == number:  # else: an event, a greeting, or the answer to a lost call
                break
        if "error" in answer:
            raise GuestError(f"{name}: {answer['error'].get('desc', answer['error'])}")
        return answer["return"]

    def close(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()
        self._reader = self._writer = None


class Qmp(Calls):
    async def _connect(self) -> None:
        await super()._connect()
        await self._call("qmp_capabilities", {})


class Agent(Calls):
    """The guest's agent. What was asked before the guest was reset may lie in the port, or its answer."""

    async def _connect(self) -> None:
        await super()._connect()
        assert self._reader is not None and self._writer is not None
        self._writer.write(b"\xff")  # ends what the agent may hold of an earlier line
        number = next(self._numbers)
        request = {"execute": "guest-sync-delimited", "arguments": {"id": number}}
        self._writer.write(json.dumps(request).encode() + b"\n")
        while True:
            await self._reader.readuntil(b"\xff")
            with contextlib.suppress(ValueError, AttributeError):
                if json.loads(await self._reader.readuntil(b"\n")).get("return") == number:
                    return
