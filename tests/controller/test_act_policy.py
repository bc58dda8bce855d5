"""Which machines have preference, and when that ends: time is passed in."""

from __future__ import annotations

from controller.act.policy import CALM, EVERY, VCPU_AFTER, VCPU_CALM, VCPU_EVERY, Balancer, Policy


def balancer(pressure: float, machine: str = "lb", workers: int = 1, cores: int = 1) -> Balancer:
    return Balancer(machine, "pylb", workers, pressure, cores, 0.5, 0.25)


PRESSED = balancer(2.0)
CALM_ONE = balancer(0.4)


def test_preference_begins_with_pressure_and_says_why() -> None:
    policy = Policy()
    assert not policy.decide(0.0, [CALM_ONE]).preferred
    reason = policy.decide(0.1, [PRESSED]).preferred["lb"]
    assert reason == (
        "balancer 'pylb' has 1 worker and could use 2.0 cores; the machine uses 0.50 and waits for 0.25"
    )
    assert policy.decide(60.0, [PRESSED]).preferred == {"lb": reason}


def test_it_ends_after_three_calm_seconds() -> None:
    policy = Policy()
    policy.decide(0.0, [PRESSED])
    assert policy.decide(CALM - 0.1, [CALM_ONE]).preferred
    policy.decide(CALM - 0.05, [PRESSED])  # it was not calm after all
    assert policy.decide(CALM + 0.1, [CALM_ONE]).preferred
    wanted = policy.decide(2 * CALM, [CALM_ONE])
    assert not wanted.preferred
    assert wanted.ended == {"lb": "calm for 3 s"}


def test_preference_that_ends_the_pressure_stays() -> None:
    """It came and went every few seconds: under pressure without it, calm with it."""
    policy = Policy()
    policy.decide(0.0, [PRESSED])  # the machine gets half a core
    with_it = Balancer("lb", "pylb", 2, 1.2, 2, used=1.5)
    assert all(policy.decide(now / 10, [with_it]).preferred for now in range(1, 200))
    for now in (20.0, 20.0 + CALM):
        wanted = policy.decide(now, [Balancer("lb", "pylb", 2, 0.3, 2, used=0.4)])
    assert wanted.ended == {"lb": "calm for 3 s"}


def test_it_ends_with_the_lease() -> None:
    policy = Policy()
    policy.decide(0.0, [PRESSED])
    wanted = policy.decide(0.1, [])
    assert not wanted.preferred
    assert wanted.ended == {"lb": "its balancer's lease has ended"}


def test_who_comes_and_goes_is_preferred_only_now_and_then() -> None:
    policy = Policy()
    changes, before = 0, False
    for step in range(1000):  # ten seconds
        preferred = bool(policy.decide(0.01 * step, [PRESSED] if step % 2 else []).preferred)
        changes += preferred is not before
        before = preferred
    assert 2 <= changes <= 2 * (10 / EVERY + 1)
    assert policy.decide(10 + EVERY, [PRESSED]).preferred


def test_two_balancers_in_one_machine() -> None:
    policy = Policy()
    policy.decide(0.0, [CALM_ONE, balancer(3.0)])
    assert policy.decide(CALM + 1, [CALM_ONE, balancer(3.0)]).preferred
    assert not policy.decide(2 * CALM + 1, [CALM_ONE, CALM_ONE]).preferred


def test_others_together_with_a_balancer() -> None:
    policy = Policy({"lb": ["web", "db"], "lb-2": ["web"]})
    wanted = policy.decide(0.0, [PRESSED, balancer(2.0, "lb-2")])
    assert wanted.preferred.keys() == {"lb", "lb-2", "web", "db"}
    assert wanted.preferred["db"].startswith("together with machine 'lb': balancer 'pylb' has")
    wanted = policy.decide(CALM, [balancer(0.1), balancer(2.0, "lb-2")])
    assert wanted.preferred.keys() == {"lb-2", "web"}
    assert wanted.ended["db"] == "together with machine 'lb': calm for 3 s"


def test_vcpus_for_lasting_pressure_and_what_is_leased() -> None:
    policy = Policy()
    pressed = balancer(2.0, cores=2)
    assert not policy.decide(0.0, [pressed]).vcpus
    assert policy.decide(VCPU_AFTER, [pressed]).vcpus == {"lb": 2}
    more = balancer(4.0, workers=2, cores=4)
    assert policy.decide(VCPU_AFTER + VCPU_EVERY - 0.1, [more]).vcpus == {"lb": 2}
    assert policy.decide(VCPU_AFTER + VCPU_EVERY, [more]).vcpus == {"lb": 4}
    assert not Policy().decide(0.0, [balancer(2.0, cores=1)]).vcpus


def test_vcpus_stay_for_longer_than_preference() -> None:
    for later in ([CALM_ONE], []):  # a balancer that starts anew keeps its machine's vCPUs
        policy = Policy()
        for now in (0.0, VCPU_AFTER):
            policy.decide(now, [balancer(2.0, cores=2)])
        wanted = policy.decide(VCPU_AFTER + VCPU_CALM - 0.1, later)
        assert not wanted.preferred
        assert wanted.vcpus == {"lb": 2}
        assert not policy.decide(VCPU_AFTER + VCPU_CALM, later).vcpus
    assert not policy._cases
