"""``python -m bench.dns_changes``: DNS that changes under load. Every request must be answered with a 200.

Eight servers on addresses of loopback (127.0.0.2 to 127.0.0.9, one port) stand behind a name that a name
server of our own gives, with a TTL of one second. Keep-alive clients send without pause while what it says
changes. A server that it no longer names is stopped once pylb has had the time to notice, as whoever takes
machines away would do; one that it only forgets for a while goes on, and must get requests still.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from typing import Any

import dns.rcode
import psutil
import uvloop

from bench.rig.balancer import Balancer, free_port, frontend
from bench.rig.clients import keep_alive_clients
from bench.rig.command import console, parser
from bench.rig.nameserver import NameServer
from bench.rig.origins import SMALL
from bench.rig.processes import child, event
from bench.rig.report import in_words, write

CLIENTS = 16
HOSTS = [f"127.0.0.{number}" for number in range(2, 10)]
NAME = "app.test."
HOLD = 4.0
"""Seconds for which a step lasts at least; the TTL and the second answer take two."""
STOPPED_AFTER = 3.0
"""Seconds after which a server stops that the DNS doesn't name any more."""


def _server(host: str, port: int, pipe: Connection[Any, Any]) -> None:
    """Answer on an address until told to stop; then answer what is under way, and close."""

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(SMALL)
        except (OSError, EOFError):
            pass
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(connection, host, port)
        pipe.send(True)
        await server.serve_forever()

    uvloop.run(main())


def _clients(port: int, clients: int, ends: Event, pipe: Connection[Any, Any]) -> None:
    """Keep-alive clients that connect again after a failure, until ``ends``; sends answers and failures."""

    async def main() -> None:
        stop = asyncio.Event()
        answered, failed = 0, Counter[str]()

        async def client() -> None:
            nonlocal answered
            while not stop.is_set():
                tally = await keep_alive_clients("127.0.0.1", port, 1, stop)
                answered += tally.answered
                failed.update(tally.failed)

        tasks = [asyncio.create_task(client()) for _ in range(clients)]
        while not ends.is_set():
            await asyncio.sleep(0.05)
        stop.set()
        await asyncio.wait(tasks, timeout=10)
        pipe.send((answered, dict(failed), sum(not task.done() for task in tasks)))

    uvloop.run(main())


@dataclass
class Step:
    """One change of what the DNS says."""

    name: str
    servers: int
    """That pylb has at the end of it."""
    seconds: float
    """From the change until pylb has the servers that it is to have; 0 where it is to keep them."""
    requests: int = 0


class Scene:
    """The name server, the servers that run, and the balancer."""

    def __init__(self, stack: ExitStack) -> None:
        self.names = stack.enter_context(NameServer(ttl=1))
        self.port = free_port()
        self._running: dict[str, ExitStack] = {}
        stack.callback(self.run, [])
        front = free_port()
        self.say(HOSTS[:4])
        self.run(HOSTS[:4])
        text = frontend("web", front) + (
            f'[[backend]]\nname = "b"\n[[backend.discover]]\ndns = "app.test:{self.port}"\nsearch = []\n'
            f'resolvers = "127.0.0.1:{self.names.port}"\nfamily = "ipv4"\nallow_local = true\n'
            "[workers]\nmin = 2\nmax = 2\n"
        )
        self.balancer = stack.enter_context(Balancer(text=text))
        self.balancer.port = front
        self.have(HOSTS[:4])
        self.steps: list[Step] = []

    def say(self, hosts: list[str]) -> None:
        """What the DNS answers."""
        self.names.records[NAME, "A"] = hosts

    def run(self, hosts: list[str]) -> None:
        """Have exactly these servers run."""
        for host in [one for one in self._running if one not in hosts]:
            self._running.pop(host).close()
        for host in hosts:
            if host not in self._running:
                self._running[host] = stack = ExitStack()
                stack.enter_context(child(_server, host, self.port)).recv()

    def have(self, hosts: list[str]) -> float:
        """Wait until pylb has these servers; gives the seconds."""
        began = time.monotonic()
        wanted = {f"{host}:{self.port}" for host in hosts}
        self.balancer.wait(f"{hosts}", lambda status: {one["address"] for one in status["servers"]} == wanted)
        return time.monotonic() - began

    @contextmanager
    def step(self, name: str, hosts: list[str]) -> Iterator[Callable[[], None]]:
        """A change after which pylb is to have these servers; calls what it gives once it has been made."""
        began, before = time.monotonic(), self._requests()
        took: list[float] = []
        yield lambda: took.append(self.have(hosts))
        time.sleep(max(0.0, began + HOLD - time.monotonic()))
        assert self.have(hosts) < HOLD
        done = Step(name, len(hosts), took[0] if took else 0.0, self._requests() - before)
        self.steps.append(done)
        console.log(f"{name}: {done.servers} servers after {done.seconds:.1f} s, {done.requests} requests")

    def change(self, name: str, hosts: list[str]) -> None:
        """The DNS names others; new ones run before, old ones stop a while after."""
        with self.step(name, hosts) as noticed:
            self.run([*dict.fromkeys([*self._running, *hosts])])
            said = time.monotonic()
            self.say(hosts)
            noticed()
            time.sleep(max(0.0, said + STOPPED_AFTER - time.monotonic()))
            self.run(hosts)

    def wrong(self, name: str, hosts: list[str], begin: Callable[[], None], end: Callable[[], None]) -> None:
        """The DNS answers wrongly for some seconds; pylb is to keep its servers, which go on."""
        with self.step(name, hosts):
            asked = len(self.names.asked)
            begin()
            until = time.monotonic() + HOLD
            while time.monotonic() < until or len(self.names.asked) < asked + 2:
                time.sleep(0.1)
            end()
            self.balancer.wait("answered", lambda status: not status["discovery"][0]["error"])

    def _requests(self) -> int:
        found: int = self.balancer.status()["totals"]["requests"]
        return found


