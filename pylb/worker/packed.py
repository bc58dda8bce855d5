"""A tunnel on its way to another worker: what is known of its request and its two ends, as JSON and bytes.

What must be the same in the other worker, as the account of the request will be made there: who the client
is, what it has asked for, who has answered, all moments and counts. What the other worker knows by itself
(frontend, backend, server) is named. Moments are monotonic, which all processes of a machine share.

Floor: beside the client side, above the exchange. Knows tunnels and transactions, and no connection.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from pylb.config.address import parse_address
from pylb.config.model import Server as ServerConfig
from pylb.http.errors import Refused
from pylb.http.request import RequestHead
from pylb.http.response import ResponseHead
from pylb.scoreboard import Scoreboard
from pylb.worker.backend import Backend, Server
from pylb.worker.exchange import Exchange
from pylb.worker.facts import Client, Endpoint
from pylb.worker.frontend import Bind
from pylb.worker.tunnel import Half, Halves, Tunnel

_AS_THEY_ARE = (
    *("index", "retries", "rounds", "srv_queue", "backend_queue", "bytes_in", "bytes_out"),
    *("first_byte_ns", "began_ns", "asked_ns", "connected_ns", "answered_ns"),
)
"""Fields of a transaction that are numbers."""


@dataclass(slots=True)
class Packed:
    """A tunnel that no process relays."""

    entry: dict[str, Any]
    """What JSON can say."""
    blob: bytes
    """What it can't: heads, and bytes that have not left."""
    descriptors: tuple[int, int]
    """Of the client's connection and of the server's."""


@dataclass(slots=True)
class Unpacked:
    """One that this process is to relay."""

    exchange: Exchange
    facts: Client
    halves: Halves
    protocol: bytes
    idle: float
    deadline: float


def pack(tunnel: Tunnel, halves: Halves) -> Packed:
    """Pack a tunnel that was let go of, and with it the request, which is this worker's no longer."""
    exchange: Exchange = tunnel.exchange
    tx = exchange.tx
    facts, head, response, server = tx.client, tx.head, tx.response, tx.server
    near, far = halves
    pieces = [near.rest, far.rest]
    pieces += [half.frames[1] if half.frames is not None else b"" for half in halves]
    pieces += [response.out if response is not None else b"", head.raw if head is not None else b""]
    pieces += [head.made_id if head is not None else b""]
    entry = {
        "bind": facts.bind,
        "client": [facts.told, facts.source, facts.name, facts.protocol, facts.accepted_ns, facts.requests],
        "offered": [one.decode("latin-1") for one in facts.offered],
        "backend": tx.backend.name,
        "server": [server.index, server.name, str(server.address)] if server is not None else None,
        "tx": [getattr(tx, name) for name in _AS_THEY_ARE],
        "tried": list(tx.tried),
        "held": tx.backend.gate.doors.places_of(tx.held) if tx.held is not None else None,
        "status": response.status if response is not None else 0,
        "tunnel": [tunnel.protocol.decode("latin-1"), tunnel.idle, tunnel.deadline],
        "ends": [_packed_half(half) for half in halves],
        "sizes": list(map(len, pieces)),
    }
    exchange.moved()
    return Packed(entry, b"".join(pieces), (near.descriptor, far.descriptor))


def _packed_half(half: Half) -> list[Any]:
    frames = half.frames
    return [half.came, half.eof, None if frames is None else [frames[0], frames[2]]]


def unpack(
    packed: Packed, exchange: Exchange, bind: Bind, backend: Backend, board: Scoreboard, row: int
) -> Unpacked:
    """The request is this worker's from now on, and counted as its server's.

    Args:
        exchange: one that is free.
        row: this worker's.
    """
    entry = packed.entry
    pieces: list[bytes] = []
    at = 0
    for size in entry["sizes"]:
        pieces.append(packed.blob[at : at + size])
        at += size
    *rests_and_frames, out, raw, made_id = pieces
    facts = _client(entry, bind)
    tx = exchange.tx
    tx.client, tx.frontend = facts, bind.frontend
    tx.go_to(backend)
    for name, value in zip(_AS_THEY_ARE, entry["tx"], strict=True):
        setattr(tx, name, value)
    tx.tried = frozenset(entry["tried"])
    if raw:
        tx.head = _head(bind.reader(facts), raw, made_id)
    protocol, idle, deadline = entry["tunnel"]
    upgrade = protocol.encode("latin-1")
    tx.response = ResponseHead(out, False, entry["status"], False, 0, False, upgrade)
    halves = [
        Half(descriptor, rest, came, eof, None if frames is None else (frames[0], begun, frames[1]))
        for descriptor, (came, eof, frames), rest, begun in zip(
            packed.descriptors, entry["ends"], rests_and_frames[:2], rests_and_frames[2:], strict=True
        )
    ]
    # Counts come last, when nothing can fail any more.
    if entry["server"] is not None:
        tx.server = _server(backend, board, row, *entry["server"])
    if backend.gate is None:
        lose(entry, board)  # there is no limit here any more
    elif entry["held"] is not None:
        tx.held = backend.gate.doors.arrive(entry["held"])
    counted = tx.counted = tx.server
    if counted is not None:
        counted.active[counted.row] += 1
    return Unpacked(exchange, facts, (halves[0], halves[1]), upgrade, idle, deadline)


def lose(entry: dict[str, Any], board: Scoreboard) -> None:
    """Nobody holds the places any more that the tunnel had as it left."""
    for place in entry["held"] or ():
        board.places.lost(place)


def _client(entry: dict[str, Any], bind: Bind) -> Client:
    told, source, name, protocol, accepted_ns, requests = entry["client"]
    facts = Client(asyncio.BaseTransport(), bind.key, _endpoint(source), name)
    facts.told = _endpoint(told)
    facts.offered = [one.encode("latin-1") for one in entry["offered"]]
    facts.protocol, facts.accepted_ns, facts.requests = protocol, accepted_ns, requests
    return facts


def _endpoint(value: list[Any] | None) -> Endpoint | None:
    return None if value is None else (value[0], value[1])


def _head(head: RequestHead, raw: bytes, made_id: bytes) -> RequestHead | None:
    try:
        head.read(raw)
    except Refused:  # by a limit that a reload has lowered; the log has it without a head
        return None
    head.made_id = made_id
    return head


def _server(backend: Backend, board: Scoreboard, row: int, index: int, name: str, address: str) -> Server:
    """The server; one that isn't among its backend's any more is counted all the same, so that nobody else
    gets its index."""
    for server in backend.servers:
        if server.index == index and server.name == name and str(server.address) == address:
            return server
    config = ServerConfig(name=name, address=parse_address(address))
    return Server(config, backend.config, board, index, row, None)
