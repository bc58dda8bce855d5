"""A host with several guests, each in a cgroup of its own, and the load on them.

async with Scene(controller.socket) as scene:
    lb, web = await scene.boot("lb", vcpus=2), await scene.boot("web")
    server = await files(web)
    before = scene.cpu()
    seen = await wrk(lb.url(), seconds=5, clients=250)
    spent = used(before, scene.cpu())        # cores by guest, and of everything else
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import psutil

from bench.testbed import CORE, Group
from bench.vm.guest import Guest
from bench.vm.image import Image, image
from bench.vm.network import Network

REST = "rest"
"""What is no guest: the client, the controller, and whatever else runs on this host."""
AT = "at"
CPUS = sorted(os.sched_getaffinity(0))[:2]
"""What the guests share, on larger hosts too."""
SOURCE = f'cpus = "{",".join(map(str, CPUS))}"\n'
"""The file of the controller's source ``hypervisor``."""
_CGROUP = f"pylb-vm-{os.getpid()}"
_SHARES = 16
"""The guests together have the weight of so many of this host's sessions (man 7 sched, autogroup)."""
_NGINX = """\
worker_processes {workers}; pid /run/nginx.pid; error_log /tmp/nginx.err;
events {{ worker_connections 4096; }}
http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 300;
server {{ listen 80 backlog=4096 reuseport; location / {{ return 200 "{body}"; }} }} }}
"""
_LATENCIES = """\
done = function(summary, latency, requests)
   for step = 1, 999 do io.write(string.format("CDF %d\\n", latency:percentile(step / 10))) end
   io.write(string.format("MOST %d\\n", latency.max))
end
"""


class Scene:
    """Guests on one network."""

    def __init__(self, controller: Path | None = None) -> None:
        self.guests: dict[str, Guest] = {}
        self._groups: dict[str, Group] = {}
        self._controller = controller
        self._stack = contextlib.AsyncExitStack()
        self._network = Network()
        self._image: Image | None = None
        self._parent: Group | None = None

    async def __aenter__(self) -> Self:
        try:
            self._image = await asyncio.to_thread(image)
            self._parent = Group(_CGROUP)
            self._stack.callback(self._parent.remove)
            _weigh(self._parent, _SHARES)
            self._stack.enter_context(_in_front())
            await self._stack.enter_async_context(self._network)
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def host(self) -> str:
        """This host's address for the guests."""
        return self._network.host

    @property
    def clients(self) -> tuple[str, ...]:
        """What `wrk` needs to know for a connection per request, see `Network.clients`."""
        return self._network.clients

    async def boot(self, name: str, vcpus: int = 1, max_vcpus: int = 0) -> Guest:
        """Start a guest; several at once, too. ``guest.name`` is one that no other run's guests have."""
        assert self._image is not None and self._parent is not None
        group = Group(f"{self._parent.path}/{name}")
        self._stack.callback(group.remove)
        enter = "".join(f"echo $$ >{folder}/cgroup.procs; " for folder in group.folders)
        wrap = ("sh", "-c", f'{enter}exec "$@"', "sh", "taskset", "-c", ",".join(map(str, CPUS)))
        where = self._network, vcpus, self._controller
        guest = Guest(self._image, f"{name}-{os.getpid()}", *where, max_vcpus=max_vcpus, wrap=wrap)
        await self._stack.enter_async_context(guest)
        self.guests[name], self._groups[name] = guest, group
        return guest

    def cpu(self) -> dict[str, float]:
        """CPU seconds so far of each guest and of the rest of this host; `AT` is the moment."""
        times = psutil.cpu_times()
        busy = sum(times) - times.idle - times.iowait - times.guest - times.guest_nice
        found = {name: group.use() * CORE for name, group in self._groups.items()}
        return {**found, REST: busy - sum(found.values()), AT: time.monotonic()}


def load_in_words(found: dict[str, Any]) -> str:
    """How loaded the host was before the guests were, as the end of a line, where that was noted."""
    return f"; load of the host at the start {found['load']:.1f}" if "load" in found else ""