def changes(scene: Scene) -> None:
    """The steps, in their order."""
    names = scene.names
    four, six, other = HOSTS[:4], HOSTS[:6], HOSTS[4:]

    def rcode(value: dns.rcode.Rcode | None) -> Callable[[], None]:
        def do() -> None:
            names.rcode = {} if value is None else {"A": value}

        return do

    def half_for_a_moment() -> None:
        """One answer with a fifth of the servers, as from a zone that is loaded anew."""
        asked = len(names.asked)
        scene.say(six[:1])
        while len(names.asked) == asked:
            time.sleep(0.005)
        scene.say(six)

    scene.change("two added", six)
    scene.change("one removed", six[1:])
    scene.change("it comes back", six)
    scene.wrong("SERVFAIL", six, rcode(dns.rcode.SERVFAIL), rcode(None))
    scene.wrong("REFUSED", six, rcode(dns.rcode.REFUSED), rcode(None))
    scene.wrong(
        "no answer", six, lambda: setattr(names, "silent", True), lambda: setattr(names, "silent", False)
    )
    scene.wrong("NXDOMAIN", six, rcode(dns.rcode.NXDOMAIN), rcode(None))
    scene.wrong("empty answers", six, lambda: scene.say([]), lambda: scene.say(six))
    scene.wrong("five of six missing in one answer", six, half_for_a_moment, lambda: None)
    scene.change("half removed", six[:3])
    scene.change("all replaced", other)
    scene.change("all but one removed", other[:1])
    scene.change("as at the beginning", four)


def reload_and_restart(scene: Scene) -> None:
    """A reload, and the control plane killed, while the DNS is away."""
    names, hosts = scene.names, HOSTS[:4]
    with scene.step("reload while the DNS is away", hosts):
        names.silent = True
        scene.balancer.signal(signal.SIGHUP)
        scene.balancer.wait("reloaded", lambda status: status["generation"] == 2)
    with scene.step("control plane killed while the DNS is away", hosts):
        control = next(one for one in _children(scene.balancer.process.pid) if "control" in one[1])
        os.kill(control[0], signal.SIGKILL)
    names.silent = False


def _children(pid: int) -> list[tuple[int, str]]:
    return [(one.pid, " ".join(one.cmdline())) for one in psutil.Process(pid).children()]


def main() -> None:
    options = parser(__doc__)
    chosen = options.parse_args()
    with ExitStack() as stack:
        scene = Scene(stack)
        ends = event()
        pipe = stack.enter_context(child(_clients, scene.balancer.port, CLIENTS, ends))
        began = time.monotonic()
        changes(scene)
        reload_and_restart(scene)
        ends.set()
        answered, failed, unanswered = pipe.recv()
        seconds = time.monotonic() - began
        discovery = scene.balancer.status()["discovery"][0]
    lost = sum(failed.values()) + unanswered
    what = ", ".join(f"{count} × {text}" for text, count in failed.items())
    lines = [
        *("# DNS that changes under load", ""),
        *(f"Written by `python -m bench.dns_changes`. {in_words()}.", ""),
        f"{CLIENTS} keep-alive clients send for {seconds:.0f} s without pause; 2 workers, TTL 1 s. A server "
        f"that is no longer named is stopped {STOPPED_AFTER:g} s later. {answered} requests answered, "
        f"**{lost} lost**{': ' + what if what else ''}.",
        *(
            "",
            "| what the DNS says | servers then | noticed after, s | requests meanwhile |",
            "|---|---|---|---|",
        ),
        *(
            f"| {one.name} | {one.servers} | {format(one.seconds, '.1f') if one.seconds else 'kept'} "
            f"| {one.requests} |"
            for one in scene.steps
        ),
    ]
    found = {
        **{"clients": CLIENTS, "seconds": seconds, "answered": answered, "failed": failed},
        **{"unanswered": unanswered, "failures_of_dns": discovery["failures"]},
        "steps": [vars(one) for one in scene.steps],
    }
    write("dns_changes", found, lines, chosen.out)
    sys.exit(1 if lost or not all(one.requests for one in scene.steps) else 0)


if __name__ == "__main__":
    main()
