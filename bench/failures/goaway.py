"""Requests over HTTP/2 through five reloads: what do clients lose?

Java's HttpClient and httpx end every stream of a connection at any GOAWAY; Go's net/http and Chromium wait
for those that it allows. All run at once against one balancer, then against the other: GETs one after the
other on connections of their own (Java, httpx) and several at once on a shared one (Java, httpx, Chromium),
POSTs on a shared one (Go), and event streams that say nothing while the reloads come (httpx).

Programs that aren't installed are left out, and named.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bench.failures.report import Row
from bench.rig.origins import response, serve
from bench.rig.peers import RELOAD, Site, running
from bench.rig.processes import child

RELOADS = 5
EVERY = 2.5
"""Seconds from one reload to the next."""
_HERE = Path(__file__).parent
_START = 60.0  # seconds in which every client must have had an answer

_PAGE = b"""<!doctype html><script>
let answered = 0, failed = 0, first = "", stop = false;
async function run() {
  while (!stop) {
    try {
      const text = await (await fetch("/small", {cache: "no-store"})).text();
      stop = text == "stop";
      if (++answered == 1) fetch("/ready", {method: "POST"});
    } catch (error) { failed++; first = first || String(error); }
    await new Promise(done => setTimeout(done, 2));
  }
}
Promise.all([run(), run(), run(), run()]).then(async () => {
  const body = JSON.stringify({answered, failed, first});
  while (true) try { await fetch("/result", {method: "POST", body}); break; } catch (error) {}
});
</script>"""


class _Origin:
    """The server: small answers, a page, event streams; says through the pipe what the page has to say."""

    def __init__(self, pipe: Connection[Any, Any]) -> None:
        self._pipe = pipe
        self._stop = asyncio.Event()

    async def serve(self) -> None:
        asyncio.get_running_loop().add_reader(self._pipe.fileno(), self._told)
        await serve(self._connection, self._pipe)

    def _told(self) -> None:
        if self._pipe.recv() == "stop":
            self._stop.set()
        else:
            self._stop.clear()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = head.partition(b"\ncontent-length:")[2].split(b"\r")[0]
            body = await reader.readexactly(int(length or 0))
            path = head.split(b" ")[1]
            if path == b"/events":
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
                writer.write(b"Transfer-Encoding: chunked\r\n\r\nd\r\ndata: first\n\n\r\n")
                await self._stop.wait()
                writer.write(b"b\r\ndata: end\n\n\r\n0\r\n\r\n")
                continue
            answer, kind = b"stop" if self._stop.is_set() else b"go", b"text/plain"
            if path == b"/page":
                answer, kind = _PAGE, b"text/html"
            elif path == b"/ready":
                self._pipe.send("ready")
            elif path == b"/result":
                self._pipe.send(json.loads(body))
            else:
                await asyncio.sleep(0.002)
            writer.write(response(answer, b"Content-Type: %b\r\n" % kind))


def _serve(pipe: Connection[Any, Any]) -> None:
    asyncio.run(_Origin(pipe).serve())


@contextlib.contextmanager
def origin() -> Iterator[tuple[str, Connection[Any, Any]]]:
    """The server's address, and the pipe on which it is told to ``stop`` and says what the page has found."""
    with child(_serve) as pipe:
        yield f"127.0.0.1:{pipe.recv()}", pipe


OPTIONS: dict[str, dict[str, Any]] = {
    "pylb": {"workers": 2},
    "haproxy": {"workers": 2, "connections": 2000, "master": True},
}


@dataclass
class Client:
    """A client that runs until its input ends, or until the server tells its page to stop."""

    name: str
    process: subprocess.Popen[str]
    page: bool = False


def _go(folder: Path) -> str:
    """The Go client, compiled."""
    made = folder / "requests"
    if not made.exists():
        environment = os.environ | {
            "GO111MODULE": "off",
            "GOPATH": "/usr/share/gocode",
            "GOCACHE": str(folder / "go"),
        }
        subprocess.run(
            ["go", "build", "-o", str(made), str(_HERE / "requests.go")], check=True, env=environment
        )
    return str(made)


def installed() -> tuple[list[str], list[str]]:
    """Names of the clients that can run here, and of the others."""
    there = {"httpx": True, "java": shutil.which("java") and shutil.which("javac"), "go": shutil.which("go")}
    try:
        import h2  # noqa: F401
        import httpx  # noqa: F401
    except ImportError:
        there["httpx"] = False
    there["chromium"] = shutil.which("chromium")
    return [name for name in there if there[name]], [name for name in there if not there[name]]


