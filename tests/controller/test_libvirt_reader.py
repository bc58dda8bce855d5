"""The reader that asks libvirt, with what a connection gives as its reference describes it."""

from __future__ import annotations

import math
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from controller.sources import libvirtreader
from controller.sources.libvirtreader import LibvirtReader, machine_facts
from controller.sources.machines import Facts, VcpuFacts


class Domain:
    """A machine of two vCPUs, the second of which is pinned."""

    def __init__(self, name: str, **scheduler: int) -> None:
        self._name = name
        self._scheduler = scheduler

    def name(self) -> str:
        return self._name

    def vcpuPinInfo(self, flags: int) -> list[tuple[bool, ...]]:
        return [(True, True, True), (False, False, True)]

    def schedulerParameters(self) -> dict[str, int]:
        return self._scheduler


def stats(run: int) -> dict[str, Any]:
    return {
        "cpu.time": 10 * run,
        "vcpu.current": 2,
        "vcpu.maximum": 4,
        "vcpu.0.state": 1,
        "vcpu.0.time": run,
        "vcpu.0.wait": 7,
        "vcpu.0.delay": 30,
        "vcpu.1.time": 2 * run,
    }


class Connection:
    """Answers with one machine; raises or hangs on demand."""

    def __init__(self, domain: Domain) -> None:
        self.domain = domain
        self.asked: list[tuple[int, int]] = []
        self.error: Exception | None = None
        self.free = threading.Event()
        self.free.set()

    def getAllDomainStats(self, what: int, flags: int) -> list[tuple[Domain, dict[str, Any]]]:
        self.asked.append((what, flags))
        self.free.wait()
        if self.error is not None:
            raise self.error
        return [(self.domain, stats(len(self.asked)))]


@pytest.fixture
def reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(libvirtreader, "PERIOD", 0.005)
    (tmp_path / "stat").write_text("cpu 1\ncpu0 1 0 1 250 50 0\nintr\n")
    (tmp_path / "web.pid").write_text("4711\n")
    readers: list[LibvirtReader] = []

    def begin(connect: Callable[[], Any]) -> LibvirtReader:
        readers.append(LibvirtReader(connect, tmp_path, tmp_path / "stat", tmp_path))
        return readers[-1]

    yield begin
    for reader in readers:
        reader.close()


def until(reader: LibvirtReader, wanted: Callable[[Facts], object]) -> Facts:
    """Read until it is so; a second of real waiting is only for machines that stand still."""
    pause = threading.Event()
    for _ in range(4000):
        try:
            facts = reader.read(0)
            if wanted(facts):
                return facts
        except OSError:
            pass
        pause.wait(0.005)
    raise AssertionError("it never came")


def test_what_libvirt_says(reading: Callable[[Callable[[], Any]], LibvirtReader]) -> None:
    domain = Domain("web", cpu_shares=2048, vcpu_quota=50000, vcpu_period=100000, global_quota=-1)
    connection = Connection(domain)
    reader = reading(lambda: connection)
    assert reader.machine(4711) is None
    facts = until(reader, lambda facts: facts.machines)
    web = facts.machines["web"]
    assert web.vcpus[0].wait == 30
    assert web.vcpus[0].cpus == frozenset({0, 1, 2})
    assert web.vcpus[1] == VcpuFacts(2 * web.vcpus[0].run, 0, frozenset({2}))
    assert (web.cap, web.weight) == (1.0, 200.0)
    assert facts.idle == {0: 3.0}
    assert connection.asked[0] == (2 | 8, 1 | 1 << 29)
    assert web.beside == 7 * web.vcpus[0].run
    assert [reader.machine(pid) for pid in (4711, 1)] == ["web", None]


def test_without_limits() -> None:
    facts = machine_facts(stats(5), [], math.inf, 100.0)
    assert facts.vcpus == {0: VcpuFacts(5, 30, frozenset()), 1: VcpuFacts(10, 0, frozenset())}


def test_a_connection_that_breaks_is_made_anew(
    reading: Callable[[Callable[[], Any]], LibvirtReader],
) -> None:
    first, second = Connection(Domain("web")), Connection(Domain("other"))
    connections = iter([first, second])
    reader = reading(lambda: next(connections))
    until(reader, lambda facts: "web" in facts.machines)
    first.error = RuntimeError("the socket is closed")
    until(reader, lambda facts: "other" in facts.machines)


def test_a_libvirtd_that_stands_still_blocks_nobody(
    reading: Callable[[Callable[[], Any]], LibvirtReader], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = Connection(Domain("web")), Connection(Domain("other"))
    connections = iter([first, second])
    reader = reading(lambda: next(connections))
    until(reader, lambda facts: "web" in facts.machines)
    first.free.clear()
    asked = len(first.asked)
    until(reader, lambda facts: len(first.asked) > asked)
    old = reader.read(0)
    assert reader.read(0) is old  # without a wait; its time says how old it is
    monkeypatch.setattr(libvirtreader, "PATIENCE", 0.0)
    until(reader, lambda facts: "other" in facts.machines)
    monkeypatch.setattr(libvirtreader, "PATIENCE", 5.0)
    first.free.set()  # what comes so late counts no more
    until(reader, lambda facts: reader._stuck == 0)
    assert "other" in reader.read(0).machines


def test_a_vcpu_that_is_plugged_has_its_cpus_at_once(
    reading: Callable[[Callable[[], Any]], LibvirtReader], monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = Connection(Domain("web"))
    reader = reading(lambda: connection)
    until(reader, lambda facts: facts.machines)
    more = stats(7) | {"vcpu.2.time": 1}
    monkeypatch.setattr(connection, "getAllDomainStats", lambda what, flags: [(connection.domain, more)])
    three = [(True, True, True), (False, False, True), (True, False, False)]
    monkeypatch.setattr(connection.domain, "vcpuPinInfo", lambda flags: three)
    facts = until(reader, lambda facts: 2 in facts.machines["web"].vcpus)
    assert facts.machines["web"].vcpus[2].cpus == frozenset({0})


def test_a_machine_that_no_cgroup_holds(
    reading: Callable[[Callable[[], Any]], LibvirtReader], monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = Connection(Domain("web"))

    def refuse() -> dict[str, int]:
        raise RuntimeError("cgroup CPU controller is not mounted")

    monkeypatch.setattr(connection.domain, "schedulerParameters", refuse)
    reader = reading(lambda: connection)
    web = until(reader, lambda facts: facts.machines).machines["web"]
    assert (web.cap, web.weight) == (math.inf, 100.0)


def test_libvirts_errors_are_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its module writes every error to standard error, unless told otherwise: four lines a second."""
    module = types.ModuleType("libvirt")
    handlers: list[Callable[[object, object], None]] = []

    def register(handler: Callable[[object, object], None], context: object) -> None:
        handlers.append(handler)

    module.registerErrorHandler = register  # type: ignore[attr-defined]
    module.openReadOnly = lambda uri: uri  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "libvirt", module)
    assert libvirtreader._connect() == "qemu:///system"
    (handler,) = handlers
    handler(None, ("no such socket",))


def test_nothing_known_is_an_error(reading: Callable[[Callable[[], Any]], LibvirtReader]) -> None:
    def refuse() -> Any:
        raise OSError("no libvirtd here")

    reader = reading(refuse)
    pause = threading.Event()
    for _ in range(4000):
        with pytest.raises(OSError) as caught:
            reader.read(0)
        if "no libvirtd here" in str(caught.value):
            return
        pause.wait(0.005)
    raise AssertionError
