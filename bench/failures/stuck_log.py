"""Nobody reads standard error any more: a worker is killed, then the balancer is told to stop.

Each logs there: pylb always, HAProxy in master-worker mode (``-W``) about its workers, nginx by
``error_log``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import psutil

from bench.balancer import free_port
from bench.failures.report import Row

PATIENCE = 6.0
"""Seconds after which something that did not happen counts as never."""


class _Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "3")
        self.end_headers()
        self.wfile.write(b"ok\n")

    def log_message(self, format: str, *args: object) -> None:
        """Nothing to say."""


def _pylb(folder: Path, port: int, server: int) -> list[str]:
    return [
        *(sys.executable, "-m", "pylb", "serve", "--admin", f"unix:{folder}/admin.sock", "--workers", "1"),
        *("--bind", f"127.0.0.1:{port}", "--server", f"127.0.0.1:{server}"),
    ]


def _haproxy(folder: Path, port: int, server: int) -> list[str]:
    (folder / "haproxy.cfg").write_text(
        "global\n  nbthread 1\n  log stderr format raw local0 notice\n"
        "defaults\n  mode http\n  log global\n"
        "  timeout connect 5s\n  timeout client 5s\n  timeout server 5s\n"
        f"frontend f\n  bind 127.0.0.1:{port}\n  default_backend b\n"
        f"backend b\n  server s 127.0.0.1:{server}\n"
    )
    return ["haproxy", "-W", "-db", "-f", f"{folder}/haproxy.cfg"]


def _nginx(folder: Path, port: int, server: int) -> list[str]:
    temps = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"worker_processes 1; daemon off; pid {folder}/pid; error_log stderr notice;\n"
        f"events {{}}\nhttp {{ access_log off; {temps} server {{ listen 127.0.0.1:{port}; "
        f"location / {{ proxy_pass http://127.0.0.1:{server}; }} }} }}\n"
    )
    return ["nginx", "-e", "stderr", "-c", f"{folder}/nginx.conf"]


_COMMANDS = {"pylb": _pylb, "haproxy": _haproxy, "nginx": _nginx}


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.5) as sock:
        sock.settimeout(0.5)
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        return sock.recv(100).startswith(b"HTTP/1.1 200 ")
    return False


def _seconds(port: int) -> float | None:
    """How long it takes until a request is answered; None for never."""
    began = time.monotonic()
    while time.monotonic() < began + PATIENCE:
        if _answers(port):
            return time.monotonic() - began
        time.sleep(0.02)
    return None


def _fill(fd: int) -> None:
    """Leave no room in a pipe, whose other users go on blocking."""
    os.set_blocking(fd, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(fd, b"." * 4096)
    os.set_blocking(fd, True)


def _worker(name: str, process: subprocess.Popen[bytes]) -> psutil.Process:
    children = psutil.Process(process.pid).children()
    return next(child for child in children if name != "pylb" or "worker" in " ".join(child.cmdline()))


def _play(name: str, folder: Path, server: int) -> Row:
    port = free_port()
    read, write = os.pipe()
    process = subprocess.Popen(
        _COMMANDS[name](folder, port, server), stderr=write, stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        if _seconds(port) is None:
            raise TimeoutError(f"{name} does not serve: {os.read(read, 2000)!r}")
        _fill(write)
        killed = _worker(name, process)
        killed.kill()
        with contextlib.suppress(psutil.TimeoutExpired):
            killed.wait(PATIENCE)
        back = _seconds(port)
        ended = process.poll() is not None
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
        stop = time.monotonic() - began
        stopped = process.poll() is not None
    finally:
        tree = [] if process.poll() is not None else psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
        for child in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        os.close(read)
        os.close(write)
    if back is not None:
        outcome = f"answers again after {back:.2f} s"
    else:
        outcome = "ends with its worker" if ended else f"answers nobody within {PATIENCE:g} s"
    if not ended:
        outcome += f"; TERM ends it in {stop:.2f} s" if stopped else f"; TERM does nothing in {PATIENCE:g} s"
    figures = {"back": -1 if back is None else round(back, 3), "stopped": stop if stopped else -1}
    return Row("standard error is a full pipe; kill -9 of the worker, then TERM", name, outcome, figures)


def run() -> list[Row]:
    """All three, one after the other."""
    origin = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    Thread(target=origin.serve_forever, daemon=True).start()
    rows = []
    try:
        for name in _COMMANDS:
            with tempfile.TemporaryDirectory() as folder:
                rows.append(_play(name, Path(folder), origin.server_port))
    finally:
        origin.shutdown()
        origin.server_close()
    return rows
