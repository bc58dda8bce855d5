"""A name in the DNS: its addresses, or the services of its SRV records. Asked with dnspython.

Every address of every answer is a server. Answers that don't fit into a datagram come by TCP, aliases are
followed, and domains are searched as the system's resolver does; /etc/hosts is not read. Where one of a
name's two kinds of addresses (A, AAAA) can't be had, those that were known of it stay.
"""

from __future__ import annotations

import asyncio
import importlib
import os
from collections.abc import Sequence
from typing import Any

import dns.asyncbackend
import dns.asyncresolver
import dns.exception
import dns.name
import dns.nameserver
import dns.resolver

from pylb.config.model import Discover
from pylb.control.sources.source import Source
from pylb.discover import services
from pylb.discover.fitness import address_of
from pylb.discover.found import Answer, Failed, Found
from pylb.discover.services import Service

_SYSTEM = "/etc/resolv.conf"
_TYPES = {"any": ("A", "AAAA"), "ipv4": ("A",), "ipv6": ("AAAA",)}
_ALIASES = 8  # that are followed one after the other, where the server doesn't
_AT_ONCE = 16  # targets of a service that are looked up at a time
_NONE_THERE = 2.0  # seconds for which an answer without any record holds


# dnspython imports these when they are needed first, which may be when its files can no longer be read.
dns.asyncbackend.set_default_backend("asyncio")
for _module in ("IN.A", "IN.AAAA", "IN.SRV", "ANY.CNAME", "ANY.DNAME", "ANY.SOA", "ANY.NS", "ANY.OPT"):
    importlib.import_module(f"dns.rdtypes.{_module}")


class DnsSource(Source):
    """A name, its addresses or its services."""

    def __init__(self, section: Discover) -> None:
        self._section = section
        self.limit = 2 * section.timeout + 1  # targets come after their service
        self._resolver: dns.asyncresolver.Resolver | None = None
        self._system: object = None
        self._last: dict[tuple[str, str], list[str]] = {}
        """Addresses by name and type, of the last look."""
        self._seen: dict[tuple[str, str], list[str]] = {}
        """Likewise, of the look that is under way."""
        self._ttl: list[float] = []

    async def look(self) -> Answer:
        self._refresh()
        self._seen, self._ttl = {}, []
        notes: list[str] = []
        if self._section.srv is not None:
            found = await self._services(self._section.srv, notes)
        else:
            assert self._section.dns is not None
            hosts = await self._addresses(self._section.dns.host, True, notes)
            found = [Found(address_of(host, self._section.dns.port)) for host in hosts]
        self._last = self._seen
        return Answer(tuple(found), min(self._ttl, default=_NONE_THERE), tuple(notes))

    async def _services(self, name: str, notes: list[str]) -> list[Found]:
        records = [
            Service(one.priority, one.weight, one.port, one.target.to_text())
            for one in await self._ask(name, "SRV", True)
        ]
        gate = asyncio.Semaphore(_AT_ONCE)

        async def addresses(target: str) -> list[str]:
            async with gate:
                try:
                    return await self._addresses(target, False, notes)
                except Failed as error:
                    notes.append(str(error))
                    return []

        wanted = services.targets(records, self._section.most)
        hosts = await asyncio.gather(*map(addresses, wanted))
        found = services.servers(records, dict(zip(wanted, hosts, strict=True)))
        if notes and not found:
            raise Failed("; ".join(notes))
        return found

    async def _addresses(self, name: str, search: bool, notes: list[str]) -> list[str]:
        """The addresses of a name, both kinds; raises `Failed` where neither could be had."""
        types = _TYPES[self._section.family]
        asked = [self._hosts(name, kind, search) for kind in types]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        failed = [one for one in answers if isinstance(one, BaseException)]
        for error in failed:
            if len(failed) == len(types) or not isinstance(error, Failed):
                raise error
        hosts: list[str] = []
        for kind, one in zip(types, answers, strict=True):
            if isinstance(one, BaseException):
                notes.append(f"{one}; what was known of {kind} stays")
                one = self._last.get((name, kind), [])
            self._seen[name, kind] = one
            hosts += one
        return hosts

    async def _hosts(self, name: str, kind: str, search: bool) -> list[str]:
        return [one.address for one in await self._ask(name, kind, search)]

    async def _ask(self, name: str, kind: str, search: bool) -> Sequence[Any]:
        """The records of a name; empty where it doesn't exist, or has none of this type."""
        assert self._resolver is not None
        asked: dns.name.Name | str = name
        try:
            for _ in range(_ALIASES):
                answer = await self._resolver.resolve(asked, kind, raise_on_no_answer=False, search=search)
                if answer.rrset is not None:
                    self._ttl.append(answer.chaining_result.minimum_ttl)
                    return list(answer.rrset)
                if answer.canonical_name == answer.qname:
                    return []
                asked, search = answer.canonical_name, False
            raise Failed(f"{name}: more than {_ALIASES} aliases lead from one to the next")
        except dns.resolver.NXDOMAIN:
            return []
        except (dns.exception.DNSException, OSError) as error:
            raise Failed(str(error) or type(error).__name__) from None

    def _refresh(self) -> None:
        """Make the resolver, and make it anew when the system's has changed."""
        section = self._section
        system: object = None
        if section.resolvers is None or section.search is None:
            try:
                about = os.stat(_SYSTEM)
                system = about.st_mtime_ns, about.st_ino
            except OSError:
                system = "missing"
        if self._resolver is not None and system == self._system:
            return
        self._system = system
        self._resolver = resolver = _system_resolver() or dns.asyncresolver.Resolver(configure=False)
        resolver.lifetime = section.timeout
        resolver.timeout = section.timeout / 3
        resolver.cache = None
        if section.resolvers is not None:
            resolver.nameservers = [
                dns.nameserver.Do53Nameserver(one.host, one.port) for one in section.resolvers
            ]
        if section.search is not None:
            resolver.search = [dns.name.from_text(one) for one in section.search]


def _system_resolver() -> dns.asyncresolver.Resolver | None:
    """As /etc/resolv.conf says; None where there is none, or none that can be used."""
    try:
        return dns.asyncresolver.Resolver(_SYSTEM)
    except dns.exception.DNSException:
        return None
