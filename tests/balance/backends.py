"""Backends for the tests of algorithms: rows of counts as workers have them, without workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pylb.balance.loads import Loads
from pylb.balance.members import Balancer, Members


class Rows:
    """The active requests of some workers at some servers.

    Args:
        indices: of the servers in a row.
    """

    def __init__(self, indices: Sequence[int], workers: int = 1) -> None:
        self.indices = list(indices)
        size = max(self.indices) + 1
        self.bytes = [bytearray(4 * size) for _ in range(workers)]
        self.cells = [memoryview(row).cast("I") for row in self.bytes]

    def loads(self, worker: int = 0) -> Loads:
        """What one of the workers reads."""
        loads = Loads(self.indices, self.bytes[worker])
        loads.look_at([row for number, row in enumerate(self.bytes) if number != worker])
        return loads

    def add(self, server: int, count: int = 1, worker: int = 0) -> None:
        """A worker is at so many more requests at a server."""
        self.cells[worker][self.indices[server]] += count

    def set(self, counts: Sequence[int], worker: int = 0) -> None:
        """A worker is at so many requests at each server."""
        for index, count in zip(self.indices, counts, strict=True):
            self.cells[worker][index] = count

    def active(self) -> list[int]:
        """Of all workers, by server."""
        return [sum(row[index] for row in self.cells) for index in self.indices]


def members(weights: Sequence[float], rows: Rows | None = None, worker: int = 0, **more: Any) -> Members:
    """Servers with these weights, of which the first workers are at nothing unless there are rows."""
    names = [f"10.0.{number >> 8}.{number & 255}:80" for number in range(len(weights))]
    rows = rows or Rows(range(len(weights)))
    made: dict[str, Any] = {
        "weights": weights,
        "names": names,
        "loads": rows.loads(worker),
        "clock": lambda: 0.0,
    }
    return Members(**(made | more))


def held(balancer: Balancer, rows: Rows, count: int, worker: int = 0) -> list[int]:
    """Pick for so many requests that stay; which servers got them."""
    picked = []
    for _ in range(count):
        server = balancer.pick()
        assert server is not None
        rows.add(server, worker=worker)
        picked.append(server)
    return picked
