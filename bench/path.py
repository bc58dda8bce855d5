"""``python -m bench.path``: what pylb's own Python costs per request, without a socket.

One exchange after the other goes through the real objects (HTTP/1 towards client and server, exchange,
phases) over two transports that do nothing, in two cases: the same small head each time, and a head whose
path, cookie and trace id differ each time. A case's figure is the fastest of many rounds: what disturbs a
round only adds to it.

``--against TREE`` compares with another checkout, in turns, each in a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, cast

from pylb.config import stickiness
from pylb.config.accesslog import AccessLog
from pylb.config.address import parse_address
from pylb.config.logtarget import open_file, target_of
from pylb.config.model import Backend as BackendConfig
from pylb.config.model import Frontend, Limits, Server, Timeouts
from pylb.rules.decision import Rules
from pylb.scoreboard import Scoreboard
from pylb.worker import phases
from pylb.worker.backend import Backend
from pylb.worker.client.http1 import Http1Connection
from pylb.worker.core import Core
from pylb.worker.descriptors import Descriptors
from pylb.worker.frontend import Bind
from pylb.worker.logwriter import writer
from pylb.worker.phases import choose
from pylb.worker.server.http1 import Http1ServerConnection

REQUEST = b"GET /index.html HTTP/1.1\r\nHost: example.org\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"
ROUNDS = 60
REQUESTS = 500
"""Of a round."""


class _Transport:
    """Takes everything."""

    def write(self, data: bytes) -> None:
        """Gone."""

    def get_extra_info(self, name: str) -> Any:
        return ("192.0.2.9", 5) if name == "peername" else None

    def set_write_buffer_limits(self, high: int) -> None:
        """None."""


class Path:
    """A client connection and a pooled one to its server.

    Args:
        rules: makes the frontend's rules, given the one backend that there is.
        log: its access log, to a file.
        keys: of the backend's configuration.
    """

    def __init__(
        self,
        rules: Callable[[Backend], Rules | None] = lambda backend: None,
        log: AccessLog | None = None,
        **keys: Any,
    ) -> None:
        core = Core(
            *(cast(asyncio.AbstractEventLoop, None), Timeouts(), Limits(), 2.0), Descriptors(1 << 16, 0)
        )
        server = Server(name="s", address=parse_address("127.0.0.1:9"))
        config = BackendConfig(name="b", balance="roundrobin", servers=(server,), **keys)
        backend = Backend(config, Scoreboard(1), lambda server: 0, 0)
        backend.stick(stickiness.compiled(config, b"of a benchmark"))
        backend.choose = choose.compiled(backend)
        frontend = Frontend(name="f", bind=(parse_address("127.0.0.1:80"),), backend="b")
        if log is not None:
            core.access_logs[target_of(log)] = writer(target_of(log), open_file(log.to))
        compiled = phases.compiled(frontend, {"b": backend}, core, rules(backend), log=log)
        bind = Bind("127.0.0.1:80", frontend, compiled, {}, core.head_limits)
        transport: Any = _Transport()
        self.client = Http1Connection(core, bind)
        self.client.connection_made(transport)
        self.server = Http1ServerConnection(core, backend.servers[0])
        self.server.connection_made(transport)
        backend.servers[0].pool.idle[self.server] = None

    def microseconds(self, requests: list[bytes]) -> float:
        """Per exchange, for these requests one after the other."""
        ask, answer = self.client.data_received, self.server.data_received
        core = self.client.core
        core.now += 0.1  # a tick
        for look in core.on_tick:
            look()
        for log in core.access_logs.values():
            log.push()
        began = time.perf_counter_ns()
        for request in requests:
            ask(request)
            answer(RESPONSE)
        return (time.perf_counter_ns() - began) / 1000 / len(requests)


def _differing(number: int) -> bytes:
    trace = f"00-{number * 7919:032x}-{number:016x}-01"
    fields = f"Cookie: session={number * 104729:x}\r\ntraceparent: {trace}\r\nAccept: */*"
    return f"GET /item/{number} HTTP/1.1\r\nHost: example.org\r\n{fields}\r\n\r\n".encode()


def measure(rounds: int) -> dict[str, float]:
    """The fastest round of each case, in microseconds per exchange."""
    path = Path()
    equal = [REQUEST] * REQUESTS
    best = {"equal head": float("inf"), "differing heads": float("inf")}
    for number in range(rounds):
        differing = [_differing(number * REQUESTS + one) for one in range(REQUESTS)]
        best["equal head"] = min(best["equal head"], path.microseconds(equal))
        best["differing heads"] = min(best["differing heads"], path.microseconds(differing))
    return best


def _child(tree: str, rounds: int) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.path", "--json", "--rounds", str(rounds)]
    done = subprocess.run(
        command, cwd=tree, env=os.environ | {"PYTHONPATH": tree}, capture_output=True, check=True
    )
    result: dict[str, float] = json.loads(done.stdout)
    return result


def main() -> None:
    """Measure, and say it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--against", metavar="TREE", help="another checkout, measured in turns with this")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.against is None:
        best = measure(options.rounds)
        print(json.dumps(best) if options.json else "\n".join(f"{k}: {v:.2f} µs" for k, v in best.items()))
        return
    turns = 6
    sides: dict[str, list[dict[str, float]]] = {"this": [], "other": []}
    for _ in range(turns):
        sides["this"].append(_child(os.getcwd(), options.rounds // turns))
        sides["other"].append(_child(options.against, options.rounds // turns))
    for case in sides["this"][0]:
        this, other = (min(turn[case] for turn in sides[side]) for side in ("this", "other"))
        print(f"{case}: {this:.2f} µs, there {other:.2f} µs ({this - other:+.2f})")


if __name__ == "__main__":
    main()
