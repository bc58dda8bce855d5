"""Names in the DNS as servers: asked of a real dnsmasq, and of a name server that does what none should."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dns.rcode
import pytest

from bench.rig.nameserver import NameServer
from pylb.config.model import Discover
from pylb.control.sources.dns import DnsSource
from pylb.discover.found import Failed, Found
from tests.control.dnsmasq import Dnsmasq, dnsmasq

OPTIONS = (
    *("--cname=alias.test,app.test", "--cname=further.test,alias.test", "--local-ttl=7"),
    *(
        "--srv-host=_http._tcp.app.test,one.test,8001,10,20",
        "--srv-host=_http._tcp.app.test,two.test,8002,20,5",
    ),
    "--srv-host=_http._tcp.off.test",
)
MANY = [f"10.1.0.{number}" for number in range(1, 101)]
HOSTS = "\n".join(
    [
        *(
            "10.0.0.1 app.test",
            "10.0.0.2 app.test",
            "fd00::1 app.test",
            "10.0.0.3 one.test",
            "10.0.0.4 two.test",
        ),
        *("fd00::4 two.test", "10.0.0.5 app.inner.test", *(f"{host} many.test" for host in MANY)),
    ]
)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dnsmasq]:
    with dnsmasq(tmp_path_factory.mktemp("dnsmasq"), *OPTIONS) as one:
        one.say(HOSTS, "marker.test")
        yield one


@pytest.fixture
def scripted() -> Iterator[NameServer]:
    with NameServer(ttl=30) as one:
        one.records["app.test.", "A"] = ["10.0.0.1", "10.0.0.2"]
        one.records["app.test.", "AAAA"] = ["fd00::1"]
        yield one


def source(*ports: int, **more: Any) -> DnsSource:
    asks: dict[str, Any] = {"dns": "app.test:80"} if not more.keys() & {"dns", "srv"} else {}
    resolvers = [f"127.0.0.1:{port}" for port in ports]
    return DnsSource(
        Discover.model_validate({"resolvers": resolvers, "search": [], "timeout": 2} | asks | more)
    )


async def addresses(one: DnsSource) -> list[str]:
    return sorted(found.address for found in (await one.look()).servers)


async def test_all_addresses_of_a_name_are_servers(real: Dnsmasq) -> None:
    answer = await source(real.port).look()
    assert sorted(found.address for found in answer.servers) == ["10.0.0.1:80", "10.0.0.2:80", "[fd00::1]:80"]
    assert answer.ttl == 7 and not answer.notes
    assert await addresses(source(real.port, family="ipv4")) == ["10.0.0.1:80", "10.0.0.2:80"]
    assert await addresses(source(real.port, family="ipv6")) == ["[fd00::1]:80"]


async def test_aliases_are_followed(real: Dnsmasq) -> None:
    assert len(await addresses(source(real.port, dns="further.test:80"))) == 3


async def test_what_a_datagram_does_not_hold_comes_by_tcp(real: Dnsmasq) -> None:
    assert await addresses(source(real.port, dns="many.test:80")) == sorted(f"{host}:80" for host in MANY)


async def test_services_have_ports_weights_and_backups(real: Dnsmasq) -> None:
    answer = await source(real.port, srv="_http._tcp.app.test").look()
    assert answer.servers == (
        Found("10.0.0.3:8001", 20, False), Found("10.0.0.4:8002", 5, True), Found("[fd00::4]:8002", 5, True),
    )  # fmt: skip
    assert not (await source(real.port, srv="_http._tcp.off.test").look()).servers


async def test_domains_are_searched(real: Dnsmasq) -> None:
    assert await addresses(source(real.port, dns="app:80", search=["nowhere.test", "inner.test"])) == [
        "10.0.0.5:80"
    ]
    assert not await addresses(source(real.port, dns="app.:80", search=["inner.test"]))


async def test_a_name_without_addresses_and_one_that_does_not_exist(real: Dnsmasq) -> None:
    for name in ("_http._tcp.app.test", "nobody.test"):
        assert (await source(real.port, dns=f"{name}:80").look()).servers == ()


async def test_it_follows_what_changes(real: Dnsmasq) -> None:
    one = source(real.port, dns="moving.test:80", family="ipv4")
    for host in ("10.0.0.1", "10.0.0.2"):
        real.say(f"{HOSTS}\n{host} moving.test", "marker.test")
        assert await addresses(one) == [f"{host}:80"]


async def test_another_resolver_is_asked_where_one_fails(real: Dnsmasq, scripted: NameServer) -> None:
    scripted.rcode = {"A": dns.rcode.SERVFAIL, "AAAA": dns.rcode.SERVFAIL}
    assert len(await addresses(source(scripted.port, real.port))) == 3


async def test_an_error_is_a_failure_and_no_empty_answer(scripted: NameServer) -> None:
    one = source(scripted.port)
    scripted.rcode = {"A": dns.rcode.SERVFAIL, "AAAA": dns.rcode.REFUSED}
    with pytest.raises(Failed, match="SERVFAIL"):
        await one.look()
    scripted.rcode = {}
    assert len(await addresses(one)) == 3
    scripted.rcode = {"A": dns.rcode.SERVFAIL, "AAAA": dns.rcode.SERVFAIL}
    with pytest.raises(Failed, match="SERVFAIL"):
        await one.look()


async def test_one_kind_of_address_that_fails_leaves_what_was_known_of_it(scripted: NameServer) -> None:
    one = source(scripted.port)
    scripted.rcode = {"AAAA": dns.rcode.SERVFAIL}
    assert await addresses(one) == ["10.0.0.1:80", "10.0.0.2:80"]
    scripted.rcode = {}
    assert len(await addresses(one)) == 3
    scripted.rcode = {"AAAA": dns.rcode.SERVFAIL}
    scripted.records["app.test.", "A"] = ["10.0.0.9"]
    answer = await one.look()
    assert [found.address for found in answer.servers] == ["10.0.0.9:80", "[fd00::1]:80"]
    assert "AAAA stays" in answer.notes[0]


async def test_an_alias_whose_addresses_are_not_in_the_answer_is_asked_for(scripted: NameServer) -> None:
    """As by a server that only knows its own zones."""
    full = scripted.answer
    scripted.records["alias.test.", "CNAME"] = ["app.test."]

    def only_own(wire: bytes, by: str) -> bytes | None:
        answer = full(wire, by)
        message = dns.message.from_wire(answer or b"")
        if message.question[0].name.to_text() == "alias.test.":
            message.answer = message.answer[:1]
        return message.to_wire()

    scripted.answer = only_own  # type: ignore[method-assign]
    assert len(await addresses(source(scripted.port, dns="alias.test:80"))) == 3


async def test_a_large_answer_is_asked_for_again_by_tcp(scripted: NameServer) -> None:
    scripted.records["app.test.", "A"] = MANY
    assert len(await addresses(source(scripted.port, family="ipv4"))) == len(MANY)
    assert [by for _, _, by in scripted.asked] == ["udp", "tcp"]
