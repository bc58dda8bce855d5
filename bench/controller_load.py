"""What many balancers cost the controller: ``python -m bench.controller_load``.

A controller in a process of its own, and balancers that each report twice a second, as pylb does, over unix
sockets. Shown are the controller's CPU, in percent of a core, and the time from a report under pressure until
the grant that it brings.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.rig.processes import cpu_seconds
from bench.rig.report import in_words, quantile
from controller.address import Address, parse
from controller.client import open_stream
from controller.protocol import Grant, Hello, LineDecoder, Report, encode

REPORT = 0.5
CORES = 1000


class Balancer:
    """One connection that reports, and asks for a core more or less at every tenth report."""

    def __init__(self, number: int) -> None:
        self.waits: list[float] = []
        self.lost = True
        """Never connected, or not any more."""
        self._hello = Hello(f"balancer-{number}", 1, 8)
        self._offset = number
        self._asked: float | None = None
        self._cores = 1

    async def connect(self, address: Address) -> None:
        """Say hello, and wait for the first grant: all at once could be too many to be accepted."""
        self._reader, self._writer = await open_stream(address)
        self._writer.write(encode(self._hello))
        await self._reader.readuntil(b"\n")
        self.lost = False

    async def run(self, start: float, count: int) -> None:
        """Report until told to end; the balancers' reports lie evenly over each half second."""
        writer = self._writer
        reading = asyncio.create_task(self._read(self._reader))
        sent = 0
        try:
            while True:
                due = start + REPORT * (sent + self._offset / count)
                sent += 1
                if due < time.monotonic() - REPORT:
                    continue  # before it was connected
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                more = (sent + self._offset) // 10 % 2
                wanted = 2 if more else 1
                if wanted > self._cores and self._asked is None:
                    self._asked = time.monotonic()
                if writer.is_closing():
                    self.lost = True
                    return
                writer.write(encode(Report(self._cores, 0.5 + sent % 7 / 20, float(wanted))))
        finally:
            reading.cancel()
            writer.transport.abort()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        decoder = LineDecoder()
        while data := await reader.read(65536):
            for message in decoder.feed(data):
                if isinstance(message, Grant):
                    if message.cores > self._cores and self._asked is not None:
                        self.waits.append(time.monotonic() - self._asked)
                        self._asked = None
                    self._cores = message.cores


async def load(
    address: Address, pid: int, count: int, seconds: float
) -> tuple[float, list[float], int]:
    """CPU in cores over ``seconds``, the waits for a core that was asked for, and how many got no place."""
    balancers = [Balancer(number) for number in range(count)]
    start, waiting = time.monotonic(), asyncio.Semaphore(32)

    async def live(balancer: Balancer) -> None:
        async with waiting:
            await balancer.connect(address)
        await balancer.run(start, count)

    tasks = [asyncio.create_task(live(balancer)) for balancer in balancers]
    await asyncio.sleep(5)  # until all are there
    for balancer in balancers:
        balancer.waits.clear()
    used, began = cpu_seconds(pid), time.monotonic()
    await asyncio.sleep(seconds)
    used, took = cpu_seconds(pid) - used, time.monotonic() - began
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, Exception):
            raise outcome
    waits = [wait for balancer in balancers for wait in balancer.waits]
    return used / took, waits, sum(balancer.lost for balancer in balancers)


def run(count: int, seconds: float) -> str:
    """One measurement, in words."""
    with tempfile.TemporaryDirectory(prefix="pylb-load-") as folder:
        table = Path(folder, "vms.toml")
        table.write_text(f"cores = {CORES}\n")
        address = f"unix:{folder}/controller.sock"
        arguments = ["--listen", address, "--source", f"table:{table}"]
        process = subprocess.Popen([sys.executable, "-m", "controller", *arguments], stderr=subprocess.PIPE)
        try:
            assert process.stderr is not None
            process.stderr.readline()
            cores, waits, lost = asyncio.run(load(parse(address), process.pid, count, seconds))
        finally:
            process.terminate()
            process.wait()
    middle, late = (1000 * quantile(waits, share) for share in (0.5, 0.99))
    return (
        f"{count} balancers, {count / REPORT:.0f} reports/s, {CORES} cores: the controller uses {cores:.1%} "
        f"of a core; a core that was asked for comes after {middle:.1f} ms (median of {len(waits)}), "
        f"{late:.1f} ms (p99); {lost} balancers have no connection"
    )


def main() -> None:
    """Measure once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--balancers", type=int, default=500, metavar="N")
    parser.add_argument("--seconds", type=float, default=12.0, metavar="S")
    options = parser.parse_args()
    print(in_words())
    print(run(options.balancers, options.seconds))


if __name__ == "__main__":
    main()
