"""Stickiness beside HAProxy: the same ``cookie`` lines, the same requests, and what both make of them.

    python -m bench.sticky_peers

Compared are the server that a request goes to (where its cookie decides), the ``Cookie`` that it sees, and
the ``Set-Cookie`` and ``Cache-Control`` that the client gets. Ends with 1 where they differ. (HAProxy marks
with ``nocache`` the responses that caches could keep, pylb all; so those here have a ``Last-Modified``.)
"""

from __future__ import annotations

import re
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

from bench.rig.balancer import Balancer, free_port
from bench.rig.processes import start
from tests.e2e.origin import Scripted, read_head

CASES = {
    "insert indirect nocache": "",
    "insert nocache": "indirect = false\n",
    "insert indirect": "nocache = false\n",
    "insert indirect nocache preserve": "preserve = true\n",
    "insert indirect nocache httponly secure domain shop.example": (
        'secure = true\nhttp_only = true\ndomain = "shop.example"\n'
    ),
    "insert indirect nocache maxidle 30m maxlife 8h": 'max_idle = "30m"\nmax_life = "8h"\n',
    "rewrite": 'mode = "rewrite"\n',
    "prefix": 'mode = "prefix"\n',
    "": 'mode = "passive"\n',
}
"""HAProxy's options, and the keys of pylb's."""

REQUESTS = (
    ("/", ""),
    ("/", "SRV=s1"),
    ("/", "SRV=s2"),
    ("/", "a=1; SRV=s2; b=2"),
    ("/", "SRV=s2;a=1"),
    ("/", "SRV=unknown; a=1"),
    ("/", "SRV="),
    ("/", "SRV=gone"),
    ("/", "SRV=s2|AAAAB"),
    ("/", "SRV=s2~app"),
    ("/", "a=SRV=s1"),
    ("/set", ""),
    ("/set", "SRV=s2"),
    ("/set", "SRV=s1~own; b=2"),
)


def _server(name: str) -> Scripted:
    def play(connection: socket.socket) -> None:
        while True:
            head = read_head(connection).decode()
            found = re.search(r"\r\ncookie: ([^\r]*)", head, re.IGNORECASE)
            body = f"{name} {found[1] if found else '-'}".encode()
            own = b"Set-Cookie: SRV=own; Path=/app\r\n" if " /set " in head else b""
            own += b"Last-Modified: Mon, 30 Nov 2026 12:00:00 GMT\r\n"
            connection.sendall(b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b" % (own, len(body), body))

    return Scripted(play)


def _ask(port: int, path: str, cookie: str) -> tuple[str, str, list[str]]:
    """The server, what it has seen, and what the client is told."""
    line = f"Cookie: {cookie}\r\n" if cookie else ""
    with closing(socket.create_connection(("127.0.0.1", port), timeout=30)) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{line}\r\n".encode())
        data = b""
        while piece := sock.recv(65536):
            data += piece
    head, _, body = data.decode().partition("\r\n\r\n")
    fields = [one for one in head.split("\r\n") if one.lower().startswith(("set-cookie", "cache-control"))]
    server, _, seen = body.partition(" ")
    return server, seen, sorted(_alike(field, server) for field in fields)


def _alike(field: str, server: str) -> str:
    """A field without what may differ: letter case, the order of attributes, the present date, the server."""
    field = re.sub(r"\|[a-z0-9+/]{5}", "|DATE", field.lower().replace(f"srv={server}", "srv=SERVER"))
    first, *attributes = re.split(r"; *", field)
    return "; ".join([first, *sorted(attributes)])


def _haproxy(folder: Path, options: str, servers: dict[str, str]) -> tuple[str, int]:
    port = free_port()
    lines = "".join(f"  server {name} {address} cookie {name}\n" for name, address in servers.items())
    file = folder / "haproxy.cfg"
    file.write_text(
        "defaults\n  mode http\n  timeout connect 1s\n  timeout client 30s\n  timeout server 30s\n"
        "  retries 1\n  option redispatch 1\n"
        f"listen l\n  bind 127.0.0.1:{port}\n  balance roundrobin\n  cookie SRV {options}\n{lines}"
    )
    return str(file), port


def _differences(options: str, keys: str, servers: dict[str, str]) -> Iterator[str]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        file, port = _haproxy(folder, options, servers)
        program = start(["haproxy", "-db", "-f", file], folder / "log", port)
        stack.callback(program.stop)
        mine = free_port()
        if "insert" in options and "http_only" not in keys:
            keys += "http_only = false\n"
        entries = ", ".join(f'{{name = "{name}", address = "{to}"}}' for name, to in servers.items())
        text = (
            f'[[frontend]]\nname = "f"\nbind = "127.0.0.1:{mine}"\nbackend = "b"\n'
            f'[[backend]]\nname = "b"\nbalance = "roundrobin"\nserver = [{entries}]\n'
            f'[backend.sticky]\ncookie = "SRV"\n{keys}'
        )
        stack.enter_context(Balancer(text=text))
        for path, cookie in REQUESTS:
            theirs, ours = _ask(port, path, cookie), _ask(mine, path, cookie)
            named = re.search(r"SRV=(s[12])", cookie) is not None
            if theirs[1:] != ours[1:] or (named and theirs[0] != ours[0] and "prefix" not in options):
                yield f"  {path} Cookie: {cookie or '-'}\n    HAProxy {theirs}\n    pylb    {ours}"


def main() -> None:
    """Compare, and say it."""
    failed = False
    with _server("s1") as one, _server("s2") as two:
        gone = f"127.0.0.1:{free_port()}"
        servers = {"s1": one.address, "s2": two.address, "gone": gone}
        for options, keys in CASES.items():
            found = list(_differences(options, keys, servers))
            failed = failed or bool(found)
            print(f"cookie SRV {options}: {'differs' if found else f'{len(REQUESTS)} requests alike'}")
            print("".join(f"{one}\n" for one in found), end="")
    sys.exit(failed)


if __name__ == "__main__":
    main()
