"""Guards of the event loop's callbacks: they bound what an error of pylb's own may cost.

A callback that raised would leave its connection half done, and its peer waiting for ever. So each catches
everything and has its object end what it was at: the request, if there is one, else the connection.

Floor: above the vocabulary, below everything that the event loop calls. Knows no codec.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from pylb.worker.core import Core
from pylb.worker.sides import FromServer


class Guarded(Protocol):
    """An object whose callbacks are guarded."""

    def crashed(self, error: Exception) -> None:
        """End what the callback was at; raises nothing."""


class Serving(Protocol):
    """A server side whose callbacks are guarded."""

    exchange: FromServer | None

    def crashed(self, error: Exception, exchange: FromServer | None) -> None:
        """End what the callback was at, for this exchange; raises nothing."""


class Asking(Protocol):
    """A client side, with the exchange of its request, if it has one."""

    core: Core
    exchange: Any


P = ParamSpec("P")
T = TypeVar("T")
One = TypeVar("One", bound=Guarded)
Server = TypeVar("Server", bound=Serving)


def guarded(callback: Callable[Concatenate[One, P], T]) -> Callable[Concatenate[One, P], T | None]:
    """A callback of the event loop that raises nothing; after an error it gives None."""

    @functools.wraps(callback)
    def call(self: One, *args: P.args, **kwargs: P.kwargs) -> T | None:
        try:
            return callback(self, *args, **kwargs)
        except Exception as error:
            self.crashed(error)
            return None

    return call  # type: ignore[return-value]


def serving(callback: Callable[Concatenate[Server, P], T]) -> Callable[Concatenate[Server, P], T | None]:
    """`guarded`, for a server side: ``crashed`` is told whose exchange it was when it began."""

    @functools.wraps(callback)
    def call(self: Server, *args: P.args, **kwargs: P.kwargs) -> T | None:
        exchange = self.exchange
        try:
            return callback(self, *args, **kwargs)
        except Exception as error:
            self.crashed(error, exchange)
            return None

    return call  # type: ignore[return-value]


def hand_back(side: Asking, error: Exception, end: Callable[[], None]) -> None:
    """What a client side does with an error: its exchange answers. A side without one, or whose exchange
    could not let go of it, is ended. Raises nothing."""
    exchange = side.exchange
    if exchange is not None:
        exchange.crashed(error)
        if side.exchange is not exchange:
            return
        side.exchange = None
    else:
        side.core.internal(error)
    try:
        end()
    except Exception as another:
        side.core.internal(another)
