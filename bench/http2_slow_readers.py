"""``python -m bench.http2_slow_readers``: memory for HTTP/2 clients that ask for much and read nothing.

Each opens a connection with a window of 0 and asks for 1 MiB on 100 streams. What the process that balances
has more of, resident, once that has come to rest: pylb's worker beside HAProxy, in front of the same nginx.
"""

from __future__ import annotations

import contextlib
import socket
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from bench.rig import origins, peers
from bench.rig.balancer import Balancer
from bench.rig.command import need, parser
from bench.rig.peers import Site, pylb_text
from bench.rig.report import in_words, write
from pylb.http2 import encode, frames

STREAMS = 100
_HEAD = ((b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"bench"), (b":path", b"/1m"))
_WINDOW = 4  # SETTINGS_INITIAL_WINDOW_SIZE


def asking(streams: int) -> bytes:
    """What one client sends."""
    block = b"".join(encode.field(name, value) for name, value in _HEAD)
    numbers = range(1, 2 * streams, 2)
    requests = b"".join(frames.head(block, number, True) for number in numbers)
    return frames.PREFACE + frames.settings([(_WINDOW, 0)]) + requests


def growth(port: int, pid: int, clients: int) -> int:
    """Bytes that a process has more of, once it has them for two seconds."""
    process = psutil.Process(pid)
    with contextlib.closing(socket.create_connection(("127.0.0.1", port))) as sock:
        sock.sendall(asking(1))  # whatever the first one alone costs
        time.sleep(0.5)
    before: int = process.memory_info().rss
    with contextlib.ExitStack() as stack:
        for _ in range(clients):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            sock.sendall(asking(STREAMS))
        seen: list[int] = []
        while len(seen) < 10 or max(seen[-10:]) != min(seen[-10:]):
            time.sleep(0.2)
            seen.append(process.memory_info().rss)
            if len(seen) > 150:
                break
    return max(seen) - before


def page(results: list[dict[str, Any]], versions: dict[str, str]) -> list[str]:
    """The results as Markdown."""
    lines = [
        "# HTTP/2 clients that read nothing: memory",
        "",
        f"Written by `python -m bench.http2_slow_readers`. {in_words()}; HAProxy {versions['haproxy']}. "
        f"Connections with {STREAMS} streams of 1 MiB each and a window of 0; MiB that are added, resident.",
        "",
        "| connections | pylb | HAProxy | ratio |",
        "|---|---|---|---|",
    ]
    for one in results:
        ours, theirs = one["pylb"], one["haproxy"]
        lines.append(
            f"| {one['connections']} | {ours / 2**20:.1f} | {theirs / 2**20:.1f} | **{ours / theirs:.2f}** |"
        )
    return lines


def main() -> None:
    options = parser(__doc__)
    chosen = options.parse_args()
    need(options, "haproxy", "nginx")
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="pylb-bench-") as text:
        folder = Path(text)
        folder.chmod(0o755)
        with origins.nginx(folder / "servers") as (_, servers):
            for clients in (3, 10):
                ours, theirs = Site(servers), Site(servers)
                file = folder / "pylb.toml"
                file.write_text(f"workers = {{min = 1, max = 1}}\n{pylb_text(folder, ours)}")
                with (
                    Balancer("-c", str(file)) as pylb,
                    peers.running("haproxy", folder / "haproxy", theirs) as haproxy,
                ):
                    result = {"connections": clients}
                    result["pylb"] = growth(ours.port, pylb.workers()[0]["pid"], clients)
                    result["haproxy"] = growth(theirs.port, haproxy.process.pid, clients)
                    results.append(result)
    versions = peers.versions("haproxy", "pylb")
    write(
        "http2_slow_readers", {"results": results, "versions": versions}, page(results, versions), chosen.out
    )


if __name__ == "__main__":
    main()
