"""The steering program: by an interpreter for its three instructions, and in the kernel."""

from __future__ import annotations

import select
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylb.config.address import Address
from pylb.net import steering
from pylb.net.listeners import Listeners

WEIGHTS = st.lists(st.integers(0, 65536), min_size=1, max_size=300).filter(any)


def interpret(code: list[steering.Instruction], random: int) -> int:
    at, accumulator = 0, 0
    while True:
        step = code[at]
        at += 1
        if step.code == steering.LOAD_WORD_ABSOLUTE:
            assert step.k == 0xFFFFF038
            accumulator = random
        elif step.code == steering.JUMP_GREATER_EQUAL:
            assert 0 <= step.k < 2**32
            at += step.jump_true if accumulator >= step.k else step.jump_false
        else:
            assert step.code == steering.RETURN
            return step.k


@given(WEIGHTS, st.integers(0, 2**32 - 1))
def test_a_zero_weight_is_never_picked(weights: list[int], random: int) -> None:
    assert weights[interpret(steering.program(weights), random)] > 0


@given(st.lists(st.integers(0, 65536), min_size=1, max_size=64).filter(any))
def test_shares_follow_weights(weights: list[int]) -> None:
    code = steering.program(weights)
    total, passed = sum(weights), 0
    for slot, weight in enumerate(weights):
        if weight:
            first, last = -(-(passed << 32) // total), ((passed + weight << 32) // total) - 1
            assert interpret(code, first) == slot
            assert interpret(code, last) == slot
        passed += weight


@pytest.mark.parametrize("weights", [[], [0, 0], [1, -1]])
def test_useless_weights_are_refused(weights: list[int]) -> None:
    with pytest.raises(ValueError, match="weights"):
        steering.program(weights)


@given(
    st.dictionaries(st.integers(0, 255), st.integers(0, 10**6), min_size=1, max_size=256),
    st.floats(0, 10**6),
)
def test_weights_are_normalised_and_favour_the_empty(connections: dict[int, int], rate: float) -> None:
    weights = steering.weights_for(connections, rate)
    assert sum(weights.values()) == steering.TOTAL
    assert weights.keys() == connections.keys()
    assert all(weight > 0 for weight in weights.values())
    emptiest = min(connections, key=lambda slot: (connections[slot], slot))
    assert weights[emptiest] == max(weights.values())


def queues(held: list[float], speeds: list[float], seconds: float) -> list[list[float]]:
    """What workers hold at each look, when every answer is followed by a new connection (a closed loop)."""
    seen = [held]
    arrivals = steering.Arrivals()
    total = 0.0
    for look in range(round(seconds / steering.LOOK)):
        arrivals.look(int(total), look * steering.LOOK)
        weights = steering.weights_for(dict(enumerate(held)), arrivals.rate)
        step = steering.LOOK / 100
        for _ in range(100):
            answered = [min(one, speed * step) for one, speed in zip(held, speeds, strict=True)]
            new = sum(answered)
            total += new
            held = [
                one - gone + new * weights[slot] / steering.TOTAL
                for slot, (one, gone) in enumerate(zip(held, answered, strict=True))
            ]
        seen.append(held)
    return seen


@given(st.integers(1, 6), st.integers(1, 3), st.floats(300, 20_000))
def test_new_workers_take_their_share_at_once_and_no_more(old: int, new: int, speed: float) -> None:
    held = [250.0 / old] * old + [0.0] * new
    seen = queues(held, [speed] * (old + new), 3)
    even = 250 / (old + new)
    assert all(0.8 * even < one < 1.2 * even for one in seen[-1])
    # Nobody is left without work: what a worker holds never falls far below its share, once it has had it.
    for look in seen[10:]:
        assert min(look) > 0.5 * even


def test_a_slower_worker_gets_less() -> None:
    seen = queues([125.0, 125.0], [1500.0, 1000.0], 5)
    assert all(one > 20 for one in seen[-1])  # both have work
    assert seen[-1][1] > seen[-1][0]


def test_the_rate_of_arrivals() -> None:
    arrivals = steering.Arrivals()
    for look in range(100):
        arrivals.look(300 * look, 5 + look * steering.LOOK)
    assert arrivals.rate == pytest.approx(3000, rel=0.01)
    arrivals.look(0, 20)  # a count that starts again
    assert 0 <= arrivals.rate < 3000
    arrivals.look(100, 20)  # no time has passed
    assert arrivals.rate < 3000


def test_the_kernel_steers() -> None:
    listeners = Listeners([("f", Address("127.0.0.1", 0))], 4, 256)
    group = listeners.groups()[0]
    clients: list[socket.socket] = []
    try:
        for weights in ([0, 0, 1, 0], [1, 0, 0, 3]):
            assert steering.attach(group[0], weights)
            for _ in range(200):
                clients.append(socket.create_connection(group[0].getsockname()))
            counts = [listeners.accept_queue(slot) for slot in range(4)]
            assert sum(counts) == 200
            for slot, weight in enumerate(weights):
                assert abs(counts[slot] - 200 * weight / sum(weights)) <= 35 * (weight > 0)
            for sock in group:
                while select.select([sock], [], [], 0)[0]:
                    sock.accept()[0].close()
    finally:
        listeners.close()
        for client in clients:
            client.close()


def test_who_was_asked_to_come_back_goes_elsewhere() -> None:
    """Stronger than usual, but everybody still gets some; and not where many come by themselves."""
    usual = steering.weights_for({0: 14, 1: 6})
    strong = steering.weights_for({0: 14, 1: 6}, strong=True)
    assert usual[1] / usual[0] < 2 < 8 < strong[1] / strong[0] <= 16.1
    many = 10_000.0
    assert steering.weights_for({0: 14, 1: 6}, many, True) == steering.weights_for({0: 14, 1: 6}, many)