def used(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Cores between two moments."""
    seconds = after[AT] - before[AT]
    return {name: round((after[name] - before[name]) / seconds, 3) for name in after if name != AT}


def _weigh(group: Group, sessions: int) -> None:
    """Or all guests together get as much as one session of this host."""
    for folder in group.folders:
        for name, usual in (("cpu.shares", 1024), ("cpu.weight", 100)):
            if (folder / name).exists():
                (folder / name).write_text(str(usual * sessions))


@contextlib.contextmanager
def _in_front() -> Iterator[None]:
    """Clients and controller, this process with what it starts, don't wait for the guests.

    A nice value would not do: without a cgroup of its own a session counts as one process (autogroup), and
    its nice values among its own processes.
    """
    group = Group(f"{_CGROUP}-host")
    places = [folder.parent / path for folder, path in zip(group.folders, _places(group), strict=True)]
    group.prefer()
    try:
        me = psutil.Process()
        for process in (me, *me.children(recursive=True)):
            group.add(process.pid)
        yield
    finally:
        for folder, place in zip(group.folders, places, strict=True):
            for pid in (folder / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    (place / "cgroup.procs").write_text(pid)
        group.remove()


def _places(group: Group) -> list[str]:
    """This process's cgroup in the hierarchy of each of a group's folders, relative to its root."""
    found: dict[str, str] = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        found |= dict.fromkeys(controllers.split(","), path.lstrip("/"))
    return [found.get(folder.parent.name.split(",")[0], found.get("", "")) for folder in group.folders]


async def files(guest: Guest, size: int = 128) -> str:
    """nginx in a guest, with as many processes as vCPUs; gives its address."""
    text = _NGINX.format(workers=guest.vcpus, body="x" * size)
    write = f"cat >/tmp/nginx.conf <<'END'\n{text}END\n"
    done = await guest.run(f"{write}nginx -e /tmp/nginx.err -c /tmp/nginx.conf")
    if done.code:
        raise RuntimeError(f"nginx in {guest.name}: {done.err}")
    return f"{guest.address}:80"


class _Answer(asyncio.Protocol):
    """Answers each request head on its connection."""

    def __init__(self, response: bytes, answered: list[int]) -> None:
        self._response, self._data, self._answered = response, b"", answered

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        *heads, self._data = (self._data + data).split(b"\r\n\r\n")
        self._transport.write(self._response * len(heads))
        self._answered[0] += len(heads)


@contextlib.asynccontextmanager
async def answering(host: str, size: int = 128, answered: list[int] | None = None) -> AsyncIterator[str]:
    """A server in this process, at this host's address in the guests' network; gives its address.

    It counts what it has answered in the first place of ``answered``.
    """
    response = f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n{'x' * size}".encode()
    counted = [0] if answered is None else answered
    server = await asyncio.get_running_loop().create_server(lambda: _Answer(response, counted), host, 0)
    async with server:
        yield f"{host}:{server.sockets[0].getsockname()[1]}"


async def spin(guest: Guest) -> list[int]:
    """Keep all vCPUs of a guest busy; gives the processes in it."""
    return [await guest.start("sh -c 'while :; do :; done'") for _ in range(guest.vcpus)]


async def wrk(
    url: str,
    seconds: float,
    clients: int,
    timeout: float = 20.0,
    keep_alive: bool = True,
    place: Sequence[str] = (),
) -> dict[str, Any]:
    """Load from this host; what `read_wrk` finds.

    Args:
        place: what is written before the command, `Scene.clients` where each request has a connection.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_LATENCIES)
        script.flush()
        command = [*place, "wrk", "-t1", f"-c{clients}", f"-d{seconds:g}s", f"--timeout={timeout:g}s"]
        if not keep_alive:
            command.append("--header=Connection: close")
        process = await asyncio.create_subprocess_exec(
            *command, f"--script={script.name}", url, stdout=subprocess.PIPE
        )
        try:
            out, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    return read_wrk(out.decode())


def read_wrk(text: str) -> dict[str, Any]:
    """What wrk says: requests per second and in all, their milliseconds, and how many failed.

    ``cdf`` has the response times of each thousandth of the requests, in milliseconds.

    Raises:
        ValueError: it is something else.
    """
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    requests = re.search(r"^\s+(\d+) requests in", text, re.M)
    most = re.search(r"^MOST (\d+)", text, re.M)
    if rate is None or requests is None or most is None:
        raise ValueError(f"wrk said: {text!r}")
    cdf = [int(found) / 1000 for found in re.findall(r"^CDF (\d+)", text, re.M)]
    found: dict[str, Any] = {
        "rps": float(rate[1]), "requests": int(requests[1]), "failed": 0, "timeouts": 0,
        "p50_ms": cdf[499], "p90_ms": cdf[899], "p99_ms": cdf[989], "most_ms": int(most[1]) / 1000,
        "cdf": cdf[4::5],
    }  # fmt: skip
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    if errors is not None:
        found["failed"] = sum(int(number) for number in errors.groups())
        found["timeouts"] = int(errors[4])
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    if bad is not None:
        found["failed"] += int(bad[1])
    return found
