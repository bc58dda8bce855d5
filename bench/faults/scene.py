"""What a fault is played on: the servers, both balancers, a small disk, a clock, and a network of its own.

All of it is in a network and a mount namespace (man 1 unshare) that the benchmark has for itself, so that
packets can be lost and the disk can fill up without anybody else noticing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import trustme

from bench.faults.balancers import Sites, balancers
from bench.faults.servers import Servers, servers
from bench.rig.processes import Program

PLAIN = 4
SECURE = 2
_INSIDE = "PYLB_FAULTS_INSIDE"
_SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
static volatile long *offset;
static int (*real)(clockid_t, struct timespec *);
__attribute__((constructor)) static void begin(void) {
    int file = open(FILE_NAME, O_RDONLY);
    real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    offset = mmap(0, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
}
int clock_gettime(clockid_t clock, struct timespec *at) {
    int done = real(clock, at);
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) at->tv_sec += *offset;
    return done;
}
int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
"""


class Clock:
    """The time of day of both balancers, which can be set: a library that is loaded before libc."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "offset"
        self.library: Path | None = None
        """None: there is no compiler."""
        self.jump(0)
        if shutil.which("cc"):
            source = folder / "clock.c"
            source.write_text(_SHIM.replace("FILE_NAME", f'"{self._file}"'))
            self.library = folder / "clock.so"
            subprocess.run(
                ["cc", "-shared", "-fPIC", "-O2", "-o", str(self.library), str(source), "-ldl"], check=True
            )

    def jump(self, seconds: int) -> None:
        """Be so many seconds ahead from now on."""
        with self._file.open("r+b" if self._file.exists() else "wb") as file:
            file.write(seconds.to_bytes(8, sys.byteorder, signed=True))


class Network:
    """Rules of nftables on what goes to the servers."""

    def set(self, *rules: str) -> None:
        """Have these rules, and no others."""
        chain = "type filter hook input priority 0;"
        text = "flush ruleset\ntable inet faults {\nchain input {\n" + chain + "\n"
        text += "\n".join(rules) + "\n}\n}\n"
        subprocess.run(["nft", "-f", "-"], input=text.encode(), check=True)


@dataclass
class Scene:
    """All that faults happen to."""

    folder: Path
    disk: Path
    servers: Servers
    programs: dict[str, Program]
    ports: dict[str, dict[str, int]]
    clock: Clock
    network: Network

    def port_of(self, number: int) -> int:
        """A server's port."""
        return self.servers.addresses[number][1]

    def send(self, what: str, number: signal.Signals) -> None:
        """Send a signal to a process of each balancer: ``worker``, ``control`` (HAProxy has its master for
        that) or ``supervisor``."""
        for name, program in self.programs.items():
            with contextlib.suppress(psutil.NoSuchProcess):
                _process(name, program, what).send_signal(number)

    def fill(self) -> None:
        """Leave no room on the disk."""
        with contextlib.suppress(OSError), (self.disk / "filler").open("wb") as file:
            while True:
                file.write(b"." * 4096)
                file.flush()

    def empty(self) -> None:
        """Have room on it again."""
        (self.disk / "filler").unlink(missing_ok=True)

    def settle(self) -> None:
        """End every fault."""
        self.network.set()
        self.servers.play("ok", *range(len(self.servers.addresses)))
        self.clock.jump(0)
        self.empty()


def _process(name: str, program: Program, what: str) -> psutil.Process:
    tree = program.tree()
    if name == "haproxy":
        return tree[-1] if what == "worker" else tree[0]
    if what == "supervisor":
        return tree[0]
    return next(one for one in tree[1:] if what in " ".join(one.cmdline()))


def inside() -> None:
    """Go into namespaces of this benchmark's own, unless it is there already; needs root."""
    if _INSIDE not in os.environ:
        command = ["unshare", "--net", "--mount", "--propagation", "private", sys.executable, "-m"]
        os.execvpe("unshare", [*command, "bench.faults", *sys.argv[1:]], os.environ | {_INSIDE: "1"})
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def _certificates(folder: Path) -> tuple[Path, list[tuple[Path, Path] | None]]:
    """The authority's certificate; and of each server its own, the last of which has expired."""
    authority = trustme.CA()
    file = folder / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    made: list[tuple[Path, Path] | None] = [None] * PLAIN
    for number in range(SECURE):
        expires = datetime.now(UTC) + timedelta(days=1 if number < SECURE - 1 else -1)
        one = authority.issue_cert("localhost", not_before=expires - timedelta(days=2), not_after=expires)
        certificate, key = folder / f"{number}.pem", folder / f"{number}.key"
        one.cert_chain_pems[0].write_to_path(str(certificate))
        one.private_key_pem.write_to_path(str(key))
        made.append((certificate, key))
    return file, made


@contextmanager
def scene(folder: Path) -> Iterator[Scene]:
    """A fresh one; its servers are ``plain`` ones, and ``secure`` ones of which the last has expired."""
    disk = folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "faults", str(disk)], check=True)
    try:
        authority, certificates = _certificates(folder)
        clock = Clock(folder)
        network = Network()
        network.set()
        with servers([("127.0.0.1", 0)] * (PLAIN + SECURE), certificates) as made:
            sites = Sites({"plain": made.names[:PLAIN], "secure": made.names[PLAIN:]}, {"secure": authority})
            with balancers(folder, disk, sites, clock.library) as both:
                programs = {name: program for name, (program, _) in both.items()}
                ports = {name: own.ports for name, (_, own) in both.items()}
                yield Scene(folder, disk, made, programs, ports, clock, network)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)
