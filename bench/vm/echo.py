"""``python3 -m bench.vm.echo PORT echo|hello COUNT`` in a guest: how long a line and its answer take.

``echo``: the other end gives every line back. ``hello``: it is a controller, and the answer is a grant.
Prints the seconds of each round trip as JSON. Waits in `poll`, so that no event loop of Python is measured.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time

from controller.protocol import Grant, Hello, LineDecoder, encode
from controller.serial import device


class Port:
    """A port that is waited at."""

    def __init__(self, name: str) -> None:
        self._fd = os.open(device(name), os.O_RDWR | os.O_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)

    def write(self, data: bytes) -> None:
        os.write(self._fd, data)

    def read(self) -> bytes:
        self._poll.poll()
        return os.read(self._fd, 65536)


def echo(port: Port, number: int) -> None:
    """One line, as long as a report is, and the same line back."""
    line = f'{{"v":1,"type":"report","seq":{number},"more":"{"x" * 100}"}}\n'.encode()
    port.write(line)
    got = b""
    while got != line:
        got += port.read()


def hello(port: Port, number: int) -> None:
    """A hello, and its grant."""
    session = f"session {number}"
    port.write(encode(Hello("echo", 1, 2, session=session)))
    decoder = LineDecoder()
    while True:
        for message in decoder.feed(port.read()):
            if isinstance(message, Grant) and message.session == session:
                return


def main() -> None:
    port, once = Port(sys.argv[1]), {"echo": echo, "hello": hello}[sys.argv[2]]
    found = []
    for number in range(int(sys.argv[3])):
        began = time.perf_counter()
        once(port, number)
        found.append(time.perf_counter() - began)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
