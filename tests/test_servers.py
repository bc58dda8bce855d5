"""The table of servers: what its cells come to, and how a change is seen."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylb.scoreboard import RECORD, Scoreboard, ServerField
from pylb.servers import OF_THE_CONTROL_PLANE, Admin, Column, Forced, Health, Table, differing


def table(servers: int = 40) -> Table:
    return Table(Scoreboard(1, servers))


def write(table: Table, index: int, **cells: int) -> None:
    for name, value in cells.items():
        column = Column[name.upper()]
        setting = table.control_set if column in OF_THE_CONTROL_PLANE else table.supervisor_set
        setting(column, index, value)


@pytest.mark.parametrize(
    ("cells", "usable", "down", "state"),
    [
        ({}, True, False, "unchecked"),
        ({"health": Health.UP}, True, False, "up"),
        ({"health": Health.DOWN}, False, True, "down"),
        ({"ejected": 1}, False, True, "ejected"),
        ({"health": Health.DOWN, "ejected": 1}, False, True, "down"),
        ({"admin": Admin.DRAIN}, False, False, "draining"),
        ({"admin": Admin.DRAIN, "health": Health.DOWN}, False, True, "down"),
        ({"admin": Admin.MAINTENANCE, "health": Health.UP}, False, True, "maintenance"),
        ({"forced": Forced.UP, "health": Health.DOWN, "ejected": 1}, True, False, "up"),
        ({"forced": Forced.DOWN, "health": Health.UP}, False, True, "down"),
        ({"forced": Forced.UP, "admin": Admin.DRAIN}, False, False, "draining"),
        ({"forced": Forced.UP, "admin": Admin.MAINTENANCE}, False, True, "maintenance"),
    ],
)
def test_what_the_cells_come_to(cells: dict[str, int], usable: bool, down: bool, state: str) -> None:
    one = table()
    write(one, 7, **cells)
    assert (one.usable(7), one.down(7), one.state(7)) == (usable, down, state)
    assert one.usable(6) and one.usable(8)


def test_the_operators_numbers_go_before_the_configurations() -> None:
    one = table()
    assert (one.weight(3, 5), one.maxconn(3, 9)) == (5, 9)
    assert one.get(Column.WEIGHT, 3) == one.get(Column.MAXCONN, 3) == -1
    write(one, 3, weight=0, maxconn=0)
    assert (one.weight(3, 5), one.maxconn(3, 9)) == (0, 0)
    write(one, 3, weight=-1, maxconn=-1)
    assert (one.weight(3, 5), one.maxconn(3, 9)) == (5, 9)


def test_either_writers_change_is_another_version() -> None:
    one = table()
    seen = {one.version}
    write(one, 0, health=Health.UP)
    seen.add(one.version)
    write(one, 0, weight=3)
    seen.add(one.version)
    write(one, 0, health=Health.UP)  # the same again may be one, too
    seen.add(one.version)
    assert len(seen) == 4


def test_a_version_does_not_end() -> None:
    board = Scoreboard(1)
    halves = board.table_version.cast("i")
    halves[0] = halves[1] = 0x7FFFFFFF
    one = Table(board)
    before = one.version
    write(one, 0, health=Health.UP, weight=1)
    assert list(halves) == [0, 0] and one.version != before


def test_nobody_writes_anothers_columns() -> None:
    one = table()
    with pytest.raises(AssertionError):
        one.control_set(Column.WEIGHT, 0, 1)
    with pytest.raises(AssertionError):
        one.supervisor_set(Column.HEALTH, 0, 1)


@given(st.integers(1, 300), st.integers(0, 50), st.sets(st.integers(0, 299)))
def test_exactly_the_records_that_differ_are_found(count: int, first: int, changed: set[int]) -> None:
    before = bytes(4 * RECORD * count)
    after = bytearray(before)
    changed = {index for index in changed if index < count}
    for index in changed:
        after[4 * RECORD * index + 5] = 1
    assert set(differing(before, bytes(after), first)) == {first + index for index in changed}


def test_a_record_is_no_other_servers_and_no_other_cell() -> None:
    board = Scoreboard(2, 33)
    one = Table(board)
    for index in range(33):
        for number, column in enumerate(Column):
            write(one, index, **{column.name.lower(): index + number})
    assert [[one.get(column, index) for column in Column] for index in range(33)] == [
        [index + number for number in range(len(Column))] for index in range(33)
    ]
    assert sum(board.server_total(field, index) for field in ServerField for index in range(33)) == 0
    board.forget_server(5)
    assert one.records(5, 6) == bytes(4 * RECORD) and one.get(Column.WEIGHT, 6) == 10
