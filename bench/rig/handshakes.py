"""TLS connections for one request each, with or without resuming a session, and what each costs a balancer.

No tool here says whether it resumes: wrk does as OpenSSL likes, h2load never does. So this is a program of
its own (``python -m bench.rig.handshakes``): some threads that connect, ask for ``/small``, and read to the
end, again and again; with resumption each offers the last ticket that it got. It prints its figures as JSON.
"""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from bench.rig.report import quantile

THREADS = 8
_REQUEST = b"GET /small HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@dataclass(frozen=True)
class Load:
    """Whether clients resume the session that they had."""

    resumed: bool = False


class _Client:
    """One thread: what it has seen, with times in seconds."""

    def __init__(self, port: int, context: ssl.SSLContext, resumed: bool) -> None:
        self._port = port
        self._context = context
        self._resumed = resumed
        self._session: ssl.SSLSession | None = None
        self.times: list[float] = []
        self.failed = 0
        self.reused = 0

    def run(self, end: float) -> None:
        while (began := time.monotonic()) < end:
            try:
                good = self._once()
            except OSError:
                good = False
            if good:
                self.times.append(time.monotonic() - began)
            else:
                self.failed += 1

    def _once(self) -> bool:
        with socket.create_connection(("127.0.0.1", self._port), timeout=10) as plain:
            # Else the request waits until the end of the handshake, a small packet, has been acknowledged.
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return self._asked(plain)

    def _asked(self, plain: socket.socket) -> bool:
        with self._context.wrap_socket(plain, server_hostname="localhost", session=self._session) as sock:
            sock.sendall(_REQUEST)
            answer = b""
            while piece := sock.recv(65536):
                answer += piece
            self.reused += bool(sock.session_reused)
            if self._resumed and sock.session is not None:
                self._session = sock.session
        return answer.startswith(b"HTTP/1.1 200 ")


def run(port: int, resumed: bool, seconds: float) -> dict[str, Any]:
    """All threads for so long; what they have seen."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    clients = [_Client(port, context, resumed) for _ in range(THREADS)]
    began = time.monotonic()
    threads = [threading.Thread(target=one.run, args=(began + seconds,)) for one in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.monotonic() - began
    times = [one * 1000 for client in clients for one in client.times]
    return {
        "good": len(times),
        "rps": len(times) / took,
        "p50_ms": round(quantile(times, 0.5), 3) if times else None,
        "p99_ms": round(quantile(times, 0.99), 3) if times else None,
        "failed": sum(client.failed for client in clients),
        "resumed": sum(client.reused for client in clients),
    }


def turn(
    url: str, load: Load, seconds: int, cpu: Callable[[], float], wrap: Sequence[str] = ()
) -> dict[str, float | None]:
    """One turn of a balancer, as `bench.rig.wrk.turn` has it, with the share of ``resumed`` connections."""
    port = urlsplit(url).port
    words = [str(port), "resumed" if load.resumed else "full", str(seconds)]
    before = cpu()
    line = [*wrap, sys.executable, "-m", "bench.rig.handshakes", *words]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    used = cpu() - before
    found: dict[str, Any] = json.loads(done.stdout)
    good = found.pop("good")
    found["resumed"] = round(found["resumed"] / good, 3) if good else None
    return {"us": round(1e6 * used / good, 2) if good else None} | found


if __name__ == "__main__":
    print(json.dumps(run(int(sys.argv[1]), sys.argv[2] == "resumed", float(sys.argv[3]))))
