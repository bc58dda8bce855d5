"""The paper's set-ups, and the balancers in them: pylb with a fixed count or adaptive, HAProxy in its place.

See `testbed.py` for the machines. A web-server machine runs one nginx process for each of its vCPUs, HAProxy
one process for each count on the same port (``SO_REUSEPORT``), and each of them, as each pylb worker, is
bound to at most one virtual core.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.rig import peers
from bench.rig.balancer import Balancer, free_port
from bench.rig.origins import nginx_with_files
from bench.rig.peers import Site
from bench.rig.processes import wait_for
from bench.testbed import CORE, Group, Host, Vm, spinning

ADAPTIVE = 0
"""The count that means: pylb's own scaling."""


@dataclass(frozen=True)
class Setup:
    """One arrangement of machines, and the numbers of processes that are tried in it."""

    key: str
    title: str
    counts: tuple[int, ...]
    balancer: int
    """Cores that the balancer's machine may use."""
    own: int | None = None
    """Those of them that were given to it; the others it may use while they are idle. None: all."""
    web: tuple[int, ...] = (1, 1)
    extra: int = 0
    """vCPUs, all of them busy, of a machine that has nothing to do with the service."""
    batch: int = 0
    """Cores that a machine may use which sleeps until it is woken."""
    cores: int = 4
    """Virtual cores of the host."""
    preferred: tuple[str, ...] = ()
    """Machines that have `kept` cores to themselves; the others share the rest."""
    kept: int = 0
    seconds: float | None = None
    """Experiment 2: answered requests in this time. None: experiment 1, a number of connections."""


SETUPS = (
    Setup("2a", "one idle core beside the balancer's own", (1, 2, 4), balancer=2, own=1),
    Setup("2b", "balancer with 3 vCPUs, every machine has its cores", (1, 2, 3, 4), balancer=3, cores=5),
    Setup("2c", "balancer with 4 vCPUs, 8 vCPUs on 4 cores", (1, 2, 4), balancer=4, web=(2, 2)),
    *(
        Setup(f"3-{vcpus}", f"balancer with {vcpus} vCPU", (1, 2, 4), balancer=vcpus, seconds=5.0)
        for vcpus in (1, 2, 4)
    ),
    *(
        Setup(f"4-{name}", title, (1, 2, 4), 2, web=(2, 2), extra=4, preferred=preferred, kept=kept)
        for name, title, preferred, kept in (
            ("Base", "10 vCPUs on 4 cores, nobody preferred", (), 0),
            ("LA", "balancer and extra machine preferred", ("pylb", "extra"), 3),
            ("L", "balancer preferred", ("pylb",), 2),
            ("LW", "balancer and web servers preferred", ("pylb", "web-1", "web-2"), 3),
        )
    ),
)


@dataclass
class Scene:
    """A set-up that runs."""

    setup: Setup
    host: Host
    folder: Path
    balancer: Vm
    servers: list[str]
    controller: str
    """The controller's address."""


def _web_server(vm: Vm, folder: Path, part: str) -> str:
    port = free_port()
    home = folder / f"{vm.name}-{part}"
    home.mkdir()
    vm.run(nginx_with_files(home, [port]), part)
    return f"127.0.0.1:{port}"


@contextlib.contextmanager
def scene(setup: Setup) -> Iterator[Scene]:
    """Machines, web servers, load in the extra machine, and the host's controller."""
    folder = Path(tempfile.mkdtemp(prefix="pylb-scene-"))
    folder.chmod(0o755)
    with Host(setup.cores) as host, contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        partitions = {}
        if setup.preferred:
            kept = host.partition("preferred", setup.kept)
            rest = host.partition("others", setup.cores - setup.kept)
            names = ("pylb", "web-1", "web-2", "extra")
            partitions = {name: kept if name in setup.preferred else rest for name in names}
        servers = []
        for number, vcpus in enumerate(setup.web):
            name = f"web-{number + 1}"
            vm = host.vm(name, vcpus, partitions.get(name))
            servers += [_web_server(vm, folder, f"nginx-{core}") for core in range(vcpus)]
        balancer = host.vm("pylb", setup.balancer, partitions.get("pylb"), setup.own)
        if setup.extra:
            stack.enter_context(spinning(host.vm("extra", setup.extra, partitions.get("extra")), setup.extra))
        if setup.batch:
            host.vm("batch", setup.batch)
        address = f"unix:{folder}/controller.sock"
        source = host.table(folder / "vms.toml")
        controller = subprocess.Popen(
            [sys.executable, "-m", "controller", "--listen", address, "--source", source],
            stderr=subprocess.DEVNULL,
        )
        stack.callback(controller.wait)
        stack.callback(controller.terminate)
        yield Scene(setup, host, folder, balancer, servers, address)


