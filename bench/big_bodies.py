"""``python -m bench.big_bodies``: how much memory does a worker take for bodies that one side doesn't take?

A download of 1 GiB by a client, and an upload of 1 GiB to a server, that pauses for some seconds at the start
and halfway, and between takes a bounded rate; each with Content-Length and chunked. The peak of the worker's
resident memory (RSS), sampled and as the kernel keeps it, may be at most 64 MiB above what the idle worker
had. Length and CRC-32 of what arrived are compared with what was sent. Exits with 1 when one does not hold.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, BinaryIO

import psutil
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from bench.rig.balancer import Balancer
from bench.rig.command import console, parser
from bench.rig.processes import child
from bench.rig.report import in_words, write

MIB = 1 << 20
BAR = 64 * MIB  # of the worker's RSS, peak over idle
BLOCK = 64 * 1024
SAMPLE_SECONDS = 0.01
PATIENCE_SECONDS = 120.0  # without a byte


@dataclass(frozen=True)
class Pace:
    """How the slow side reads: it pauses at the start and halfway, and else takes ``rate`` bytes a second."""

    size: int  # bytes of the body
    pause: float  # seconds
    rate: float


@dataclass
class Arrived:
    """What the slow side has of the body; written by the thread that reads."""

    length: int = 0
    crc: int = 0

    def take(self, file: BinaryIO, pace: Pace, chunked: bool) -> None:
        """Read a body slowly to its end."""
        paused = 0
        began = time.monotonic()
        for piece in _chunks(file) if chunked else _pieces(file, pace.size):
            if self.length >= paused * pace.size // 2 and paused < 2:
                paused += 1
                time.sleep(pace.pause)
                began += pace.pause
            self.length += len(piece)
            self.crc = zlib.crc32(piece, self.crc)
            time.sleep(max(0.0, began + self.length / pace.rate - time.monotonic()))


def _pieces(file: BinaryIO, length: int) -> Iterator[bytes]:
    while length and (piece := file.read(min(BLOCK, length))):
        length -= len(piece)
        yield piece


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while size := int(file.readline(), 16):
        yield from _pieces(file, size)
        file.readline()
    file.readline()


def _send(sock: socket.socket, start: str, size: int, chunked: bool) -> int:
    """Send a message with a body in which no two blocks are alike, as fast as it goes; gives its CRC-32."""
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {size}"
    sock.sendall(f"{start}\r\n{framing}\r\n\r\n".encode())
    crc = 0
    noise = bytes(range(256)) * (BLOCK // 256)
    for offset in range(0, size, BLOCK):
        block = (offset.to_bytes(8, "big") + noise[8:])[: size - offset]
        crc = zlib.crc32(block, crc)
        sock.sendall(b"%x\r\n%b\r\n" % (len(block), block) if chunked else block)
    if chunked:
        sock.sendall(b"0\r\n\r\n")
    return crc


def _head(file: BinaryIO) -> bytes:
    head = b""
    while line := file.readline().strip():
        head += line.lower() + b"\n"
    return head


def _serve(pace: Pace, pipe: Connection[Any, Any]) -> None:
    """The server: says through ``pipe`` its port, then the length and CRC-32 of each body it sent or took."""

    def serve(sock: socket.socket) -> None:
        file = sock.makefile("rb")
        while head := _head(file):
            chunked = b"chunked" in head
            body = b""
            if head.startswith(b"post"):
                arrived = Arrived()
                arrived.take(file, pace, chunked)
                body = b"%d %d" % (arrived.length, arrived.crc)
            elif head.startswith((b"get /length", b"get /pieces")):
                pipe.send(_send(sock, "HTTP/1.1 200 OK", pace.size, head.startswith(b"get /pieces")))
                continue
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    listener = socket.create_server(("127.0.0.1", 0))
    pipe.send(listener.getsockname()[1])
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()


def _connect(port: int) -> tuple[socket.socket, BinaryIO]:
    sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS)
    return sock, sock.makefile("rb")


@dataclass
class Result:
    """One transfer; memory in bytes of RSS."""

    name: str
    seconds: float = 0.0
    idle: int = 0
    peak: int = 0
    sent: int = 0
    arrived: int = 0
    intact: bool = False
    error: str = ""

    @property
    def holds(self) -> bool:
        return self.intact and self.peak - self.idle <= BAR


def transfer(way: str, chunked: bool, pace: Pace, balancer: Balancer, server: Connection[Any, Any]) -> Result:
    """One body through the balancer, while the worker's memory is watched."""
    result = Result(f"{way}, {'chunked' if chunked else 'Content-Length'}")
    arrived = Arrived()
    sock, file = _connect(balancer.port)

    def download() -> None:
        sock.sendall(f"GET /{'pieces' if chunked else 'length'} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        assert b" 200 " in _head(file)
        arrived.take(file, pace, chunked)
        result.sent, result.arrived = pace.size, arrived.length
        result.intact = (arrived.length, arrived.crc) == (pace.size, server.recv())

    def upload() -> None:
        crc = _send(sock, "POST / HTTP/1.1\r\nHost: test", pace.size, chunked)
        length = int(_head(file).split(b"content-length:")[1].split()[0])
        result.sent, result.arrived = pace.size, int((answer := file.read(length).split())[0])
        result.intact = [int(part) for part in answer] == [pace.size, crc]

    def run() -> None:
        try:
            download() if way == "download" else upload()
        except (OSError, ValueError, LookupError, AssertionError) as error:
            result.error = repr(error)

    worker = psutil.Process(balancer.workers()[0]["pid"])
    Path(f"/proc/{worker.pid}/clear_refs").write_text("5")  # man 5 proc: VmHWM starts anew
    result.idle = result.peak = worker.memory_info().rss
    passed = "bytes_out" if way == "download" else "bytes_in"
    before = balancer.status()["totals"][passed]
    began = time.monotonic()
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(True), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task(result.name, total=pace.size)
        while thread.is_alive():
            result.peak = max(result.peak, worker.memory_info().rss)
            if int((time.monotonic() - began) / SAMPLE_SECONDS) % 50 == 0:
                progress.update(bar, completed=balancer.status()["totals"][passed] - before)
            time.sleep(SAMPLE_SECONDS)
    result.seconds = time.monotonic() - began
    sock.close()
    status = Path(f"/proc/{worker.pid}/status").read_text()
    result.peak = max(result.peak, int(status.split("VmHWM:")[1].split()[0]) * 1024)
    return result


def report(results: list[Result], pace: Pace, folder: Path) -> None:
    """JSON and Markdown."""
    lines = [
        "# Memory of a worker while one side is slow", "",
        f"Written by `python -m bench.big_bodies`. {in_words()}.", "",
        f"Bodies of {pace.size / MIB:.0f} MiB. The slow side (the client of a download, the server of an "
        f"upload) pauses for {pace.pause:g} s at the start and halfway and else takes "
        f"{pace.rate / MIB:.0f} MiB/s; the other side sends as fast as it may. RSS of the worker: peak of "
        f"samples every {SAMPLE_SECONDS * 1000:.0f} ms and of the kernel's own mark (VmHWM, cleared before "
        f"each); bar: {BAR / MIB:.0f} MiB above idle.", "",
        "| body | s | idle MiB | peak MiB | peak over idle | bar | bytes arrived | CRC-32 |",
        "|---|---|---|---|---|---|---|---|",
        *(f"| {r.name} | {r.seconds:.1f} | {r.idle / MIB:.1f} | {r.peak / MIB:.1f} | "
          f"**{(r.peak - r.idle) / MIB:.1f} MiB** | {'holds' if r.holds else 'MISSED'} | {r.arrived:,} | "
          f"{'equal' if r.intact else 'DIFFERENT ' + r.error} |" for r in results),
    ]  # fmt: skip
    record = {"pace": asdict(pace), "bar": BAR, "results": [asdict(one) for one in results]}
    write("big_bodies", record, lines, folder)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--mib", type=int, default=1024, help="size of each body")
    options.add_argument("--pause", type=float, default=5.0, help="seconds, at the start and halfway")
    options.add_argument("--rate", type=float, default=128.0, help="MiB/s at which the slow side reads")
    chosen = options.parse_args()
    pace = Pace(chosen.mib * MIB, chosen.pause, chosen.rate * MIB)
    results = []
    with (
        child(_serve, pace) as server,
        Balancer("--workers", "1", servers=(f"127.0.0.1:{server.recv()}",)) as balancer,
    ):
        for way in ("download", "upload"):
            for chunked in (False, True):
                sock, file = _connect(balancer.port)  # so that idle means: has worked before
                sock.sendall(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
                _head(file)
                sock.close()
                results.append(transfer(way, chunked, pace, balancer, server))
                console.log(f"{results[-1].name}: {(results[-1].peak - results[-1].idle) / MIB:.1f} MiB")
    report(results, pace, chosen.out)
    sys.exit(0 if all(result.holds for result in results) else 1)


if __name__ == "__main__":
    main()
