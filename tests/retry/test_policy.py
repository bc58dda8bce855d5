"""Which failures of which requests are tried again, after which pause, and how many."""

from __future__ import annotations

import pytest

from pylb.config.retry import Retry
from pylb.retry.breaker import Breaker
from pylb.retry.budget import Budget
from pylb.retry.policy import CONDITIONS, CONNECT, EMPTY, JUNK, LATE, Policy


def policy(**keys: object) -> Policy:
    """As the configuration makes it."""
    retry = Retry.model_validate(keys)
    methods = frozenset(method.encode() for method in retry.methods)
    return Policy(3, retry.conditions, retry.statuses, methods, retry.pause, retry.longest_pause)


def test_the_usual_policy_is_haproxys() -> None:
    usual = policy()
    assert [usual.covers(condition, b"GET") for condition in CONDITIONS] == [True, False, False, False]
    assert not usual.statuses


@pytest.mark.parametrize(
    ("on", "method", "covered"),
    [
        ([CONNECT], b"POST", [CONNECT]),
        ([CONNECT], None, [CONNECT]),
        ([EMPTY, LATE], b"GET", [EMPTY, LATE]),
        ([EMPTY, LATE], b"POST", []),
        ([EMPTY], None, []),
        (JUNK, b"PUT", [JUNK]),
        (["all-retryable-errors"], b"DELETE", list(CONDITIONS)),
        (["all-retryable-errors"], b"PATCH", [CONNECT]),
    ],
)
def test_what_a_server_may_have_seen_is_sent_again_by_its_method(
    on: list[str], method: bytes | None, covered: list[str]
) -> None:
    made = policy(on=on)
    assert [condition for condition in CONDITIONS if made.covers(condition, method)] == covered


def test_methods_are_the_users_to_say() -> None:
    made = policy(on=[EMPTY], methods=["POST"])
    assert made.covers(EMPTY, b"POST") and not made.covers(EMPTY, b"GET")


def test_statuses() -> None:
    made = policy(on=["conn-failure", 503, "500-502"])
    assert made.statuses == {500, 501, 502, 503}
    assert made.covers_status(503, b"GET")
    assert not made.covers_status(503, b"POST") and not made.covers_status(504, b"GET")


@pytest.mark.parametrize("wrong", ["sometimes", 99, True, "5x"])
def test_other_words_are_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match="conn-failure"):
        policy(on=[wrong])


def test_pauses_grow_and_outlast_a_restart_of_a_second() -> None:
    usual = policy()
    assert [usual.pause_before(number, 0.0) for number in (1, 2, 3, 4)] == [0.1, 0.4, 1.0, 1.0]
    assert usual.pause_before(1, 1.0) == 0.125
    assert sum(usual.pause_before(number, 0.0) for number in range(1, usual.retries + 1)) > 1.0


def test_a_budget_is_a_share_of_the_traffic() -> None:
    budget = Budget(0.2, 0.0, 0.0)
    tries = granted = 0
    for tick in range(1, 601):  # a minute in which everything fails: each request asks for retries
        tries += 100
        for _ in range(100):
            if budget.take(tries, tick / 10):
                granted += 1
                tries += 1
    assert granted / (tries - granted) == pytest.approx(0.2, abs=0.01)


def test_a_budget_always_allows_a_few() -> None:
    budget = Budget(0.0, 2.0, 0.0)
    assert sum(budget.take(0, 0.0) for _ in range(100)) == 20
    assert sum(budget.take(0, second) for second in range(1, 101)) == pytest.approx(100, abs=1)
    assert sum(budget.take(0, 1000.0) for _ in range(100)) == 20  # what isn't used isn't saved for ever


def test_a_breaker_opens_when_most_fail_and_closes_when_one_succeeds() -> None:
    breaker = Breaker(share=0.5, least=10, window=10.0, rest=5.0)
    for number in range(9):
        assert not breaker.over(True, number / 10)
    assert breaker.passes(1.0)
    assert breaker.over(True, 1.0) and not breaker.closed
    assert not breaker.over(False, 2.0)  # one that had begun before
    assert not breaker.passes(5.9)
    assert breaker.passes(6.0) and not breaker.passes(6.1)
    assert not breaker.over(True, 6.5)
    assert not breaker.passes(11.4)
    assert breaker.passes(11.5)
    assert breaker.over(False, 11.6) and breaker.closed
    assert all(breaker.passes(11.7) for _ in range(10))


def test_a_breaker_stays_closed_while_less_than_its_share_fails() -> None:
    breaker = Breaker(share=0.5, least=10, window=10.0, rest=5.0)
    assert not any(breaker.over(number % 3 == 0, number / 10) for number in range(1000))


def test_a_request_that_a_breaker_let_through_and_that_tells_nothing_is_followed_by_another() -> None:
    breaker = Breaker(share=0.5, least=1, window=10.0, rest=5.0)
    assert breaker.over(True, 0.0)
    assert breaker.passes(5.0) and not breaker.passes(9.9) and breaker.passes(10.0)
