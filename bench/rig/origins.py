"""Origin servers: the servers behind a balancer.

An asyncio server in a process of its own, which gives the same bytes to every request or runs a function for
each connection, and nginx with files.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import uvloop

from bench.rig.balancer import free_port
from bench.rig.processes import Program, child, start

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]
"""Serves one connection; OSError and EOFError end it. It has to be a function of a module."""


def response(body: bytes, fields: bytes = b"") -> bytes:
    """A 200 with a Content-Length; ``fields`` are further lines, each with its CRLF."""
    return b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b" % (fields, len(body), body)


SMALL = response(b"x" * 128)
TOKENS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"8\r\n token x\r\n" * 1000 + b"0\r\n\r\n"
"""1,000 chunks of 8 bytes, as a language model's tokens are sent, but at once: costs a balancer much, and the
client and the server little."""


async def serve(handler: Handler | bytes, pipe: Connection[Any, Any]) -> None:
    """Serve on a free port of 127.0.0.1 for ever, and say through ``pipe`` which it is."""

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError):
            if isinstance(handler, bytes):
                while await reader.readuntil(b"\r\n\r\n"):
                    writer.write(handler)
            else:
                await handler(reader, writer)
        writer.close()

    server = await asyncio.start_server(connection, "127.0.0.1", 0, backlog=4096)
    pipe.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def _run(handler: Handler | bytes, pipe: Connection[Any, Any]) -> None:
    uvloop.run(serve(handler, pipe))


@contextmanager
def origin(handler: Handler | bytes = SMALL) -> Iterator[str]:
    """The address of a server in a process of its own."""
    with child(_run, handler) as pipe:
        yield f"127.0.0.1:{pipe.recv()}"


def nginx_with_files(folder: Path, ports: Sequence[int], hosts: Sequence[str] = ("127.0.0.1",)) -> list[str]:
    """The command of one nginx process with ``/`` (128 bytes), ``/small`` (128), ``/64k`` and ``/1m``."""
    for name, body in (
        ("index.html", b"x" * 128),
        ("small", b"x" * 128),
        ("64k", os.urandom(1 << 16)),
        ("1m", os.urandom(1 << 20)),
    ):
        (folder / name).write_bytes(body)
    folder.chmod(0o755)
    listen = " ".join(f"listen {host}:{port} backlog=4096;" for host in hosts for port in ports)
    (folder / "files.conf").write_text(
        f"worker_processes 1; daemon off; master_process off; pid {folder}/pid; error_log {folder}/err;\n"
        f"events {{ worker_connections 16384; }}\n"
        "http { access_log off; keepalive_requests 1000000000; keepalive_timeout 300; "
        f"{nginx_temps(folder)}\n"
        f"server {{ {listen} root {folder}; }} }}\n"
    )
    return ["nginx", "-e", f"{folder}/err", "-c", f"{folder}/files.conf"]


def nginx_temps(folder: Path) -> str:
    """Where nginx keeps what it buffers, as lines of its configuration: not where Debian's own does."""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    return "".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)


@contextmanager
def nginx(folder: Path, wrap: Sequence[str] = ()) -> Iterator[tuple[Program, list[str]]]:
    """`nginx_with_files` on two ports; ``wrap`` is a command that runs the one behind it."""
    folder.mkdir(parents=True, exist_ok=True)
    ports = [free_port(), free_port()]
    program = start([*wrap, *nginx_with_files(folder, ports)], folder / "out", ports[0])
    try:
        yield program, [f"127.0.0.1:{port}" for port in ports]
    finally:
        program.stop()
