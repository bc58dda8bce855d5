"""Real processes on free ports, always stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from bench.rig.balancer import Balancer
from tests.e2e.http2client import Client
from tests.e2e.origin import Origin, Play, Scripted

StartBalancer = Callable[..., Balancer]
StartServer = Callable[[Play], Scripted]


@pytest.fixture
def origin() -> Iterator[Origin]:
    """A scripted server."""
    server = Origin()
    yield server
    server.stop()


@pytest.fixture
def scripted() -> Iterator[StartServer]:
    """Starts servers that play a part."""
    with ExitStack() as started:
        yield lambda play: started.enter_context(Scripted(play))


@pytest.fixture
def balancer() -> Iterator[StartBalancer]:
    """Starts balancers."""
    started: list[Balancer] = []

    def start(*arguments: str, servers: tuple[str, ...] = ()) -> Balancer:
        started.append(Balancer(*arguments, servers=servers))
        return started[-1]

    yield start
    for one in started:
        one.stop()


@pytest.fixture
def running(balancer: StartBalancer, origin: Origin) -> Balancer:
    """A balancer in front of ``origin``."""
    return balancer("--workers", "1..2", servers=(origin.address,))


@pytest.fixture
def client(running: Balancer) -> Iterator[Client]:
    """A client of it that speaks HTTP/2."""
    one = Client(running.port)
    yield one
    one.sock.close()
