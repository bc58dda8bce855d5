"""A function of the user's own, which the configuration file names: it gives the servers, or an iterator of
them.

It runs in a thread of its own, with an event loop of its own where it is asynchronous, so that one which
hangs keeps nothing but itself waiting. A thread can't be stopped: as long as a call hasn't returned there is
no other.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import queue
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from typing import Any

from pylb.config.model import Discover
from pylb.control.sources.source import Source
from pylb.discover import document
from pylb.discover.found import Answer, Failed
from pylb.repeats import raised_at


class FunctionSource(Source):
    """``MODULE:FUNCTION``: a function, a coroutine function, or an asynchronous generator function.

    Each call, or each value of the generator, is the whole list of servers as in a JSON document
    (`pylb.discover.document`).
    """

    def __init__(self, section: Discover) -> None:
        self._name = section.function or ""
        self._port = section.port
        self._seconds = section.timeout
        self._asked: queue.SimpleQueue[Future[object]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._pending: Future[object] | None = None
        self._generates = False

    async def look(self) -> Answer:
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
            self._thread.start()
        if self._pending is None:
            self._pending = Future()
            self._asked.put(self._pending)
        try:
            # Where it generates, the next value comes when it comes. The call itself is never cancelled.
            waited = asyncio.shield(asyncio.wrap_future(self._pending))
            value = await asyncio.wait_for(waited, None if self._generates else self._seconds)
        except TimeoutError:
            raise Failed(f"{self._name} has not returned within {self._seconds:g} s") from None
        except _Broken as error:
            self._pending = None
            raise Failed(str(error)) from None
        self._pending = None
        return Answer(document.of_value(value, self._port))

    def _serve(self) -> None:
        """The thread: import, then a call for each question."""
        loop = asyncio.new_event_loop()
        function: Callable[[], Any] | None = None
        values: AsyncIterator[object] | None = None
        while True:
            asked = self._asked.get()
            try:
                if function is None:
                    module, _, name = self._name.partition(":")
                    function = getattr(importlib.import_module(module), name)
                    self._generates = inspect.isasyncgenfunction(function)
                if self._generates:
                    values = values or function()
                    asked.set_result(loop.run_until_complete(_next(values)))
                    continue
                value = function()
                asked.set_result(loop.run_until_complete(value) if inspect.isawaitable(value) else value)
            except BaseException as error:  # the user's own code may raise anything, and must end nothing
                values = None
                asked.set_exception(_Broken(f"{self._name}: {error!r:.200} ({raised_at(error)})"))


async def _next(values: AsyncIterator[object]) -> object:
    return await anext(values)


class _Broken(Exception):
    """The function has raised something."""
