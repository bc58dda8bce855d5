"""One guest under QEMU: started, steered, ended.

    async with Network() as network, Guest(image(), "balancer", network, vcpus=2, controller=socket) as guest:
        await guest.start("python3 -m pylb serve … --controller serial:pylb", log="/tmp/log")
        done = await guest.run("nproc")             # Done(code, out, err); `do` gives `out`, or raises
        await guest.qmp("stop")                     # QMP, as QEMU's reference has it
        await guest.agent("guest-set-vcpus", …)     # QEMU's guest agent
        await guest.reset()
        await guest.plug()                          # one more vCPU, where max_vcpus is larger than vcpus
        guest.url(8080), guest.address, guest.pid

``controller`` is the unix socket of a controller on this host; QEMU connects to it, again every second, and
the guest has it as the virtio-serial port ``pylb``. Guests of one `Network` reach each other and this host.
Under TCG about one boot in thirty hangs, so a start has a time limit and is tried a second time.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.vm.calls import Agent, Calls, GuestError, Qmp
from bench.vm.image import Image, source_disk
from bench.vm.network import Network

START_SECONDS = 60.0
"""In which a guest's agent must answer; usual are 5 on a machine that has nothing else to do."""
RESET_SECONDS = 0.5
"""After which an agent that answers is that of the new boot."""
ACCELERATOR = os.environ.get("PYLB_VM_ACCEL", "tcg")
"""``kvm`` where there is one."""
CONTROLLER_PORT = "pylb"
PLUG = "controller-port"
"""The port's name for QEMU, to unplug it."""


@dataclass(frozen=True)
class Done:
    """How a command in the guest ended."""

    code: int
    out: str
    err: str