class Running:
    """A balancer that serves in a scene, inside the balancer's machine until it has to `leave`."""

    def __init__(
        self, scene: Scene, port: int, processes: Callable[[], dict[int, str]], pylb: Balancer | None = None
    ) -> None:
        """``processes`` gives the name of the core that each process of it belongs on."""
        self.port = port
        self.pylb = pylb
        self.counts: list[tuple[float, int]] = []
        """Seconds (monotonic) and how many workers it had then."""
        self._scene = scene
        self._processes = processes
        self._inside = True
        self._placed: dict[int, Group] = {}
        self._placing = threading.Lock()

    def leave(self) -> None:
        """Make room in the machine for another balancer: what this one does while idle is done elsewhere."""
        self._inside = False
        self.place()

    def enter(self) -> None:
        """Be back in the machine."""
        self._inside = True
        self.place()

    def place(self) -> None:
        """Put each process where it belongs now."""
        with self._placing:
            found = self._processes()
            placed: dict[int, Group] = {}
            for pid, core in found.items():
                group = self._scene.balancer.core(core) if self._inside else self._scene.host.elsewhere
                with contextlib.suppress(OSError):  # it may have ended
                    if self._placed.get(pid) is not group:
                        group.add(pid)
                    placed[pid] = group
            self._placed = placed
        self.counts.append((time.monotonic(), sum(core.startswith("worker") for core in found.values())))

    def follow(self, stop: threading.Event) -> None:
        """Place new processes as they appear."""
        while not stop.wait(0.02):
            with contextlib.suppress(OSError):
                self.place()


@contextlib.contextmanager
def running(scene: Scene, kind: str, count: int) -> Iterator[Running]:
    """``pylb`` or ``haproxy`` with so many processes."""
    if kind == "haproxy":
        with _haproxy(scene, count) as one:
            yield one
        return
    workers = f"1..{scene.setup.balancer}" if count == ADAPTIVE else str(count)
    controller = ["--controller", scene.controller] if count == ADAPTIVE else []
    # Started outside, so that Python's imports don't take seconds of a small machine, and then moved in.
    hidden = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs none /sys/fs/cgroup; exec "$@"', "sh"]
    guest = ("bench.guest", str(scene.setup.balancer), str(CORE))
    balancer = Balancer("--workers", workers, *controller, servers=scene.servers, wrap=hidden, module=guest)
    one = Running(scene, balancer.port, lambda: _of_pylb(balancer.process.pid), balancer)
    stop = threading.Event()
    follower = threading.Thread(target=one.follow, args=(stop,))
    follower.start()
    try:
        if count != ADAPTIVE:
            balancer.wait_workers(count)
        yield one
    finally:
        stop.set()
        follower.join()
        balancer.stop()


def _of_pylb(supervisor: int) -> dict[int, str]:
    """Each worker has a core of its own; the other processes share one.

    Raises:
        OSError: one of them ended meanwhile.
    """
    found = {supervisor: "rest"}
    for pid in Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split():
        title = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode()
        if title.startswith("pylb: worker"):
            found[int(pid)] = f"worker-{title.split()[2]}"
        elif title.startswith("pylb: control"):
            found[int(pid)] = "rest"
    return found


@contextlib.contextmanager
def _haproxy(scene: Scene, count: int) -> Iterator[Running]:
    site = Site(scene.servers)
    folder = scene.folder / f"haproxy-{count}"
    folder.mkdir(exist_ok=True)
    command = peers.haproxy(folder, site, balance="leastconn")
    processes = [scene.balancer.run(command, f"haproxy-{number}") for number in range(count)]
    try:
        wait_for(f"{count} processes that listen on port {site.port}", lambda: _listening(site.port) >= count)
        cores = {process.pid: f"haproxy-{number}" for number, process in enumerate(processes)}
        yield Running(scene, site.port, lambda: cores)
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(2)
            process.kill()
            process.wait()


def _listening(port: int) -> int:
    """How many sockets listen on 127.0.0.1:``port``."""
    # man 5 proc: local address, remote address, LISTEN
    return Path("/proc/net/tcp").read_text().count(f":{port:04X} 00000000:0000 0A")
