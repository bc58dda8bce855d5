"""What virtual machines may use: arithmetic on facts, and the leases that come of it."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.__main__ import _show as show
from controller.address import parse
from controller.leases import LeaseTable, share
from controller.protocol import Grant, Hello, LineDecoder, Report, encode
from controller.server import ControllerServer
from controller.sources import SOURCES
from controller.sources.hypervisor import HypervisorSource, cpu_list
from controller.sources.machines import (
    Facts,
    Machine,
    MachineFacts,
    Rates,
    Vcpu,
    VcpuFacts,
    _Host,
    may_use,
)

TWO = frozenset({0, 1})
FOUR = frozenset(range(4))


def machine(*vcpus: tuple[float, float], on: Sequence[frozenset[int]] = (), **more: float) -> Machine:
    """Of what each vCPU runs and waits; on all four CPUs if nothing else is said."""
    masks = on or [FOUR] * len(vcpus)
    return Machine([Vcpu(run, wait, mask) for (run, wait), mask in zip(vcpus, masks, strict=True)], **more)


BUSY, IDLE, STARVED = (1.0, 0.0), (0.0, 0.0), (0.2, 0.8)


@pytest.mark.parametrize(
    ("mine", "others", "host", "cores"),
    [
        # Floating.
        (machine(IDLE, IDLE), [], 0.0, 2.0),
        (machine(IDLE, IDLE, IDLE, IDLE), [machine(BUSY)], 0.0, 3.0),
        (machine(*[IDLE] * 4), [machine((0.25, 0.25))], 0.0, 3.5),
        (machine(*[IDLE] * 8), [], 0.0, 4.0),  # no more than there are
        (machine(*[BUSY] * 4), [machine(*[STARVED] * 4)], 0.0, 2.0),  # a starved neighbour is not content
        (machine(*[BUSY] * 4), [machine(*[STARVED] * 4, weight=300.0)], 0.0, 1.0),
        (machine(*[BUSY] * 4), [machine(*[BUSY] * 4), machine((0.5, 0.0))], 0.0, 1.75),
        (machine(*[IDLE] * 4), [machine(*[BUSY] * 4, cap=1.5)], 0.0, 2.5),  # capped
        (machine(*[IDLE] * 4, cap=1.5), [], 0.0, 1.5),
        (machine(*[IDLE] * 4), [], 1.0, 3.0),  # the host itself
        (machine(*[IDLE] * 4), [machine(IDLE, IDLE)], 0.0, 4.0),  # idle
        # Pinned apart: however busy the other is.
        (machine(IDLE, IDLE, on=[TWO, TWO]), [machine(BUSY, BUSY, on=[frozenset({2, 3})] * 2)], 0.0, 2.0),
        # Pinned together, while the rest of the host is idle.
        (machine(BUSY, on=[frozenset({0})]), [machine(STARVED, on=[frozenset({0})])], 0.0, 0.5),
        (machine(BUSY, BUSY, on=[TWO, TWO]), [machine(STARVED, on=[frozenset({0})])], 0.0, 1.0),
        (machine(BUSY, BUSY, on=[TWO, TWO]), [machine((0.5, 0.0), on=[frozenset({0})])], 0.0, 1.5),
        # One that floats gives way to one that is pinned.
        (machine(IDLE, on=[frozenset({0})]), [machine(BUSY, BUSY)], 0.0, 1.0),
        # Nothing that may run here.
        (machine(IDLE, on=[frozenset({9})]), [], 0.0, 0.0),
        (machine(), [], 0.0, 0.0),
    ],
)
def test_what_a_machine_may_use(mine: Machine, others: list[Machine], host: float, cores: float) -> None:
    assert may_use([mine], others, FOUR, host) == pytest.approx(cores, abs=0.006)


masks = st.lists(st.frozensets(st.integers(0, 4), max_size=5), min_size=1, max_size=5, unique=True)


@given(masks, st.data())
def test_flow_is_what_the_smallest_cut_lets_through(sets: list[frozenset[int]], data: st.DataObject) -> None:
    cpus = frozenset(range(5))
    wants = data.draw(st.lists(st.floats(0, 4), min_size=len(sets), max_size=len(sets)))
    cut = min(
        len(taken) + sum(want for want, mask in zip(wants, sets, strict=True) if mask - set(taken))
        for size in range(6)
        for taken in itertools.combinations(cpus, size)
    )
    assert _Host(cpus, sets).flow(wants) == pytest.approx(cut, abs=1e-6)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=6),
    st.frozensets(st.integers(0, 4)),
    st.floats(1, 500),
    st.floats(0, 1),
)
def test_nobody_goes_below_need_or_share(
    vcpus: list[tuple[float, float]], mask: frozenset[int], weight: float, host: float
) -> None:
    cpus = frozenset(range(5))
    other = Machine([Vcpu(*vcpu, mask) for vcpu in vcpus], weight=weight)
    mine = machine(*[IDLE] * 5, on=[cpus] * 5)
    taken = may_use([mine], [other], cpus)
    alone = may_use([mine], [], cpus)
    assert 0 <= taken <= alone
    could = _Host(cpus, [vcpu.cpus for vcpu in other.vcpus]).flow(
        [min(1.0, vcpu.run + vcpu.wait) for vcpu in other.vcpus]
    )
    assert taken + min(could, taken * weight / 100) <= 5 + 0.01
    assert taken >= max(5 - could, 5 * 100 / (100 + weight)) - 0.01
    assert may_use([mine], [other], cpus, host) <= taken + 0.01


def recorded(at: float, *machines: tuple[str, Sequence[tuple[int, int]]], idle: float = 0.0) -> Facts:
    found = {
        name: MachineFacts({number: VcpuFacts(*vcpu, FOUR) for number, vcpu in enumerate(vcpus)})
        for name, vcpus in machines
    }
    return Facts(at, found, dict.fromkeys(range(4), idle))


def test_rates_are_differences_smoothed() -> None:
    rates = Rates(half_life=1.0)
    second = 1_000_000_000
    rates.take(recorded(10, ("a", [(5 * second, 0)])))
    assert rates.machines == {}
    rates.take(recorded(11, ("a", [(6 * second, 0)]), ("new", [(70 * second, 0)]), idle=0.5))
    assert rates.machines["a"].run == 1.0
    assert rates.machines["new"].run == 0.0  # what it ran before is not now
    assert rates.idle[3] == 0.5
    rates.take(recorded(11, ("a", [(60 * second, 0)])))  # no newer
    rates.take(recorded(12, ("a", [(6 * second, second // 2)]), ("new", [(71 * second, 0)]), idle=0.5))
    assert rates.machines["a"].run == pytest.approx(0.5)
    assert rates.machines["a"].need == pytest.approx(0.75)
    assert rates.machines["new"].run == 1.0
    assert rates.idle[3] == 0.25
    rates.take(recorded(13, ("new", [(3, 0)]), idle=0.5))  # another one of this name
    assert "a" not in rates.machines
    assert rates.machines["new"].run == 0.5


# The source, and the leases


class Recorded:
    """A reader that gives what was recorded, by time."""

    def __init__(self, *facts: Facts) -> None:
        self.facts = list(facts)

    def read(self, now: float) -> Facts:
        known = [facts for facts in self.facts if facts.at <= now]
        if not known:
            raise OSError("nothing yet")
        return known[-1]

    def machine(self, pid: int) -> str | None:
        return {1: "lb", 2: "lb-2"}.get(pid)

    def process(self, machine: str) -> int | None:
        return {"lb": 1, "lb-2": 2}.get(machine)


def starved(at: float) -> Facts:
    """Two machines of two vCPUs on two CPUs; the neighbour runs half a core and waits for as much again."""
    nanoseconds = int(at * 1e9)

    def facts(run: float, wait: float) -> MachineFacts:
        each = VcpuFacts(int(run * nanoseconds / 2), int(wait * nanoseconds / 2), TWO)
        return MachineFacts({0: each, 1: each})

    return Facts(at, {"lb": facts(1.5, 0.0), "web": facts(0.5, 0.5)}, {0: 0.0, 1: 0.0})


def source(tmp_path: Path, *facts: Facts, text: str = "") -> HypervisorSource:
    (tmp_path / "host.toml").write_text(text)
    return HypervisorSource(str(tmp_path / "host.toml"), Recorded(*facts))


def test_what_a_starved_neighbour_waits_for_is_not_lent(tmp_path: Path) -> None:
    host = source(tmp_path, *(starved(at) for at in (1.0, 2.0, 3.0)))
    host.sample(0.0)
    assert host.problem
    assert host.capacity({"lb": 9.0}) == 0
    for now in (1.0, 2.0, 3.0):
        host.sample(now)
    assert host.problem == ""
    assert host.capacity({"lb": 99.0}) == pytest.approx(1.0, abs=0.01)  # what it says doesn't enter
    assert host.needs()["web"] == pytest.approx((0.5, 1.0), abs=0.01)
    assert host.bounds(["lb", "who"]) == {"lb": pytest.approx(1.0, abs=0.01), "who": 0}
    assert (host.usable(), host.idle(), host.per_cpu()) == (2, 0, [0, 0])
    host.sample(4.5)  # the reader is stuck
    assert host.idle() == 0
    assert host.capacity({"lb": 0.0}) == 2.0  # what it uses
    assert host.capacity({"web": 0.0}) == 1.0


def test_what_a_balancers_own_network_costs_is_not_held_against_it(tmp_path: Path) -> None:
    """The more it had to do the less it could use: the second core was lent and taken back again."""

    def facts(at: float) -> Facts:
        nanoseconds = int(at * 1e9)
        lb = MachineFacts(
            {0: VcpuFacts(nanoseconds, 0, TWO), 1: VcpuFacts(0, 0, TWO)}, beside=nanoseconds // 4
        )
        return Facts(at, {"lb": lb}, {0: 0.0, 1: 0.7 * at})

    host = source(tmp_path, *(facts(at) for at in (1.0, 2.0, 3.0)))
    for now in (1.0, 2.0, 3.0):
        host.sample(now)
    assert host.capacity({"lb": 1.0}) == pytest.approx(1.95, abs=0.01)  # something else uses 0.05
    assert host.capacity({"other": 1.0}) == 0.0


def test_facts_that_are_old_lend_nothing_new(tmp_path: Path) -> None:
    second = 1_000_000_000
    host = source(
        tmp_path,
        recorded(1.0, ("lb", [(0, 0)] * 4), idle=0.0),
        recorded(2.0, ("lb", [(second // 2, 0)] + [(0, 0)] * 3), idle=0.9),
    )
    host.sample(1.0)
    host.sample(2.0)
    assert host.capacity({"lb": 0.0}) == 4.0
    assert host.idle() == pytest.approx(3.6)
    host.sample(3.5)
    assert (host.capacity({"lb": 0.0}), host.idle()) == (1.0, 0.0)


def test_its_file(tmp_path: Path) -> None:
    assert source(tmp_path, text='cpus = "0-1,3"')._cpus == frozenset({0, 1, 3})
    for text, says in (('cpus = "3-1"', "cpus"), ('reader = "xen"', "proc"), ("vms = 1", "unknown key")):
        with pytest.raises(ValueError, match=says):
            source(tmp_path, text=text)
    with pytest.raises(ValueError, match="cpus"):
        cpu_list(Path("f"), "0-99999999999")
    with pytest.raises(ValueError, match="hypervisor:FILE"):
        SOURCES["hypervisor"]("")


@given(
    st.integers(0, 20),
    st.dictionaries(
        st.text("abcdef", min_size=1, max_size=2),
        st.tuples(st.integers(1, 20), st.sampled_from([1.0, 2.0]), st.sampled_from("xyz")),
        max_size=6,
    ),
    st.fixed_dictionaries({machine: st.integers(0, 12) for machine in "xyz"}),
)
def test_the_balancers_of_a_machine_have_its_bound_together(
    capacity: int, wishes: dict[str, tuple[int, float, str]], bounds: dict[str, int]
) -> None:
    demands = {name: (demand, weight) for name, (demand, weight, _) in wishes.items()}
    groups = {name: group for name, (_, _, group) in wishes.items()}
    shares = share(capacity, demands, groups, bounds)
    members: dict[str, list[str]] = {}
    for name, group in groups.items():
        members.setdefault(group, []).append(name)
    for group, names in members.items():
        assert sum(shares[name] for name in names) <= max(bounds[group], len(names))
    assert sum(shares.values()) <= max(capacity, len(wishes))
    for name, (demand, _) in demands.items():
        if shares[name] < demand and sum(shares.values()) < capacity:
            assert sum(shares[other] for other in members[groups[name]]) >= bounds[groups[name]]


def test_pinned_apart_each_has_its_own_cores() -> None:
    table = LeaseTable()
    for key, name in (("1", "lb"), ("2", "lb-2")):
        table.join(key, Hello("whatever", 1, 8), 0, name)
        table.report(key, Report(1, 0.0, 8.0), 0)
    grants = table.tick(0, 6.0, 6.0, 8.0, {"lb": 4.0, "lb-2": 2.0})
    assert [(grant.cores, grant.idle_cores) for grant in grants.values()] == [(4, 0), (2, 0)]
    table.report("2", Report(1, 0.0, 1.0), 0)
    grants = table.tick(0, 6.0, 6.0, 8.0, {"lb": 4.0, "lb-2": 2.0})
    assert [(grant.cores, grant.idle_cores) for grant in grants.values()] == [(4, 0), (1, 1)]


class Host:
    """A source in which this process is a machine of four cores."""

    name = "test"
    known: str | None = "lb"

    def sample(self, now: float) -> None:
        pass

    def idle(self) -> float:
        return 4.0

    def capacity(self, used: Mapping[str, float]) -> float:
        return 8.0

    def usable(self) -> float:
        return 8.0

    def per_cpu(self) -> list[float]:
        return []

    def machine(self, pid: int) -> str | None:
        return self.known if pid == os.getpid() else "not this one"

    def needs(self) -> Mapping[str, tuple[float, float]]:
        return {"lb": (1.25, 1.75)}

    def bounds(self, machines: Collection[str]) -> Mapping[str, float]:
        return {machine: {"lb": 4.0, "rich": 8.0}.get(machine, 0.0) for machine in machines}


@pytest.mark.parametrize(("known", "cores"), [("lb", 4), (None, 1)])
async def test_the_machine_is_known_by_the_process_and_not_by_the_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], known: str | None, cores: int
) -> None:
    host = Host()
    host.known = known
    server = ControllerServer(host)
    await server.start(parse(f"unix:{tmp_path}/c.sock"))
    reader, writer = await asyncio.open_unix_connection(f"{tmp_path}/c.sock")
    writer.write(encode(Hello("rich", 1, 8)) + encode(Report(1, 0.0, 8.0)))
    decoder = LineDecoder()
    async with asyncio.timeout(50):
        grants: list[Grant] = []
        while len(grants) < 2 or grants[-1].cores != cores:
            found = decoder.feed(await reader.read(65536))
            grants += [message for message in found if isinstance(message, Grant)]
    assert max(grant.cores for grant in grants) == cores
    assert (grants[-1].used, grants[-1].waited) == ((1.25, 0.5) if known else (0, 0))
    assert ("your machine uses 1.25 cores and waits for 0.50" in grants[-1].reason) is bool(known)
    assert server.status().leases[0]["machine"] == (
        known or f"no machine: process {os.getpid()}, user {os.getuid()}"
    )
    show(server.status())
    shown = capsys.readouterr().out.split()  # on a terminal of 80 columns some of it is wrapped
    assert "machine" in shown
    assert (known or "machine:") in shown
    writer.transport.abort()
    await server.close()