class Guest:
    """A virtual machine.

    Args:
        vcpus: those that are there from the start; ``max_vcpus``: with those that can be plugged.
        controller: its unix socket; None for a guest without that port.
        memory: MiB.
        wrap: a command that runs the one behind it, such as ``taskset -c 0``; it must not fork.
    """

    def __init__(
        self,
        image: Image,
        name: str,
        network: Network,
        vcpus: int = 2,
        controller: Path | None = None,
        *,
        max_vcpus: int = 0,
        memory: int = 512,
        wrap: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.vcpus = vcpus
        self.address = ""
        self._image = image
        self._network = network
        self._max_vcpus = max(vcpus, max_vcpus)
        self._controller = controller
        self._memory = memory
        self._wrap = wrap
        self._device = self._mac = ""
        self._folder = Path()
        self._process: asyncio.subprocess.Process | None = None
        self._qmp = self._agent = Calls(Path())

    @property
    def pid(self) -> int:
        """QEMU's."""
        assert self._process is not None
        return self._process.pid

    @property
    def console(self) -> str:
        """What the guest's kernel has said."""
        return self._text("console")

    def _text(self, name: str) -> str:
        with contextlib.suppress(OSError):
            return (self._folder / name).read_text(errors="replace")
        return ""

    def url(self, port: int = 8080, path: str = "/") -> str:
        """Where something that listens in the guest is reached from this host and from other guests."""
        return f"http://{self.address}:{port}{path}"

    async def __aenter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="pylb-vm-"))
        try:
            source_disk(self._folder / "source")
            self._device, self.address, self._mac = self._network.join()
            for last_try in (False, True):
                await self._launch()
                try:
                    await self.started()
                    return self
                except GuestError:
                    if last_try:
                        raise
                    await self._kill()
        except BaseException:
            await self._end()
            raise
        raise AssertionError

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    @property
    def _kernel_line(self) -> str:
        return (
            "root=/dev/nvme0n1 rw rootfstype=ext4 init=/sbin/pylb-init console=ttyS0 net.ifnames=0 "
            f"mitigations=off pylb.name={self.name} pylb.address={self.address}/24"
        )

    def _runs(self) -> bool:
        return self._process is not None and self._process.returncode is None

    def command(self) -> list[str]:
        """QEMU's command line."""
        at = self._folder
        arguments = [
            "qemu-system-x86_64", "-name", f"guest={self.name},debug-threads=on", "-nodefaults",
            "-machine", "q35", "-accel", "tcg,thread=multi" if ACCELERATOR == "tcg" else ACCELERATOR,
            "-cpu", "qemu64" if ACCELERATOR == "tcg" else "host",
            "-smp", f"{self.vcpus},maxcpus={self._max_vcpus}", "-m", str(self._memory),
            "-display", "none", "-serial", f"file:{at}/console",
            "-qmp", f"unix:{at}/qmp,server=on,wait=off",
            "-kernel", str(self._image.kernel), "-append", self._kernel_line,
            "-drive", f"file={self._image.disk},format=raw,if=none,id=root,snapshot=on",
            "-device", "nvme,drive=root,serial=root",
            "-drive", f"file={at}/source,format=raw,if=virtio,readonly=on",
            "-netdev", f"tap,id=net,ifname={self._device},script=no,downscript=no",
            "-device", f"virtio-net-pci,netdev=net,mac={self._mac}",
            "-device", "virtio-serial-pci",
            "-chardev", f"socket,id=agent,path={at}/agent,server=on,wait=off",
            "-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0",
        ]  # fmt: skip
        if self._controller is not None:
            arguments += [
                "-chardev", f"socket,id=controller,path={self._controller},reconnect=1",
                "-device", f"virtserialport,chardev=controller,name={CONTROLLER_PORT},id={PLUG}",
            ]  # fmt: skip
        # It ends with us, however we end; the process stays the same (SO_PEERCRED).
        return ["setpriv", "--pdeathsig", "KILL", *self._wrap, *arguments]

    async def _launch(self) -> None:
        with (self._folder / "log").open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self.command(), stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._qmp, self._agent = Qmp(self._folder / "qmp"), Agent(self._folder / "agent")

    async def started(self) -> None:
        """Wait until the guest's agent answers, after a start or a reset.

        Raises:
            GuestError: it doesn't in `START_SECONDS`; with what the guest and QEMU said last.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_SECONDS):
                while self._runs():
                    with contextlib.suppress(OSError, TimeoutError, ValueError):
                        await self._agent.call("guest-ping", {}, 3.0)
                        return
                    await asyncio.sleep(0.1)
        said = self._text("log") + self.console[-2000:]
        raise GuestError(f"guest {self.name} did not start:\n{said}")

    async def reset(self) -> None:
        """Reset the machine, as its button does, and wait until it is up again.

        Raises:
            GuestError: it didn't start, twice.
        """
        for last_try in (False, True):
            await self.qmp("system_reset")
            await asyncio.sleep(RESET_SECONDS)
            try:
                await self.started()
                return
            except GuestError:
                if last_try:
                    raise

    def lend_agent(self) -> Path:
        """The agent's socket, for somebody else: QEMU serves one at a time; the next call takes it back."""
        self._agent.close()
        return self._folder / "agent"

    async def qmp(self, command: str, /, **arguments: Any) -> Any:
        """What QEMU's monitor answers (QEMU QMP Reference Manual); ``_`` in names is ``-``."""
        return await self._qmp.call(command, _dashed(arguments))

    async def agent(self, command: str, /, **arguments: Any) -> Any:
        """What the guest's agent answers (QEMU Guest Agent Protocol Reference); ``_`` in names is ``-``."""
        return await self._agent.call(command, _dashed(arguments))

    async def run(self, command: str, seconds: float = 60.0) -> Done:
        """Run a command of the guest's shell to its end, `guest-exec` of the agent.

        Raises:
            TimeoutError: it doesn't end in time; it goes on.
        """
        exec_ = {"path": "/bin/sh", "arg": ["-c", command]}
        pid = (await self.agent("guest-exec", **exec_, capture_output=True))["pid"]
        pause = 0.01
        async with asyncio.timeout(seconds):
            while not (status := await self.agent("guest-exec-status", pid=pid))["exited"]:
                await asyncio.sleep(pause)
                pause = min(0.2, 2 * pause)
        out, err = (base64.b64decode(status.get(key, "")).decode() for key in ("out-data", "err-data"))
        return Done(status.get("exitcode", -status.get("signal", 0)), out, err)

    async def do(self, command: str, seconds: float = 60.0) -> str:
        """`run` what must succeed; gives what it wrote.

        Raises:
            GuestError: it failed; with what it said.
        """
        done = await self.run(command, seconds)
        if done.code:
            raise GuestError(f"guest {self.name}: {command}: code {done.code}: {done.err}{done.out}")
        return done.out

    async def start(self, command: str, log: str = "/dev/null") -> int:
        """Start a command that goes on; gives its pid, which leads a process group of its own."""
        begin = f"setsid sh -c {_quoted('exec ' + command)} >{log} 2>&1 </dev/null & echo $!"
        return int(await self.do(begin))

    async def plug(self) -> str:
        """Plug one more vCPU and give its device's name. The guest's kernel must still bring it online.

        Raises:
            GuestError: all are plugged.
        """
        for slot in await self.qmp("query-hotpluggable-cpus"):
            if "qom-path" not in slot:
                name = "cpu-" + "-".join(str(number) for number in slot["props"].values())
                await self.qmp("device_add", driver=slot["type"], id=name, **slot["props"])
                return name
        raise GuestError(f"guest {self.name} has all its {self._max_vcpus} vCPUs")

    async def _kill(self) -> None:
        self._qmp.close()
        self._agent.close()
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def _end(self) -> None:
        await self._kill()
        if self._device:
            self._network.leave(self._device)
        shutil.rmtree(self._folder, ignore_errors=True)


def _dashed(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name.replace("_", "-"): value for name, value in arguments.items()}


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
