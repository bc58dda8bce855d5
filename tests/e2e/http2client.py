"""A raw HTTP/2 client that can also misbehave."""

from __future__ import annotations

import contextlib
import socket

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
from hyperframe.frame import (
    Frame,
)

from bench.rig.balancer import Balancer

Fields = list[tuple[str, str]]


class Client:
    """A connection by prior knowledge, or over a TLS connection that is there."""

    machine: type[h2.connection.H2Connection] = h2.connection.H2Connection

    def __init__(self, port: int, window: int = 65535, sock: socket.socket | None = None) -> None:
        self.sock = sock or socket.create_connection(("127.0.0.1", port), timeout=50)
        config = h2.config.H2Configuration(
            client_side=True,
            header_encoding="latin-1",
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        self.h2 = self.machine(config)
        self.h2.local_settings = h2.settings.Settings(
            client=True, initial_values={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window}
        )
        self.h2.initiate_connection()
        self.events: list[h2.events.Event] = []
        self.flush()

    def flush(self) -> None:
        self.sock.sendall(self.h2.data_to_send())

    def request(
        self, path: str = "/", *fields: tuple[str, str], method: str = "GET", end: bool = True
    ) -> int:
        number = self.h2.get_next_available_stream_id()
        head: Fields = [(":method", method), (":scheme", "http"), (":authority", "test"), (":path", path)]
        self.h2.send_headers(number, [*head, *fields], end_stream=end)
        self.flush()
        return number

    def receive(self) -> bool:
        """Read once; False when the balancer has closed."""
        try:
            data = self.sock.recv(65536)
        except ConnectionResetError:
            return False
        if not data:
            return False
        self.events += self.h2.receive_data(data)
        with contextlib.suppress(OSError):
            self.flush()
        return True

    def answer(self, number: int, credit: bool = True) -> tuple[Fields, bytes, Fields]:
        """The whole response of a stream: fields, body, trailers."""
        fields: Fields = []
        trailers: Fields = []
        body = b""
        while True:
            while self.events:
                event = self.events.pop(0)
                if getattr(event, "stream_id", None) != number:
                    if isinstance(event, h2.events.ConnectionTerminated):
                        raise ConnectionError(f"GOAWAY {event.error_code}")
                    continue
                if isinstance(event, h2.events.ResponseReceived):
                    fields = event.headers  # type: ignore[assignment]
                elif isinstance(event, h2.events.TrailersReceived):
                    trailers = event.headers  # type: ignore[assignment]
                elif isinstance(event, h2.events.DataReceived):
                    body += event.data or b""
                    if credit and event.flow_controlled_length:
                        self.h2.acknowledge_received_data(event.flow_controlled_length, number)
                        self.flush()
                elif isinstance(event, h2.events.StreamReset):
                    raise ConnectionResetError(f"stream reset {event.error_code}")
                elif isinstance(event, h2.events.StreamEnded):
                    return fields, body, trailers
            if not self.receive():
                raise EOFError

    def until_closed(self) -> list[int]:
        """Read to the end; the codes of the GOAWAYs."""
        while self.receive():
            pass
        return [
            int(event.error_code or 0)
            for event in self.events
            if isinstance(event, h2.events.ConnectionTerminated)
        ]

    def send_raw(self, *frames: Frame) -> None:
        """Frames of any kind; the balancer may close at any time."""
        with contextlib.suppress(ConnectionError):
            self.sock.sendall(b"".join(frame.serialize() for frame in frames))


def nothing_left(running: Balancer, connections: int) -> None:
    """All that was counted as open is closed."""
    running.wait(
        "empty",
        lambda status: (
            status["totals"]["connections"] == connections
            and status["totals"]["in_flight"] == 0
            and all(server["active"] == 0 for server in status["servers"])
        ),
    )
