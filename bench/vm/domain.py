"""A guest that libvirt runs, and a libvirtd for this experiment alone.

`isolated` puts the program into namespaces of its own, in which libvirt's folders are empty: whatever else
libvirt runs on this host is neither seen nor touched, and all ends with the program. libvirt's module is that
of Debian's ``python3-libvirt``, or of the extra ``pylb[libvirt]``.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Self
from xml.sax.saxutils import quoteattr

from bench.vm.calls import Calls, GuestError
from bench.vm.ends import until
from bench.vm.guest import ACCELERATOR, CONTROLLER_PORT, Guest

URI = "qemu:///system"
PIDS = Path("/run/libvirt/qemu")
_FOLDERS = ("/run/libvirt", "/var/lib/libvirt", "/var/log/libvirt", "/var/cache/libvirt", "/etc/libvirt")
_ISOLATED = "PYLB_BENCH_ISOLATED"
# The guests' files are this user's, an emulated machine needs no labels, and no virtlogd runs here.
_CONFIGURATION = """
security_driver = "none"
user = "root"
group = "root"
remember_owner = 0
stdio_handler = "file"
"""


def missing() -> str:
    """Why libvirt can't be tried here, in words; "" where it can."""
    lacking = [tool for tool in ("libvirtd", "unshare") if shutil.which(tool) is None]
    if lacking:
        return f"this needs {', '.join(lacking)}; on Debian: apt-get install libvirt-daemon-system util-linux"
    if importlib.util.find_spec("libvirt") is None:
        return (
            "this needs libvirt's module for Python: run it by a Python that has it, such as Debian's with "
            "python3-libvirt, or install libvirt-python"
        )
    return ""


def isolate() -> None:
    """Go on in namespaces of our own (mounts, network, processes); returns in there only."""
    if _ISOLATED not in os.environ:
        done = subprocess.run(
            # The shell is process 1, and takes in what libvirtd leaves: it waits for that.
            ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc",
             "sh", "-c", '"$@"; exit $?', "sh", sys.executable, "-m", "bench.vm", *sys.argv[1:]],
            env=os.environ | {_ISOLATED: "1"},
        )  # fmt: skip
        sys.exit(done.returncode)
    for folder in _FOLDERS:
        os.makedirs(folder, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], check=True)
    Path("/etc/libvirt/qemu.conf").write_text(_CONFIGURATION)


class Libvirtd:
    """The daemon."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        # Errors are raised; the module would print them, too.
        importlib.import_module("libvirt").registerErrorHandler(lambda *_: None, None)
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        assert self._process is not None
        await self._process.wait()

    async def start(self) -> None:
        """Start it and wait until it answers."""
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                "libvirtd", "--pid-file", "/run/libvirt/libvirtd.pid", stdout=log, stderr=log
            )

        async def answers() -> bool:
            with contextlib.suppress(Exception):  # libvirtError
                await asyncio.to_thread(lambda: importlib.import_module("libvirt").open(URI).close())
                return True
            return False

        await until("libvirtd answers", answers, 20)

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def kill(self) -> None:
        """At once; the machines go on."""
        self.signal(signal.SIGKILL)
        assert self._process is not None
        await self._process.wait()


class DomainCalls(Calls):
    """QEMU's monitor, or the guest's agent, by way of libvirt."""

    def __init__(self, domain: Any, ask: str) -> None:
        super().__init__(Path())
        self._domain = domain
        self._ask = ask

    async def call(self, name: str, arguments: dict[str, Any], seconds: float = 20.0) -> Any:
        request: dict[str, Any] = {"execute": name}
        if arguments:
            request["arguments"] = arguments
        ask = getattr(importlib.import_module("libvirt_qemu"), self._ask)
        more = (0,) if self._ask == "qemuMonitorCommand" else (int(seconds), 0)
        try:
            answer = json.loads(await asyncio.to_thread(ask, self._domain, json.dumps(request), *more))
        except Exception as error:  # libvirtError: the agent isn't there yet, or libvirtd
            raise ConnectionError(str(error)) from None
        if "error" in answer:
            raise GuestError(f"{name}: {answer['error'].get('desc', answer['error'])}")
        return answer["return"]


class DomainGuest(Guest):
    """As `Guest`, with libvirt between; `domain` is libvirt's object.

    ``cputune`` is what the element of that name holds (libvirt's documentation, Domain XML format).
    """

    def __init__(self, *arguments: Any, cputune: str = "", **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.domain: Any = None
        self._cputune = cputune

    @property
    def pid(self) -> int:
        return int((PIDS / f"{self.name}.pid").read_text())

    def xml(self) -> str:
        """The machine as libvirt is told of it."""
        at = self._folder
        channel = "" if self._controller is None else (
            "<channel type='unix'>"
            f"<source mode='connect' path={quoteattr(str(self._controller))}>"
            "<reconnect enabled='yes' timeout='1'/></source>"
            f"<target type='virtio' name='{CONTROLLER_PORT}'/></channel>"
        )  # fmt: skip
        arguments = (
            "-drive", f"file={self._image.disk},format=raw,if=none,id=root,snapshot=on",
            "-device", "nvme,drive=root,serial=root,addr=0x18",  # a slot that libvirt doesn't give away
        )  # fmt: skip
        kind = "qemu" if ACCELERATOR == "tcg" else ACCELERATOR
        return f"""
<domain type='{kind}' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{self.name}</name>
  <memory unit='MiB'>{self._memory}</memory>
  <vcpu current='{self.vcpus}'>{self._max_vcpus}</vcpu>
  <cputune>{self._cputune}</cputune>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{self._image.kernel}</kernel>
    <cmdline>{self._kernel_line}</cmdline>
  </os>
  <features><acpi/></features>
  <devices>
    <serial type='file'><source path='{at}/console'/><target port='0'/></serial>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/><source file='{at}/source'/><target dev='vda' bus='virtio'/><readonly/>
    </disk>
    <interface type='ethernet'>
      <target dev='{self._device}' managed='no'/><mac address='{self._mac}'/><model type='virtio'/>
    </interface>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    {channel}
    <memballoon model='none'/>
  </devices>
  <qemu:commandline>{"".join(f"<qemu:arg value='{word}'/>" for word in arguments)}</qemu:commandline>
</domain>"""

    def _runs(self) -> bool:
        return self.domain is not None and bool(self.domain.isActive())

    async def _launch(self) -> None:
        connection = await asyncio.to_thread(importlib.import_module("libvirt").open, URI)
        self.domain = await asyncio.to_thread(connection.createXML, self.xml(), 0)
        self._qmp = DomainCalls(self.domain, "qemuMonitorCommand")
        self._agent = DomainCalls(self.domain, "qemuAgentCommand")

    async def _kill(self) -> None:
        domain, self.domain = self.domain, None
        if domain is not None:
            with contextlib.suppress(Exception):  # it, or libvirtd, has gone
                await asyncio.to_thread(domain.destroy)
