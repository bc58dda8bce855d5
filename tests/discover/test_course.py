"""What is done with the answers of a source, whatever comes."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylb.discover import course
from pylb.discover.course import Bounds, Course, Step
from pylb.discover.found import Answer, Failed, Found

MOST = 6
A, B, C, D = (f"10.0.0.{number}:80" for number in range(1, 5))
HOSTS = [
    *(f"10.0.0.{number}" for number in range(1, 9)),
    *("[fd00::1]", "[fd00::2]", "127.0.0.1", "[::1]", "169.254.169.254", "[fe80::1]", "0.0.0.0", "224.0.0.1"),
    *("[::ffff:127.0.0.1]", "[::]", "name.example"),
]
ANSWERS = st.one_of(
    st.none(),  # a failure
    st.lists(st.sampled_from([f"{host}:80" for host in HOSTS]), max_size=12).map(
        lambda found: tuple(map(Found, found))
    ),
)


def may_be(address: str) -> bool:
    """Said once more, by the networks of RFC 6890."""
    host = address.rpartition(":")[0].strip("[]")
    if host == "name.example":
        return False
    local = ("127.0.0.0/8", "::1/128", "169.254.0.0/16", "fe80::/10", "0.0.0.0/8", "224.0.0.0/4")
    refused = [*local, "::/128", "::ffff:127.0.0.0/104"]
    ip = ipaddress.ip_address(host)
    return not any(
        ip in ipaddress.ip_network(one) for one in refused if ip.version == (6 if ":" in one else 4)
    )


def take(one: Course, *addresses: str, now: float = 0.0) -> course.Outcome:
    return one.answered(Answer(tuple(map(Found, addresses))), now)


@given(st.lists(ANSWERS, max_size=12), st.booleans())
def test_no_answer_does_what_it_may_not(answers: Sequence[tuple[Found, ...] | None], keep: bool) -> None:
    one = Course(Bounds(MOST, keep_when_empty=keep))
    had_some = False
    removals = 0  # answers in a row that would remove more than half
    for answer in answers:
        before = set(one.known)
        try:
            if answer is None:
                raise Failed("no answer")
            outcome = one.answered(Answer(answer), 0.0)
        except Failed:
            one.note_failure()
            assert set(one.known) == before
            continue
        after = set(one.known)
        assert len(after) <= MOST
        assert all(map(may_be, after))
        good = {found.address for found in answer if may_be(found.address)}
        assert after - before <= good
        assert set(outcome.added) == after - before
        if len(good) <= MOST and outcome.step in (Step.SAME, Step.TAKEN):
            assert after == good
        removals = removals + 1 if outcome.step is Step.DOUBTED else 0
        assert removals <= 1
        if outcome.step is Step.DOUBTED:
            assert after == before and one.doubted
        had_some = had_some or bool(before)
        assert not (keep and had_some) or after


@given(st.lists(ANSWERS, max_size=8), st.lists(st.sampled_from([A, B, C, D]), min_size=1, unique=True))
def test_what_is_answered_twice_is_believed(
    answers: Sequence[tuple[Found, ...] | None], last: Sequence[str]
) -> None:
    one = Course(Bounds(MOST))
    for answer in answers:
        try:
            one.answered(Answer(answer or ()), 0.0)
        except Failed:
            one.note_failure()
    take(one, *last)
    take(one, *last)
    assert set(one.known) == set(last) and not one.doubted and not one.failures


def test_more_than_half_is_removed_by_the_second_answer() -> None:
    one = Course(Bounds(MOST))
    assert take(one, A, B, C).step is Step.TAKEN
    assert take(one, A, B).step is Step.TAKEN  # a third
    assert take(one, B).step is Step.TAKEN  # half
    outcome = take(one, C)
    assert (outcome.step, outcome.removed, list(one.known)) == (Step.DOUBTED, (B,), [B])
    outcome = take(one, C)
    assert (outcome.step, outcome.removed, outcome.added, list(one.known)) == (Step.TAKEN, (B,), (C,), [C])


def test_a_doubted_answer_that_was_a_mistake_changes_nothing() -> None:
    one = Course(Bounds(MOST))
    take(one, A, B, C)
    assert take(one).step is Step.DOUBTED
    one.note_failure()
    assert take(one, A, B, C).step is Step.SAME
    assert take(one).step is Step.DOUBTED


def test_an_empty_answer_removes_all_or_none() -> None:
    keeps, removes = Course(Bounds(MOST, keep_when_empty=True)), Course(Bounds(MOST))
    for one in (keeps, removes):
        assert take(one).step is Step.SAME  # there was none
        take(one, A)
    assert [take(keeps).step for _ in range(3)] == [Step.EMPTY] * 3 and list(keeps.known) == [A]
    assert [take(removes).step for _ in range(3)] == [Step.DOUBTED, Step.TAKEN, Step.SAME]
    assert not removes.known


def test_too_many_leave_those_that_are_known_and_backups_go_first() -> None:
    one = Course(Bounds(2))
    take(one, C, D)
    outcome = take(one, A, B, C, D)
    assert sorted(one.known) == [C, D] and "max" in outcome.notes[0]
    assert take(one, D, C, B, A).step is Step.SAME  # in whatever order
    one.answered(Answer((Found(C, backup=True), Found(A), Found(B), Found(D))), 0.0)
    assert sorted(one.known) == [A, D]


def test_local_addresses_are_taken_where_the_file_allows_them() -> None:
    one = Course(Bounds(MOST, local=True))
    take(one, "127.0.0.1:80", "[fe80::1%eth0]:80", "0.0.0.0:80")
    assert sorted(one.known) == ["127.0.0.1:80", "[fe80::1%eth0]:80"]
    with pytest.raises(Failed, match=r"127\.0\.0\.1:80 is refused: .*allow_local"):
        take(Course(Bounds(MOST)), "127.0.0.1:80")


def test_a_server_is_held_for_a_while() -> None:
    one = Course(Bounds(3, hold=30.0))
    take(one, A, B, now=0.0)
    take(one, C, now=10.0)
    assert sorted(one.known) == [A, B, C]
    take(one, B, D, now=20.0)
    assert sorted(one.known) == [B, C, D]  # no more than max: those that were there last
    take(one, B, D, now=49.0)
    assert sorted(one.known) == [B, C, D]
    take(one, B, D, now=50.0)
    assert sorted(one.known) == [B, D]


def test_another_weight_is_a_change() -> None:
    one = Course(Bounds(MOST))
    take(one, A, B)
    outcome = one.answered(Answer((Found(A, weight=3), Found(B))), 0.0)
    assert outcome.step is Step.TAKEN and one.known[A].weight == 3


def test_when_the_next_question_comes() -> None:
    one = Course(Bounds(MOST, keep_when_empty=True))
    assert course.pause(one, 0.0, None) == 1.0  # the floor
    assert course.pause(one, 300.0, None) == 300.0
    assert course.pause(one, 300.0, 20.0) == 20.0  # as the file says
    for seconds in (1.0, 2.0, 5.0, 5.0):
        one.note_failure()
        assert course.pause(one, 300.0, None) == seconds
    take(one, A)
    take(one, B)
    assert one.doubted
    assert course.pause(one, 300.0, None) == 10.0
    assert course.pause(one, 3.0, None) == 3.0
    assert course.pause(one, None, 60.0) == 1.0  # nobody keeps old answers of a file


def test_what_is_kept_is_known_again() -> None:
    one = Course(Bounds(MOST))
    one.answered(Answer((Found(A, 3, True), Found(B))), 0.0)
    left = course.kept(one.known)
    again = Course(Bounds(MOST), course.remembered(left))
    assert again.known == one.known
    assert take(again, C).step is Step.DOUBTED
    assert course.remembered([["x"], 3, [1, 2, 3], [A, "w", None], None]) == []
    assert not Course(Bounds(MOST), [Found("127.0.0.1:80")]).known  # it is no longer allowed
