"""The two ends of the protocol in an experiment with guests: a controller on this host, pylb in a guest.

    async with HostController(source="hypervisor:FILE") as controller:      # controller.socket for Guest(…)
        balancer = Pylb(guest, workers=(1, 2), servers=["10.213.1.3:80"])
        await balancer.start()                                              # serves on guest.url(8080)
        (await balancer.status())["scaling"]["granted_cores"]
        await controller.leases()
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Self

from bench.vm.guest import CONTROLLER_PORT, Guest
from controller.address import Address
from controller.client import open_stream
from controller.protocol import MAX_STATUS, Error, LineDecoder, Status, StatusRequest, encode
from pylb.config.address import Address as AdminAddress
from pylb.control import view

PORT = 8080
ADMIN_PORT = 9090
_TOKEN = "bench"
_LOOK = 0.02


async def until(
    what: str, condition: Callable[[], Awaitable[object]], seconds: float = 60.0, look: float = _LOOK
) -> float:
    """Ask again and again until something is so, and give how long that took, in seconds.

    What raises `OSError`, `TimeoutError` or `view.AdminError` isn't so yet.

    Raises:
        TimeoutError: it never was; says what.
    """
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        with contextlib.suppress(OSError, TimeoutError, view.AdminError):
            if await condition():
                return time.monotonic() - began
        await asyncio.sleep(look)
    raise TimeoutError(f"not within {seconds:g} s: {what}")


class HostController:
    """``python -m controller`` on this host, with its socket in a folder of its own."""

    def __init__(self, *arguments: str, source: str = "measured", wrap: Sequence[str] = ()) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pylb-controller-"))
        self.socket = self.folder / "socket"
        self.log = self.folder / "log"
        self._command = [
            *("setpriv", "--pdeathsig", "KILL", *wrap, sys.executable, "-m", "controller"),
            *("--listen", f"unix:{self.socket}", "--source", source, *arguments),
        ]
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self, *more: str) -> None:
        """Start it, with ``more`` arguments this time, and wait until it answers.

        Raises:
            TimeoutError: it doesn't; with its log.
        """
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(*self._command, *more, stderr=log)
        try:
            await until("the controller answers", self.status, 10)
        except TimeoutError:
            raise TimeoutError(f"the controller doesn't answer:\n{self.log.read_text()}") from None

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it, and wait until it has gone."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)
            await self._process.wait()

    async def status(self) -> Status:
        """What ``python -m controller status`` shows.

        Raises:
            OSError, TimeoutError: nobody answers.
        """
        async with asyncio.timeout(2):
            reader, writer = await open_stream(Address("unix", str(self.socket)))
            try:
                writer.write(encode(StatusRequest()))
                decoder = LineDecoder(MAX_STATUS)
                while data := await reader.read(65536):
                    for message in decoder.feed(data):
                        if isinstance(message, Status):
                            return message
                        if isinstance(message, Error):
                            raise OSError(message.message)
            finally:
                writer.transport.abort()
        raise OSError("it closed the connection")

    async def leases(self) -> list[dict[str, Any]]:
        """The balancers that it knows."""
        return (await self.status()).leases


class Pylb:
    """pylb in a guest, with its admin address on the guest's network.

    Args:
        controller: as ``--controller`` takes it; "" for the embedded one.
        configuration: more of ``pylb.toml``, its first part.
    """

    def __init__(
        self,
        guest: Guest,
        workers: tuple[int, int] | None = (1, 2),
        servers: Sequence[str] = ("127.0.0.1:9",),
        controller: str = f"serial:{CONTROLLER_PORT}",
        configuration: str = "",
    ) -> None:
        self.guest = guest
        self.pid = 0
        self._admin = AdminAddress(guest.address, ADMIN_PORT, "")
        text = f'admin = "0.0.0.0:{ADMIN_PORT}"\nadmin_token_file = "/etc/pylb.token"\n{configuration}\n'
        if workers is not None:
            text += f"workers = {{min = {workers[0]}, max = {workers[1]}}}\n"
        if controller:
            text += f'[controller]\naddress = "{controller}"\nname = "{guest.name}"\n'
        text += f'[[frontend]]\nname = "f"\nbind = "0.0.0.0:{PORT}"\nbackend = "b"\n[[backend]]\nname = "b"\n'
        self._text = text + "".join(f'[[backend.server]]\naddress = "{server}"\n' for server in servers)

    async def start(self, wait: bool = True) -> None:
        """Start it, and wait until a worker serves and the control plane answers.

        Raises:
            TimeoutError: they don't; with pylb's log.
        """
        write = f"cat >/etc/pylb.toml <<'END'\n{self._text}\nEND\necho {_TOKEN} >/etc/pylb.token; "
        await self.guest.do(f"{write} chmod 600 /etc/pylb.token")
        self.pid = await self.guest.start("python3 -m pylb serve -c /etc/pylb.toml", log="/tmp/pylb.log")
        if wait:
            await self.serving()

    async def serving(self) -> float:
        """Wait until it serves; gives the seconds."""

        async def serves() -> bool:
            return any(worker["state"] == "serving" for worker in (await self.status())["workers"])

        try:
            return await until("pylb serves", serves, 180)  # a starved emulated machine is slow
        except TimeoutError:
            processes = (await self.guest.run("ps axo pid,stat,time,wchan:20,args; cat /proc/loadavg")).out
            raise TimeoutError(f"pylb doesn't serve:\n{await self.log()}\n{processes}") from None

    async def status(self) -> dict[str, Any]:
        """``/status`` of its admin address.

        Raises:
            OSError, view.AdminError: nobody answers.
        """
        return await asyncio.to_thread(view.fetch, self._admin, "GET", "/status", token=_TOKEN, timeout=2)

    async def scale(self, count: int | str) -> None:
        """Pin the number of workers, or "auto"."""
        await asyncio.to_thread(view.fetch, self._admin, "POST", "/scale", {"n": count}, 10, _TOKEN)

    async def log(self) -> str:
        """Its log so far."""
        return await self.guest.do("cat /tmp/pylb.log")

    async def kill(self) -> None:
        """SIGKILL to all its processes at once."""
        await self.guest.do(f"kill -9 -{self.pid}")

    async def stop(self) -> None:
        """End it in order, and wait until it has gone."""
        await self.guest.do(f"kill {self.pid}; while kill -0 {self.pid} 2>/dev/null; do sleep 0.1; done")
