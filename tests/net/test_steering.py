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


@given(st.dictionaries(st.integers(0, 255), st.integers(0, 10**6), min_size=1, max_size=256))
def test_weights_are_normalised_and_favour_the_empty(connections: dict[int, int]) -> None:
    weights = steering.weights_for(connections)
    assert sum(weights.values()) == steering.TOTAL
    assert weights.keys() == connections.keys()
    assert all(weight > 0 for weight in weights.values())
    emptiest = min(connections, key=lambda slot: (connections[slot], slot))
    assert weights[emptiest] == max(weights.values())


def test_short_connections_do_not_move_the_weights_to_and_fro() -> None:
    held = steering.Held()
    assert held.look({1: 240, 2: 10}) == {1: 240, 2: 10}
    shares = []
    for look in range(60):  # whoever was favoured has the queue at the next look
        weights = steering.weights_for(held.look({1: 240, 2: 10} if look % 2 else {1: 10, 2: 240}))
        shares.append(weights[1] / steering.TOTAL)
    assert all(0.4 < share < 0.6 for share in shares[30:])
    for _ in range(40):  # what stays is seen
        weights = steering.weights_for(held.look({1: 200, 2: 50}))
    assert weights[2] > 2 * weights[1]
    assert held.look({2: 50, 3: 0})[3] == 0
    assert 1 not in held.look({2: 50, 3: 0})


def test_a_new_worker_takes_its_share_and_no_more() -> None:
    held = steering.Held()
    for _ in range(40):
        held.look({1: 240})
    favoured = steering.weights_for(held.look({1: 240, 2: 0}))
    assert favoured[2] > 2 * favoured[1]
    # A quarter of a second later it has had hundreds of short connections, and most of the queue is there.
    even = steering.weights_for(held.look({1: 10, 2: 230}))
    assert abs(even[1] - even[2]) < steering.TOTAL / 10
    # And when it is even, it stays so, whatever the first one held before there were two.
    for _ in range(3):
        later = steering.weights_for(held.look({1: 120, 2: 120}))
        assert abs(later[1] - later[2]) < steering.TOTAL / 10


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
