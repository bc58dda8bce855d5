"""A name server that says what it is told to say: records, errors, nothing, other things by TCP.

For what no real one can be made to do when a test or a benchmark wants it; dnsmasq serves the others.
"""

from __future__ import annotations

import socketserver
import struct
import threading
from types import TracebackType
from typing import Self

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

from bench.rig.balancer import free_port

LARGEST = 512
"""Bytes of an answer by UDP (RFC 1035 §4.2.1); a larger one is cut off, and has to be asked for by TCP."""


class NameServer:
    """Answers on a port of 127.0.0.1 until the block ends; everything may be changed meanwhile."""

    def __init__(self, ttl: int = 0) -> None:
        self.records: dict[tuple[str, str], list[str]] = {}
        """By name (with the dot at its end) and type: ``("app.test.", "A")``. A name that is nowhere doesn't
        exist."""
        self.rcode: dict[str, dns.rcode.Rcode] = {}
        """By type: what is answered instead."""
        self.silent = False
        """Nothing is answered."""
        self.ttl = ttl
        self.asked: list[tuple[str, str, str]] = []
        """Name, type and ``udp`` or ``tcp`` of each question."""
        self.port = free_port()
        place = ("127.0.0.1", self.port)
        self._servers: list[_Udp | _Tcp] = [_Udp(place, _Datagram), _Tcp(place, _Stream)]
        for server in self._servers:
            server.names = self
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()

    def answer(self, wire: bytes, by: str) -> bytes | None:
        """The bytes that answer a question."""
        query = dns.message.from_wire(wire)
        question = query.question[0]
        name, type = question.name.to_text().lower(), dns.rdatatype.to_text(question.rdtype)
        self.asked.append((name, type, by))
        if self.silent:
            return None
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        rcode = self.rcode.get(type)
        if rcode is not None:
            response.set_rcode(rcode)
            return response.to_wire()
        while alias := self.records.get((name, "CNAME")):
            response.answer.append(dns.rrset.from_text(name, self.ttl, "IN", "CNAME", *alias))
            name = alias[0]
        if found := self.records.get((name, type)):
            response.answer.append(dns.rrset.from_text(name, self.ttl, "IN", type, *found))
        elif not any(known == name for known, _ in self.records):
            response.set_rcode(dns.rcode.NXDOMAIN)
        wire = response.to_wire()
        if by == "udp" and len(wire) > LARGEST:
            cut = dns.message.make_response(query)
            cut.flags |= dns.flags.TC
            wire = cut.to_wire()
        return wire

    def stop(self) -> None:
        """Answer no more."""
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class _Udp(socketserver.UDPServer):
    names: NameServer


class _Tcp(socketserver.ThreadingTCPServer):
    names: NameServer
    daemon_threads = True
    allow_reuse_address = True


class _Datagram(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, _Udp)
        wire, sock = self.request
        answer = self.server.names.answer(wire, "udp")
        if answer is not None:
            sock.sendto(answer, self.client_address)


class _Stream(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, _Tcp)
        while len(length := self.rfile.read(2)) == 2:
            answer = self.server.names.answer(self.rfile.read(*struct.unpack("!H", length)), "tcp")
            if answer is None:
                return
            self.wfile.write(struct.pack("!H", len(answer)) + answer)
