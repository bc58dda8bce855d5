from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.leases import LeaseTable, share
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
from controller.sources.measured import MeasuredSource
from controller.sources.quota import usable_cores
from controller.sources.table import TableSource

names = st.text(min_size=1, max_size=20)
cores = st.integers(1, 64)
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(lambda name, low, more: Hello(name, low, low + more), names, cores, st.integers(0, 8)),
    st.builds(Report, cores, st.floats(0, 64), st.floats(0, 64), st.integers(0, 10**6)),
    st.builds(Grant, st.integers(0, 64), cores, st.floats(0.1, 60), st.text(max_size=50)),
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


demands = st.dictionaries(
    names,
    st.tuples(st.integers(1, 4), st.integers(0, 12), st.sampled_from([0.5, 1.0, 2.0])).map(
        lambda wish: (wish[0], wish[0] + wish[1], wish[2])
    ),
    max_size=6,
)


@given(st.integers(0, 32), demands)
def test_a_core_is_leased_once_and_shares_are_max_min_fair(
    capacity: int, wishes: dict[str, tuple[int, int, float]]
) -> None:
    shares = share(capacity, wishes)
    minimums = sum(least for least, _, _ in wishes.values())
    assert sum(shares.values()) <= max(capacity, minimums)
    wanting = {name for name, (_, demand, _) in wishes.items() if shares[name] < demand}
    for name, (least, demand, _) in wishes.items():
        assert least <= shares[name] <= demand
    if wanting and sum(shares.values()) > minimums:
        assert sum(shares.values()) == capacity
    for poor in wanting:
        for rich, (least, _, weight) in wishes.items():
            if shares[rich] > least:
                # Nobody got a core while another, with less for its weight, wanted it.
                assert shares[rich] / weight <= (shares[poor] + 1) / wishes[poor][2] + 1e-9


def test_the_silent_lose_their_lease_and_others_get_it() -> None:
    table = LeaseTable(lease=3)
    for name in "ab":
        table.join(name, Hello(name, 1, 8), 0)
        table.report(name, Report(4, busy=0.0, pressure=8.0), 0)
    grants = table.tick(0, idle=4, usable=4)
    assert [grant.cores for grant in grants.values()] == [2, 2]
    table.report("b", Report(2, busy=2.0, pressure=8.0), 2)
    grants = table.tick(4, idle=2, usable=4)
    assert list(grants) == ["b"]
    assert grants["b"].cores == 4


def test_own_use_is_not_counted_against_the_holder() -> None:
    table = LeaseTable()
    table.join("a", Hello("a", 1, 8), 0)
    table.report("a", Report(2, busy=2.0, pressure=3.0), 0)
    assert table.tick(0, idle=1, usable=4)["a"].cores == 3
    assert table.tick(0, idle=0, usable=4)["a"].cores == 2


def test_idleness_about_the_threshold_does_not_flap() -> None:
    table = LeaseTable()
    table.join("a", Hello("a", 1, 2), 0)

    def cores(workers: int, idle: float) -> int:
        table.report("a", Report(workers, busy=0.9, pressure=2.0), 0)
        return table.tick(0, idle, usable=2)["a"].cores

    assert cores(1, idle=0.8) == 1
    assert cores(1, idle=0.86) == 2
    assert [cores(2, idle) for idle in (0.8, 0.7, 0.9, 0.65)] == [2, 2, 2, 2]
    assert cores(2, idle=0.55) == 1  # more than half a core is somebody else's


def test_a_claim_to_run_more_than_there_is_gives_no_cores() -> None:
    table = LeaseTable()
    table.join("a", Hello("a", 1, 8), 0)
    table.report("a", Report(8, busy=1.0, pressure=8.0), 0)
    assert table.tick(0, idle=2.4, usable=4)["a"].cores == 3


def test_measured_idleness_is_smoothed_and_kept_within_the_mask() -> None:
    times = [(0.0, 0.0), (0.0, 0.0), (0.0, 0.0)]
    source = MeasuredSource(1.0, lambda: times, lambda: 2.0, lambda: {0, 1})
    times = [(1.0, 1.0), (0.5, 1.0), (1.0, 1.0)]
    source.sample(1)
    assert source.idle() == 1.5
    times = [(1.0, 2.0), (0.5, 2.0), (2.0, 2.0)]
    source.sample(2)
    assert source.idle() == 0.75


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
