"""A connection that has to end: GOAWAY in two steps (RFC 9113 §6.8), and nothing is refused in between."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import h2.connection
import h2.events
import pytest
from hyperframe.frame import Frame, GoAwayFrame

from bench.rig.balancer import Balancer, free_port
from tests.e2e.conftest import StartBalancer
from tests.e2e.http2client import Client, nothing_left
from tests.e2e.origin import Origin

ANY_STREAM = (1 << 31) - 1


class OutlivesGoaway(h2.connection.H2Connection):
    """For h2 a connection is over with a GOAWAY; here it is an event and no more."""

    def _receive_goaway_frame(self, frame: GoAwayFrame) -> tuple[list[Frame], list[h2.events.Event]]:
        event = h2.events.ConnectionTerminated()
        event.error_code = frame.error_code
        event.last_stream_id = frame.last_stream_id
        return [], [event]


class Patient(Client):
    """A client whose streams outlive a GOAWAY, and that opens more of them if it is told to."""

    machine = OutlivesGoaway

    def __init__(self, port: int, sock: socket.socket | None = None) -> None:
        self.goaways: list[int] = []
        """The last streams that they named."""
        self.silent = 0  # a stream on which nothing happens
        super().__init__(port, sock=sock)

    def receive(self) -> bool:
        there = super().receive()
        for event in list(self.events):
            if isinstance(event, h2.events.ConnectionTerminated):
                assert event.error_code == 0
                self.goaways.append(event.last_stream_id or 0)
                self.events.remove(event)
        return there

    def until(self, goaways: int) -> None:
        """Read until so many have come."""
        while len(self.goaways) < goaways:
            assert self.receive()

    def to_the_end(self) -> None:
        """Read until the balancer closes."""
        while self.receive():
            pass


@pytest.fixture
def quick(balancer: StartBalancer, origin: Origin, tmp_path: Path) -> Balancer:
    """A balancer whose connections are due at once when their worker leaves."""
    return start(balancer, origin, tmp_path, 'drain = {spread = "1ms"}')


def start(balancer: StartBalancer, origin: Origin, folder: Path, text: str) -> Balancer:
    port = free_port()
    file = folder / "pylb.toml"
    file.write_text(
        f"{text}\nworkers = {{min = 1, max = 2}}\n"
        f'[[frontend]]\nname = "f"\nbind = "127.0.0.1:{port}"\nbackend = "b"\n'
        f'[[backend]]\nname = "b"\n[[backend.server]]\naddress = "{origin.address}"\n'
    )
    running = balancer("-c", str(file))
    running.port = port
    return running


@pytest.fixture
def client(quick: Balancer) -> Iterator[Patient]:
    one = Patient(quick.port)
    yield one
    one.sock.close()


def leaving(running: Balancer, generation: int) -> None:
    """Wait until a worker of that generation leaves and one of the next serves."""
    running.wait(
        "leaving",
        lambda status: (
            {(generation, "retiring"), (generation + 1, "serving")}
            <= {(worker["generation"], worker["state"]) for worker in status["workers"]}
        ),
    )


def under_way(running: Balancer, count: int = 1) -> None:
    running.wait("at the server", lambda status: status["servers"][0]["active"] == count)


def answered_while_it_leaves(client: Patient, running: Balancer, origin: Origin) -> int:
    """A request that its server answers when the first worker leaves; gives its stream."""
    number = client.request("/held")
    under_way(running)
    running.signal(signal.SIGHUP)
    leaving(running, 1)
    origin.release()
    return number


def test_a_request_that_was_sent_before_the_goaway_was_read_is_answered(
    client: Patient, quick: Balancer, origin: Origin
) -> None:
    number = answered_while_it_leaves(client, quick, origin)
    # The GOAWAY is on its way, or has come; this client hasn't read it.
    quick.wait("answered", lambda status: status["totals"]["status_2xx"] == 1)
    late = client.request("/late")
    assert client.answer(number)[1] == b"late"
    assert client.answer(late)[1] == b"/late"
    assert client.goaways[0] == ANY_STREAM
    client.to_the_end()
    assert client.goaways == [ANY_STREAM, late]
    nothing_left(quick, 0)


def test_the_goaway_comes_with_the_end_of_the_response(
    client: Patient, quick: Balancer, origin: Origin
) -> None:
    """In the same packet: who sends one request after the other has read it before the next one."""
    number = answered_while_it_leaves(client, quick, origin)
    assert client.goaways == []
    while not client.goaways:
        before = len(client.events)
        assert client.receive()
    assert any(isinstance(event, h2.events.StreamEnded) for event in client.events[before:])
    assert client.answer(number)[1] == b"late"


@pytest.mark.parametrize("how", ["reload", "shrink"])
def test_a_silent_stream_outlives_its_workers_leaving(
    balancer: StartBalancer, origin: Origin, tmp_path: Path, how: str
) -> None:
    """As an event stream on which nothing happens. Some clients end everything at a GOAWAY."""
    running = start(balancer, origin, tmp_path, 'drain = {spread = "1ms"}')
    if how == "shrink":
        running.scale(2)
    clients: list[Patient] = []

    def on_all(status: dict[str, list[dict[str, int]]]) -> bool:
        return all(worker["connections"] for worker in status["workers"])

    while not clients or not on_all(running.status()):
        clients.append(Patient(running.port))
        clients[-1].silent = clients[-1].request("/held")
        under_way(running, len(clients))
    if how == "shrink":
        running.signal(signal.SIGTTOU)
        running.signal(signal.SIGTTOU)
        running.wait(
            "leaving", lambda status: any(worker["state"] == "retiring" for worker in status["workers"])
        )
    else:
        running.signal(signal.SIGHUP)
        leaving(running, 1)
    # On a connection of a leaving worker the next response brings the GOAWAY; all others are as they were.
    for client in clients:
        assert client.answer(client.request("/next"))[1] == b"/next"
    origin.release()
    for client in clients:
        assert client.answer(client.silent)[1] == b"late"
    asked = [client for client in clients if client.goaways]
    assert len(asked) == len(clients) if how == "reload" else 0 < len(asked) < len(clients)
    for client in asked:
        client.to_the_end()
        assert client.goaways == [ANY_STREAM, 3]
    for client in clients:
        client.sock.close()


def test_a_silent_stream_hears_nothing(client: Patient, quick: Balancer, origin: Origin) -> None:
    """Not even after the time in which idle connections are told."""
    number = client.request("/held")
    under_way(quick)
    idle = Patient(quick.port)
    quick.signal(signal.SIGHUP)
    idle.to_the_end()
    assert idle.goaways == [ANY_STREAM, 0]
    idle.sock.close()
    origin.release()
    assert client.answer(number)[1] == b"late"
    client.to_the_end()
    # One GOAWAY came with the answer, and one when this client didn't close.
    assert client.goaways == [ANY_STREAM, number]
    nothing_left(quick, 0)


def test_who_takes_no_notice_is_refused_in_the_end(client: Patient, quick: Balancer, origin: Origin) -> None:
    """And what was refused wasn't begun: it can be sent again elsewhere."""
    quick.wait("connected", lambda status: status["totals"]["connections"] == 1)
    held = client.request("/held")
    under_way(quick)
    quick.signal(signal.SIGHUP)
    leaving(quick, 1)
    client.answer(client.request("/"))
    answered = 1
    with pytest.raises(ConnectionResetError):
        while True:
            number = client.request("/")
            client.answer(number)
            answered += 1
    assert client.goaways[0] == ANY_STREAM and held < client.goaways[1] < number
    assert sum(head.startswith(b"GET / ") for head in origin.heads) == answered
    origin.release()
    assert client.answer(held)[1] == b"late"
    client.to_the_end()
    nothing_left(quick, 0)


