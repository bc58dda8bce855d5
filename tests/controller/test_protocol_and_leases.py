from __future__ import annotations

import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.address import parse, vsock_pair
from controller.leases import Holder, LeaseTable, share
from controller.protocol import (
    MAX_LINE,
    Grant,
    Hello,
    LineDecoder,
    Message,
    ProtocolError,
    Report,
    encode,
)
from controller.sources.cgroups import CgroupSource
from controller.sources.measured import MeasuredSource
from controller.sources.quota import possible_cores, usable_cores
from controller.sources.table import TableSource

texts = st.text(max_size=20).filter(str.isprintable)
names = texts.filter(bool)
cores = st.integers(1, 64)
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(lambda name, low, more: Hello(name, low, low + more), names, cores, st.integers(0, 8)),
    st.builds(Report, cores, st.floats(0, 64), st.floats(0, 64), st.integers(0, 10**6)),
    st.builds(Grant, st.integers(0, 64), cores, st.floats(0.1, 60), texts),
)


@given(st.lists(messages, max_size=8), st.data())
def test_any_split_of_a_stream_gives_the_same_messages(sent: list[Message], data: st.DataObject) -> None:
    stream = b"".join(map(encode, sent))
    decoder = LineDecoder()
    got: list[Message | ProtocolError] = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        got += decoder.feed(stream[:size])
        stream = stream[size:]
    assert got == sent


@given(st.binary(max_size=300))
def test_junk_is_an_error_and_the_next_line_is_read(junk: bytes) -> None:
    decoder = LineDecoder()
    answers = decoder.feed(junk + b"\n" + encode(Report(1)))
    assert answers[-1] == Report(1)
    assert all(isinstance(answer, ProtocolError) for answer in answers[:-1])


@pytest.mark.parametrize(
    "line",
    [
        b'{"v":2,"type":"report","workers":1}',
        b'{"v":true,"type":"report","workers":1}',
        b'{"v":1,"type":"report","workers":true}',
        b'{"v":1,"type":"report","workers":-1}',
        b'{"v":1,"type":"report","workers":1,"busy":NaN}',
        b'{"v":1,"type":"report","workers":1,"busy":1e999}',
        b'{"v":1,"type":"report"}',
        b'{"v":1,"type":["report"]}',
        b'{"v":1,"type":"hello","name":"","min":1,"max":1}',
        b'{"v":1,"type":"hello","name":"a","min":2,"max":1}',
        b'{"v":1,"type":"hello","name":"a","min":1,"max":1,"weight":0}',
        b'{"v":1,"type":"grant","cores":1,"idle_cores":0,"lease":1' + b"0" * 400 + b"}",
        b'{"v":1,"type":"hello","name":"\\u001b[2J","min":1,"max":1}',
        b'{"v":1,"type":"hello","name":"\\ud800","min":1,"max":1}',
        b'{"v":1,"type":"hello","name":"a","min":1,"max":1,"token":"\\ud800"}',
        b"[" * 5000,
        b"1" * 5000,
    ],
)
def test_wrong_fields_are_named(line: bytes) -> None:
    (answer,) = LineDecoder().feed(line + b"\n")
    assert isinstance(answer, ProtocolError)
    assert not answer.fatal