def _commands(names: list[str], folder: Path, work: Path, port: int) -> dict[str, list[str]]:
    base = f"https://127.0.0.1:{port}"
    commands: dict[str, list[str]] = {}
    if "java" in names:
        java = [
            "java",
            "-Djdk.internal.httpclient.disableHostnameVerification=true",
            "-cp",
            str(work),
            "Requests",
        ]
        commands["Java, own"] = [*java, f"{base}/small", "4", "own"]
        commands["Java, shared"] = [*java, f"{base}/small", "4", "shared"]
    if "httpx" in names:
        python = [sys.executable, "-m", "bench.failures.httpx_client"]
        commands["httpx, own"] = [*python, f"{base}/small", "4", "own"]
        commands["httpx, shared"] = [*python, f"{base}/small", "4", "shared"]
        commands["httpx, quiet event streams"] = [*python, f"{base}/events", "4", "events"]
    if "go" in names:
        commands["Go, POST"] = [_go(work), f"{base}/small", "4"]
    if "chromium" in names:
        commands["Chromium"] = [
            "chromium", "--ignore-certificate-errors", "--headless", "--no-sandbox", "--disable-gpu",
            "--disable-quic", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", f"--user-data-dir={folder}/chromium",
            "--remote-debugging-port=0", f"{base}/page",
        ]  # fmt: skip
    return commands


def play(name: str, names: list[str], folder: Path, work: Path, only: str = "") -> dict[str, dict[str, Any]]:
    """What each client found before one balancer."""
    with origin() as (server, pipe), contextlib.ExitStack() as stack:
        site = Site.with_tls([server])
        balancer = stack.enter_context(running(name, folder, site, **OPTIONS[name]))
        programs = []
        for title, command in _commands(names, folder, work, site.tls_port).items():
            if only in title:
                page = title == "Chromium"
                started = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                    stderr=(folder / f"{title}.err").open("w"), start_new_session=True,
                )  # fmt: skip
                programs.append(Client(title, started, page))
        try:
            for program in programs:
                if program.page:
                    _expect(pipe, "ready")
                else:
                    assert program.process.stdout is not None
                    assert program.process.stdout.readline() == "ready\n", program.name
            for _ in range(RELOADS):
                balancer.process.send_signal(RELOAD[name])
                time.sleep(EVERY)
            pipe.send("stop")
            found = {}
            for program in programs:
                if program.page:
                    found[program.name] = _expect(pipe, None)
                else:
                    output, _ = program.process.communicate(timeout=30)
                    found[program.name] = json.loads(output)
            return found
        finally:
            for program in programs:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(program.process.pid, signal.SIGKILL)
                program.process.wait()


def _expect(pipe: Connection[Any, Any], what: str | None) -> Any:
    """The page's next word, or what it found."""
    while pipe.poll(_START):
        got = pipe.recv()
        if what is None and isinstance(got, dict) or got == what:
            return got
    raise TimeoutError("the page says nothing")


def run(only: str = "", *balancers: str) -> list[Row]:
    """Both balancers, one after the other."""
    names, missing = installed()
    rows = []
    with tempfile.TemporaryDirectory(prefix="goaway-") as text:
        work = Path(text)
        if "java" in names:
            subprocess.run(["javac", "-d", str(work), str(_HERE / "Requests.java")], check=True)
        if "go" in names:
            _go(work)
        for name in balancers or OPTIONS:
            found = play(name, names, work / name, work, only)
            rows.append(_row(name, found, missing))
            for title, result in found.items():
                if result["failed"]:
                    print(f"  {name}, {title}: first failure: {result['first']}", flush=True)
    return rows


def _row(name: str, found: dict[str, dict[str, Any]], missing: list[str]) -> Row:
    words = [
        f"{title}: {result['failed']} of {result['answered'] + result['failed']}"
        for title, result in found.items()
    ]
    outcome = f"lost through {RELOADS} reloads: " + "; ".join(words)
    if missing:
        outcome += f" (not installed: {', '.join(missing)})"
    return Row(
        "HTTP/2 clients and reloads",
        name,
        outcome,
        {title: float(one["failed"]) for title, one in found.items()},
    )


if __name__ == "__main__":
    for row in run(*sys.argv[1:]):
        print(f"{row.balancer}: {row.outcome}")
