"""Files, documents, labels and SRV records as servers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pylb.discover import document, labels, services
from pylb.discover.fitness import checked, unfit
from pylb.discover.found import Failed, Found
from pylb.discover.labels import Wanted
from pylb.discover.services import Service


def test_a_file_has_a_server_per_line() -> None:
    text = (
        b"# fleet\n10.0.0.1:80\n\n10.0.0.2:80, weight=2 # big\n[fd00::1]:80 backup\n"
        b"app-3.internal,weight=0,backup=false\n"
    )
    assert document.lines_or_json(text, 8080) == (
        Found("10.0.0.1:80"),
        Found("10.0.0.2:80", 2),
        Found("[fd00::1]:80", None, True),
        Found("app-3.internal:8080", 0, False),
    )
    assert document.lines_or_json(b"", None) == ()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"10.0.0.1", "no port; set port"),
        (b"10.0.0.1:0", "from 1 to 65535"),
        (b"10.0.0.1:80,wait=2", "expected weight=N or backup"),
        (b"10.0.0.1:80,weight=257", "from 0 to 256"),
        (b"10.0.0.1:80,weight=-1", "expected weight=N"),
        (b"unix:/run/x.sock", "is a path"),
        (b"http://10.0.0.1:80", "write IPv6 addresses in brackets"),
        (b"\xff", "not UTF-8"),
    ],
)
def test_a_mistake_refuses_the_whole_file_with_its_line(line: bytes, said: str) -> None:
    with pytest.raises(Failed, match=said) as caught:
        document.lines_or_json(b"10.0.0.1:80\n" + line + b"\n", None)
    assert b"\xff" in line or str(caught.value).startswith("line 2: ")


def test_a_document_in_each_of_its_forms() -> None:
    one, two = {"host": "10.0.0.1", "port": 80, "weight": 2, "zone": "x"}, {"host": "fd00::1", "port": 80}
    expected = (Found("10.0.0.1:80", 2), Found("[fd00::1]:80"))
    for value in (
        [one, two],
        {"servers": [one, two]},
        [{"address": "10.0.0.1:80", "weight": 2}, "[fd00::1]:80"],
    ):
        assert document.of_json(json.dumps(value).encode(), None) == expected
    groups = [{"targets": ["10.0.0.1:80", "10.0.0.2"], "labels": {"job": "x"}}, {"targets": []}]
    assert document.of_value(groups, 90) == (Found("10.0.0.1:80"), Found("10.0.0.2:90"))
    assert document.of_value([{"host": "10.0.0.1", "backup": True}], 80) == (
        Found("10.0.0.1:80", None, True),
    )


@pytest.mark.parametrize(
    "value",
    [
        *(
            3,
            "x",
            {},
            {"servers": 3},
            [3],
            [[]],
            [{"address": 3}],
            [{}],
            [{"targets": 3}],
            [{"targets": [3]}],
        ),
        *([{"host": "10.0.0.1", "port": "80"}], [{"host": "10.0.0.1"}], [{"host": "10.0.0.1", "port": 0}]),
        *([{"address": "10.0.0.1:80", "weight": True}], [{"address": "10.0.0.1:80", "weight": 1.5}]),
        *([{"address": "10.0.0.1:80", "backup": 1}], [{"address": "unix:/run/x.sock"}], ["10.0.0.1:80", "?"]),
    ],
)
def test_what_is_no_list_of_servers_is_refused(value: object) -> None:
    with pytest.raises(Failed):
        document.of_value(value, None)


KEYS = st.sampled_from(["servers", "address", "host", "port", "weight", "backup", "targets", "x"])
LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.just("10.0.0.1:80")


@settings(max_examples=60)
@given(st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner), max_leaves=8))
def test_whatever_a_document_holds_it_is_servers_or_refused(value: Any) -> None:
    try:
        found = document.of_json(json.dumps(value).encode(), 80)
    except Failed:
        return
    for one in found:
        assert checked(one.address) == one.address
        assert one.weight is None or 0 <= one.weight <= 256


def test_an_address_has_one_spelling() -> None:
    assert checked("[FD00:0::1]:80") == "[fd00::1]:80"
    assert checked("App.Internal.:80") == "app.internal:80"
    assert unfit("[::ffff:127.0.0.1]:80", False, False) and not unfit("[::ffff:10.0.0.1]:80", False, False)
    assert unfit("localhost:80", False, True) and unfit("x.localhost:80", False, True)
    assert unfit("app.internal:80", False, False) and not unfit("app.internal:80", False, True)


def container(**more: Any) -> dict[str, Any]:
    return {
        "Names": ["/web-1"],
        "Labels": {"pylb.backend": "web"},
        "State": "running",
        "Status": "Up 3 seconds",
        "Ports": [{"PrivatePort": 80, "Type": "tcp"}],
        "NetworkSettings": {"Networks": {"bridge": {"IPAddress": "172.17.0.2", "GlobalIPv6Address": ""}}},
    } | more


WEB = Wanted("web")


def found(*containers: object, wanted: Wanted = WEB) -> list[Found]:
    return list(labels.servers(list(containers), wanted).servers)


def test_containers_with_labels_are_servers() -> None:
    own = {"pylb.backend": "web", "pylb.port": "8080", "pylb.weight": "2"}
    assert found(container()) == [Found("172.17.0.2:80")]
    assert found(container(Labels=own)) == [Found("172.17.0.2:8080", 2)]
    assert found(container(Labels={"pylb.backend": "api"})) == []
    assert found(container(State="paused")) == []
    assert found(container(Status="Up 3 seconds (unhealthy)")) == []
    assert found(container(Status="Up 1 second (health: starting)")) == []
    assert found(container(Status="Up 3 seconds (healthy)")) == [Found("172.17.0.2:80")]
    assert found(container(Ports=[]), wanted=Wanted("web", port=90)) == [Found("172.17.0.2:90")]
    two = {"z": {"IPAddress": "10.1.0.2"}, "a": {"IPAddress": "", "GlobalIPv6Address": "fd00::2"}}
    both = container(NetworkSettings={"Networks": two})
    assert found(both) == [Found("[fd00::2]:80")]
    assert found(both, wanted=Wanted("web", network="z")) == [Found("10.1.0.2:80")]
    assert found(container(Labels={"lb.backend": "web"}), wanted=Wanted("web", "lb")) == [
        Found("172.17.0.2:80")
    ]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"Labels": {"pylb.backend": "web", "pylb.weight": "300"}}, "from 0 to 256"),
        ({"Labels": {"pylb.backend": "web", "pylb.port": "http"}}, "pylb.port is 'http'"),
        ({"Labels": {"pylb.backend": "web", "pylb.port": "0"}}, "from 1 to 65535"),
        ({"Ports": []}, "exposes 0 ports; label it pylb.port"),
        ({"NetworkSettings": {"Networks": {"host": {"IPAddress": ""}}}}, "no address in any network"),
        ({"NetworkSettings": None}, "no address in any network"),
        ({"Ports": 3}, "exposes 0 ports"),
    ],
)
def test_a_container_that_is_no_good_leaves_the_others(more: dict[str, Any], said: str) -> None:
    answer = labels.servers([container(**more), container(), None], Wanted("web"))
    assert answer.servers == (Found("172.17.0.2:80"),)
    assert said in answer.notes[0] and "web-1" in answer.notes[0]


def test_services_have_priorities_weights_and_ports() -> None:
    records = [
        *(Service(20, 5, 81, "b."), Service(10, 60, 80, "a.")),
        *(Service(10, 0, 82, "c."), Service(10, 1, 80, ".")),
    ]
    assert services.targets(records, 9) == ["a.", "c.", "b."]
    assert services.targets(records, 1) == ["a."]
    addresses = {"a.": ["10.0.0.1", "fd00::1"], "b.": ["10.0.0.2"], "c.": ["10.0.0.3"]}
    assert services.servers(records, addresses) == [
        Found("10.0.0.1:80", 60, False),
        Found("[fd00::1]:80", 60, False),
        Found("10.0.0.3:82", 1, False),
        Found("10.0.0.2:81", 5, True),
    ]
    # Those of the lowest priority that are there aren't backups.
    assert services.servers(records, {"b.": ["10.0.0.2"]}) == [Found("10.0.0.2:81", 5, False)]
    assert services.servers([Service(0, 0, 0, ".")], {}) == []


@given(st.lists(st.integers(0, 65535), min_size=1, max_size=8))
def test_weights_keep_their_order_and_ratios(weights: list[int]) -> None:
    heaviest = max(weights)
    made = [services.weight(one, heaviest) for one in weights]
    assert all(1 <= one <= 256 for one in made)
    for one, share in zip(weights, made, strict=True):
        for other, others in zip(weights, made, strict=True):
            assert one < other or share >= others
        if heaviest > 256 and one * 256 >= heaviest:
            assert abs(share - one * 256 / heaviest) <= 0.5
