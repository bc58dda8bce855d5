"""Asking clients to connect anew: as many as are too many, and no more, whatever they do."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pylb.net import levelling
from pylb.worker.recall import LAPSE, PATIENCE, RETURN, SETTLE, Recalls

SPREAD = 2.0
RENEWED = 0.2


def test_an_excess_that_passes_asks_nobody() -> None:
    recalls = Recalls(SPREAD)
    recalls.order(5, {"a"}, 0.0)
    assert not recalls.open and not recalls.take("a", 0.0)
    recalls.order(0, {"a"}, SETTLE)
    assert not recalls.open
    recalls.order(5, {"a"}, SETTLE + LAPSE + 1)  # another one
    assert not recalls.open


def test_those_too_many_are_asked_spread_over_time() -> None:
    recalls = Recalls(SPREAD)
    clients = {str(number) for number in range(20)}
    asked: list[float] = []
    waiting = sorted(clients)
    for step in range(60):
        now = step * RENEWED / 4
        if step % 4 == 0:
            recalls.order(10, clients, now)
        if waiting and recalls.take(waiting[0], now):
            asked.append(now)
            del waiting[0]
    assert len(asked) == 10
    assert SPREAD / 2 < asked[-1] - asked[0] <= SPREAD


def test_who_was_asked_isnt_asked_again_and_counts_until_it_must_be_elsewhere() -> None:
    recalls = Recalls(0.001)
    clients = {"a", "b"}
    for now in (0.0, SETTLE):
        recalls.order(1, clients, now)
    assert recalls.take("a", SETTLE)
    assert not recalls.take("a", SETTLE) and not recalls.take("b", SETTLE)
    recalls.order(1, clients, SETTLE + 0.1)
    assert not recalls.open  # it is still here, but will go
    recalls.order(1, {"b"}, SETTLE + 0.2)
    assert not recalls.open  # it has gone, and isn't counted elsewhere yet
    recalls.order(1, {"b"}, SETTLE + 0.3 + RETURN)
    assert recalls.take("b", SETTLE + 0.3 + RETURN)


def test_a_connection_that_is_never_idle_is_asked_later() -> None:
    recalls = Recalls(SPREAD)
    now = 0.0
    while now < PATIENCE:
        recalls.order(1, {"a"}, now)
        assert not recalls.take("a", now, idle=False)
        now += RENEWED
    recalls.order(1, {"a"}, now)
    assert recalls.take("a", now, idle=False)


def test_an_order_that_isnt_renewed_ends() -> None:
    recalls = Recalls(SPREAD)
    for now in (0.0, SETTLE):
        recalls.order(3, {"a"}, now)
    assert recalls.open
    recalls.forget(SETTLE + LAPSE / 2)
    assert recalls.open
    recalls.forget(SETTLE + LAPSE + 0.1)
    assert not recalls.open and not recalls.take("a", SETTLE + LAPSE + 0.1)


@settings(max_examples=30)
@given(
    st.lists(st.integers(2, 40), min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(0, 4), st.floats(0.0, 0.4), st.booleans()), max_size=200),
)
def test_workers_become_level_and_then_nobody_is_asked(
    held: list[int], returns: list[tuple[int, float, bool]]
) -> None:
    """Clients that were asked are away for a while, then come to any worker, to that they left as well."""
    held = [*held, 0]
    workers = [Recalls(SPREAD) for _ in held]
    clients = [{(row, number) for number in range(count)} for row, count in enumerate(held)]
    away: list[tuple[float, int]] = []
    chosen = iter(returns)
    fresh = 0
    now = 0.0
    asked_at = 0.0
    while now < 120.0:
        now += 0.05
        for item in [item for item in away if item[0] <= now]:
            away.remove(item)
            fresh += 1
            clients[item[1]].add((-1, fresh))
        counts = {row: len(those) for row, those in enumerate(clients)}
        if round(now / 0.05) % 4 == 0:
            moves = levelling.plan(counts)
            for row, count in levelling.given(moves).items():
                workers[row].order(count, clients[row], now)
        for row, those in enumerate(clients):
            workers[row].forget(now)
            for client in sorted(those)[:3]:
                if workers[row].open and workers[row].take(client, now):
                    those.remove(client)
                    where, later, back = next(chosen, (0, 0.1, False))
                    emptiest = min(counts, key=lambda row: counts[row])
                    away.append((now + later, where % len(held) if back else emptiest))
                    asked_at = now
    assert not away and sum(map(len, clients)) == sum(held)
    assert levelling.plan({row: len(those) for row, those in enumerate(clients)}) == []
    assert asked_at < 60.0
