"""The sweep: who is late is told in time, and idle connections aren't looked at for others' timeouts."""

from __future__ import annotations

import math
from typing import Any

from pylb.config.address import parse_address
from pylb.config.model import Backend, Config, Frontend, Server, Timeouts
from pylb.scoreboard import Field
from pylb.worker.sweep import Sweep
from tests.http.wire import TestCore

TICK = 0.1


class Carrier:
    """A client connection; it counts how often its deadline was asked for, and is told that it is late."""

    long = False

    def __init__(self, due: float = math.inf, movable: bool = True) -> None:
        self.deadline = due
        self.movable = movable
        self.asked = self.told = 0

    def due(self) -> float:
        """Its deadline."""
        self.asked += 1
        return self.deadline

    def expire(self) -> None:
        """Late."""
        self.told += 1
        self.deadline = math.inf

    def lively(self) -> bool:
        """As `ClientConnection`."""
        return not self.movable


class Side:
    """A client side: a stream of a connection."""

    def __init__(self, carrier: Carrier) -> None:
        self.carrier = carrier


class UnderWay:
    """An exchange."""

    def __init__(self, client: Side | None, due: float) -> None:
        self.client = client
        self.deadline = due

    def due(self) -> float:
        """As `Exchange`."""
        return self.deadline


def config(**timeouts: float) -> Config:
    """A backend whose servers have a fifth of a second to answer."""
    server = Server(name="s", address=parse_address("127.0.0.1:2"))
    backend = Backend.model_validate({"name": "b", "servers": (server,), "timeouts": {"server": 0.2}})
    frontend = Frontend(name="f", bind=(parse_address("127.0.0.1:1"),), backend="b")
    return Config(timeouts=Timeouts(**timeouts), frontends=(frontend,), backends=(backend,))


def swept(core: Any, config: Config, seconds: float, alone: bool = True) -> None:
    """So long a time."""
    sweep = Sweep(core, config, TICK)
    for tick in range(round(seconds / TICK)):
        sweep.look(tick * TICK + 1e-9, alone)


def test_idle_connections_are_not_asked_as_often_as_the_shortest_timeout_says() -> None:
    core: Any = TestCore()
    idle = Carrier()
    core.clients.add(idle)
    swept(core, config(), 10.0)
    assert idle.asked == 10
    often = Carrier()
    core.clients = {often}
    swept(core, config(keep_alive=1.0), 10.0)
    assert 30 <= often.asked <= 40


def test_a_late_request_is_told_by_the_tick_and_once_for_a_connection() -> None:
    core: Any = TestCore()
    carrier = Carrier(due=0.25)
    side = Side(carrier)
    exchanges = [UnderWay(side, 0.25), UnderWay(side, 0.22), UnderWay(side, 5.0), UnderWay(None, 0.0)]
    core.exchanges.update(exchanges)
    sweep = Sweep(core, config(), TICK)
    told = []
    for tick in range(5):
        sweep.look(tick * TICK + 1e-9, True)
        told.append(carrier.told)
        if carrier.told:
            break
    assert told == [0, 0, 0, 1]
    assert carrier.asked == 0  # it was not in `clients`, and is found by its exchange alone


def test_connections_that_cannot_move_are_counted() -> None:
    core: Any = TestCore()
    core.clients.update({Carrier(), Carrier(movable=False), Carrier(movable=False)})
    for alone, lively in ((True, 0), (False, 2)):
        swept(core, config(), TICK, alone)
        assert core.counters[Field.FIXED] == 2 and core.counters[Field.LIVELY] == lively
