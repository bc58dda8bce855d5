"""When accepting pauses."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pylb.worker.descriptors import SPARE, Descriptors


@given(st.integers(64, 2_000_000), st.integers(4, 200))
def test_each_client_can_have_a_server(limit: int, open_: int) -> None:
    bound = Descriptors(limit, open_).bound
    assert bound == 4 or open_ + SPARE + 2 * bound <= limit


def test_nine_thousand_idle_clients_fit_into_twenty_thousand_descriptors() -> None:
    assert Descriptors(20_000, 300).bound > 9_000


def test_it_goes_on_below_the_bound_and_not_too_early() -> None:
    one = Descriptors(256, 64)
    assert not one.full(one.bound - 1) and one.full(one.bound)
    assert one.pause(10.0) and not one.pause(10.0)
    assert not one.goes_on(one.bound - 1, 10.0)
    assert one.goes_on(one.bound * 3 // 4, 10.0) and not one.paused
    assert one.pause(20.0, 1.0)
    assert not one.goes_on(0, 20.5)
    assert one.goes_on(0, 21.0)