def test_a_stop_takes_no_longer_than_it_may(balancer: StartBalancer, origin: Origin, tmp_path: Path) -> None:
    """A stream that never ends, an idle client that doesn't close, and one that would go on for ever."""
    running = start(balancer, origin, tmp_path, 'drain = {spread = "1ms", timeout = 1}')
    client, idle = Patient(running.port), Patient(running.port)
    idle.answer(idle.request("/"))
    client.request("/held")
    under_way(running)
    running.signal(signal.SIGTERM)
    client.to_the_end()
    idle.to_the_end()
    assert running.process.wait(25) == 0
    for one in (client, idle):
        one.sock.close()


def test_a_stop_waits_for_the_last_request(client: Patient, quick: Balancer, origin: Origin) -> None:
    number = client.request("/held")
    under_way(quick)
    quick.signal(signal.SIGTERM)
    quick.wait("leaving", lambda status: [one["state"] for one in status["workers"]] == ["retiring"])
    late = client.request("/late")
    assert client.answer(late)[1] == b"/late"
    origin.release()
    assert client.answer(number)[1] == b"late"
    client.to_the_end()
    assert quick.process.wait(25) == 0


def test_the_age_of_a_connection(balancer: StartBalancer, origin: Origin, tmp_path: Path) -> None:
    """From then on the client is asked with a response to connect anew; HTTP/1 and HTTP/2."""
    running = start(balancer, origin, tmp_path, 'limits = {connection_age = "300ms"}')
    client = Patient(running.port)
    while not client.goaways:
        assert client.answer(client.request("/"))[1] == b"/"
    with socket.create_connection(("127.0.0.1", running.port), timeout=50) as sock:
        answer = b""
        while b"\r\nConnection: close\r\n" not in answer:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            answer = sock.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200 ")
        assert sock.recv(1) == b""
    client.to_the_end()
    assert client.goaways[0] == ANY_STREAM
    client.sock.close()
    nothing_left(running, 0)