def test_a_huge_line_ends_the_stream_without_being_kept() -> None:
    decoder = LineDecoder()
    answers = [answer for _ in range(100) for answer in decoder.feed(b"x" * (MAX_LINE // 10))]
    assert len(answers) == 1
    assert isinstance(answers[0], ProtocolError)
    assert answers[0].fatal


@pytest.mark.parametrize(
    "text", ["unix:/run/c.sock", "tcp:127.0.0.1:9500", "tcp:[::1]:9500", "vsock:2:9500", "vsock:*:9500"]
)
def test_addresses_read_back_as_written(text: str) -> None:
    assert str(parse(text)) == text


def test_vsock_addresses_as_the_kernel_takes_them() -> None:
    assert vsock_pair(parse("vsock:2:9500")) == (2, 9500)
    assert vsock_pair(parse("vsock:*:9500")) == (socket.VMADDR_CID_ANY, 9500)
    for wrong in ("vsock:host:1", "vsock:4294967296:1", "vsock:\u00b2:1", "vsock:1", "tcp:x:65536", "unix:"):
        with pytest.raises(ValueError):
            parse(wrong)


balancers = st.dictionaries(
    names,
    st.builds(
        lambda least, more, weight, workers, pressure: (
            Hello("x", least, least + more, weight),
            Report(workers, 0.0, pressure),
        ),
        st.integers(1, 40),
        st.integers(0, 40),
        st.sampled_from([0.5, 1.0, 2.0]),
        st.integers(0, 100_000),
        st.one_of(st.integers(0, 40).map(float), st.floats(0, 1_000_000)),
    ),
    max_size=6,
)


def leased(capacity: float, wishes: dict[str, tuple[Hello, Report]], usable: float = 1e6) -> dict[str, int]:
    table = LeaseTable()
    for name, (hello, report) in wishes.items():
        table.join(name, hello, 0)
        table.report(name, report, 0)
    return {name: grant.cores for name, grant in table.tick(0, capacity, 0.0, usable).items()}


@given(st.integers(0, 32), balancers)
def test_a_core_is_leased_once_and_shares_are_max_min_fair(
    capacity: int, wishes: dict[str, tuple[Hello, Report]]
) -> None:
    shares = leased(capacity, wishes)
    assert sum(shares.values()) <= max(capacity, len(wishes))
    demand = {name: Holder(hello, 0, report, 1).demand for name, (hello, report) in wishes.items()}
    wanting = {name for name in wishes if shares[name] < demand[name]}
    assert all(1 <= shares[name] <= demand[name] for name in wishes)
    if wanting and capacity >= len(wishes):
        assert sum(shares.values()) == capacity
    for poor in wanting:
        for rich in wishes:
            if shares[rich] > 1:
                # Nobody got a core while another, with less for its weight, wanted it.
                weight = {name: hello.weight for name, (hello, _) in wishes.items()}
                assert shares[rich] / weight[rich] <= (shares[poor] + 1) / weight[poor] + 1e-9


@given(st.integers(1, 32), balancers, st.data())
def test_nobody_loses_by_what_another_claims_as_its_minimum(
    capacity: int, wishes: dict[str, tuple[Hello, Report]], data: st.DataObject
) -> None:
    if not wishes:
        return
    greedy = data.draw(st.sampled_from(sorted(wishes)))
    hello, report = wishes[greedy]
    claims = data.draw(st.integers(hello.min, 100_000))
    claiming = leased(capacity, {**wishes, greedy: (Hello("x", claims, 100_000, hello.weight), report)})
    asking = leased(
        capacity, {**wishes, greedy: (Hello("x", 1, 100_000, hello.weight), Report(1, 0.0, 1_000_000))}
    )
    # A minimum is worth no more than pressure, which gives no more than the max-min fair share.
    assert all(claiming[name] >= asking[name] for name in wishes.keys() - {greedy})


def test_minimums_that_exceed_what_there_is_are_cut() -> None:
    asks = Report(1, busy=0.0, pressure=8.0)
    assert leased(4, {"a": (Hello("a", 100, 100), asks), "b": (Hello("b", 1, 8), asks)}) == {"a": 2, "b": 2}
    assert leased(4, {"a": (Hello("a", 3, 3), asks), "b": (Hello("b", 1, 8), asks)}) == {"a": 2, "b": 2}
    calm = Report(1)
    assert leased(4, {"a": (Hello("a", 3, 3), calm), "b": (Hello("b", 1, 8), calm)}) == {"a": 3, "b": 1}
    many = {name: (Hello(name, 9, 9), asks) for name in "abcde"}
    assert set(leased(4, many).values()) == {1}


@given(balancers, st.floats(0, 1e6), st.integers(1, 16))
def test_nobody_is_leased_more_cores_than_exist(
    wishes: dict[str, tuple[Hello, Report]], capacity: float, usable: int
) -> None:
    assert sum(leased(capacity, wishes, usable).values()) <= max(usable, len(wishes))


def test_a_thousand_cores_are_shared_among_five_hundred_as_among_few() -> None:
    shares = share(1000, {f"{number}": (100, 1 + number % 2) for number in range(500)})
    assert sum(shares.values()) == 1000
    assert set(shares.values()) == {1, 3}  # by weights of 1 and 2


def test_the_silent_lose_their_lease_and_others_get_it() -> None:
    table = LeaseTable(lease=3)
    for name in "ab":
        table.join(name, Hello(name, 1, 8), 0)
        table.report(name, Report(4, busy=0.0, pressure=8.0), 0)
    grants = table.tick(0, capacity=4, idle=4)
    assert [grant.cores for grant in grants.values()] == [2, 2]
    table.report("b", Report(2, busy=2.0, pressure=8.0), 2)
    grants = table.tick(4, capacity=4, idle=2)
    assert list(grants) == ["b"]
    assert grants["b"].cores == 4


def test_own_use_is_not_counted_against_the_holder() -> None:
    table = LeaseTable()
    table.join("a", Hello("a", 1, 8), 0)
    table.report("a", Report(2, busy=2.0, pressure=3.0), 0)
    times = [(0.0, 0.0)]
    source = MeasuredSource(0.01, lambda: dict(enumerate(times)), lambda: 4.0, lambda: {0})
    for idle, now, cores in ((1.0, 1.0, 3), (1.0, 2.0, 2)):
        times = [(idle, now)]
        source.sample(now)
        assert table.tick(0, source.capacity(table.used()), source.idle())["a"].cores == cores


def test_idleness_about_the_threshold_does_not_flap() -> None:
    table = LeaseTable()
    table.join("a", Hello("a", 1, 2), 0)

    def cores(workers: int, idle: float) -> int:
        table.report("a", Report(workers, busy=0.9, pressure=2.0), 0)
        return table.tick(0, min(idle + 0.9, 2), idle)["a"].cores

    assert cores(1, idle=0.8) == 1
    assert cores(1, idle=0.86) == 2
    assert [cores(2, idle) for idle in (0.8, 0.7, 0.9, 0.65)] == [2, 2, 2, 2]
    assert cores(2, idle=0.55) == 1  # more than half a core is somebody else's


def test_a_claim_to_run_more_than_there_is_gives_no_cores() -> None:
    table = LeaseTable()
    table.join("a", Hello("a", 1, 8), 0)
    table.report("a", Report(8, busy=1.0, pressure=8.0), 0)
    assert table.tick(0, capacity=3.4, idle=2.4)["a"].cores == 3


@pytest.mark.parametrize(
    ("online", "possible", "mask", "cores"),
    [
        ("0", "0-1", {0}, 2),  # a vCPU that may come
        ("0-1", "0-127", {0, 1}, 8),
        ("0-7,9", "0-127", set(range(8)) | {9}, 18),
        ("0-3", "0-7", {0, 1}, 2),  # bound to two by taskset
        ("0-63", "0-63", set(range(64)), 64),
        ("nonsense", "", {0, 1}, 2),
    ],
)
def test_cores_that_may_come(tmp_path: Path, online: str, possible: str, mask: set[int], cores: int) -> None:
    (tmp_path / "online").write_text(f"{online}\n")
    (tmp_path / "possible").write_text(f"{possible}\n")
    assert possible_cores(tmp_path, mask) == cores
    assert possible_cores(tmp_path / "none", mask) == len(mask)


def test_quota_of_both_cgroup_versions(tmp_path: Path) -> None:
    proc = tmp_path / "cgroup"
    proc.write_text("0::/a/b\n")
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "cpu.max").write_text("max 100000\n")
    (tmp_path / "a" / "cpu.max").write_text("50000 100000\n")
    assert usable_cores(tmp_path, proc) == 0.5
    proc.write_text("3:cpu,cpuacct:/c\n")
    (tmp_path / "cpu,cpuacct" / "c").mkdir(parents=True)
    (tmp_path / "cpu,cpuacct" / "c" / "cpu.cfs_quota_us").write_text("25000")
    (tmp_path / "cpu,cpuacct" / "c" / "cpu.cfs_period_us").write_text("100000")
    assert usable_cores(tmp_path, proc) == 0.25
    (tmp_path / "cpu,cpuacct" / "c" / "cpu.cfs_quota_us").write_text("-1")
    assert usable_cores(tmp_path, proc) >= 1


def test_allocation_table(tmp_path: Path) -> None:
    file = tmp_path / "vms.toml"
    file.write_text("cores = 4\n[vms]\na = 2\nb = 1\n")
    source = TableSource(str(file))
    assert (source.idle(), source.usable()) == (1, 4)
    file.write_text("cores = 4\n[vms]\na = 'x'\n")
    source.sample(0)
    assert source.idle() == 1
    assert "vms.a" in source.problem
    with pytest.raises(ValueError, match="No such file"):
        TableSource(str(tmp_path / "missing"))


def test_a_table_gives_a_balancer_its_own_machines_cores_and_the_idle_ones(tmp_path: Path) -> None:
    file = tmp_path / "vms.toml"
    file.write_text("cores = 4\n[vms]\nweb-1 = 1\nweb-2 = 1\nlb = 1\n")
    source = TableSource(str(file))
    # However much it uses: two workers that run on two cores don't make a third one.
    for busy in (0.0, 1.0, 2.0):
        assert source.capacity({"lb": busy}) == 2
    assert source.capacity({"stranger": 1.0}) == 1


@pytest.mark.parametrize(
    ("quotas", "left"),
    [
        ({}, 3.0),
        ({"vms/web": "30000 100000"}, 3.7),
        ({"vms": "80000 100000"}, 3.2),
        ({"vms/web": "max 1"}, 3.0),
    ],
)
def test_what_a_starved_machine_waits_for_is_not_lent(
    tmp_path: Path, quotas: dict[str, str], left: float
) -> None:
    file = tmp_path / "vms.toml"
    file.write_text('cores = 4\n[vms]\nweb.cgroup = "/vms/web"\n')
    folder = tmp_path / "cgroup/vms/web"
    folder.mkdir(parents=True)
    for path, quota in quotas.items():
        (tmp_path / "cgroup" / path / "cpu.max").write_text(f"{quota}\n")

    def has(ran: float, waited: float) -> None:
        (folder / "cpu.stat").write_text(f"usage_usec {ran * 1e6:.0f}\nuser_usec 1\n")
        total = f"{waited * 1e6:.0f}"
        (folder / "cpu.pressure").write_text(f"some avg10=1.00 total={total}\nfull avg10=0.00 total=0\n")

    has(10, 50)
    source = CgroupSource(str(file), tmp_path / "cgroup")
    source.sample(0)
    has(10.3, 50.7)
    source.sample(1)
    assert source.capacity({"lb": 1.0}) == pytest.approx(left)
    assert source.idle() == pytest.approx(3.7)


@pytest.mark.parametrize("version", [1, 2])
def test_cgroups_tell_what_machines_use(tmp_path: Path, version: int) -> None:
    file = tmp_path / "vms.toml"
    file.write_text('cores = 4\ncore = 0.5\n[vms]\nweb.cgroup = "/vms/web"\nlb.cgroup = "/vms/lb"\n')

    def use(name: str, seconds: float) -> None:
        folder = tmp_path / ("cpuacct" if version == 1 else "") / "vms" / name
        folder.mkdir(parents=True, exist_ok=True)
        if version == 1:
            (folder / "cpuacct.usage").write_text(f"{seconds * 1e9:.0f}\n")
        else:
            (folder / "cpu.stat").write_text(f"usage_usec {seconds * 1e6:.0f}\nuser_usec 1\n")

    with pytest.raises(ValueError, match=r"vms\.web\.cgroup: no cgroup"):
        CgroupSource(str(file), tmp_path)
    use("web", 10)
    use("lb", 20)
    source = CgroupSource(str(file), tmp_path)
    source.sample(0)
    assert (source.idle(), source.capacity({"lb": 1.0})) == (0, 0)  # nothing is known yet
    use("web", 10.5)
    use("lb", 21)
    source.sample(1)
    assert (source.idle(), source.usable()) == (1, 4)  # half a real core is one of these
    assert source.capacity({"lb": 0.3}) == 3
    assert source.capacity({}) == 1
    file.write_text(file.read_text() + "lb.vcpus = 4\n")
    owner = CgroupSource(str(file), tmp_path)
    owner.sample(0)
    assert owner.capacity({"lb": 0.3}) == 4
