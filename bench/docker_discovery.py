"""``python -m bench.docker_discovery``: servers by the labels of containers of a real engine (needs root).

An engine of its own is started (its socket and files in a folder of their own), with an image of Debian's
static busybox, whose httpd answers with the name of its container. What is looked at: a container that starts
and stops, its weight, one without a good label, one that another backend's label names, one that is paused,
and an engine that is restarted.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.rig.balancer import Balancer, free_port, frontend
from bench.rig.command import console, need, parser
from bench.rig.processes import wait_for
from bench.rig.report import in_words, write

BUSYBOX = "/usr/bin/busybox"
BRIDGE = "pylbtest0"


class Engine:
    """A dockerd that leaves the machine's own alone."""

    def __init__(self, stack: ExitStack) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pylb-docker-"))
        stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self.socket = self.folder / "docker.sock"
        self._process: subprocess.Popen[bytes] | None = None
        _run("ip", "link", "add", BRIDGE, "type", "bridge")
        stack.callback(_run, "ip", "link", "del", BRIDGE)
        _run("ip", "addr", "add", "172.31.250.1/24", "dev", BRIDGE)
        _run("ip", "link", "set", BRIDGE, "up")
        stack.callback(self.stop)
        self.start()
        self.docker("import", "-", "pylb-busybox", data=_image())

    def start(self) -> None:
        """Run it, and wait until it answers."""
        command = [
            *("dockerd", "-H", f"unix://{self.socket}", "--data-root", f"{self.folder}/data"),
            *("--exec-root", f"{self.folder}/exec", "--pidfile", f"{self.folder}/pid", "--bridge", BRIDGE),
            *("--iptables=false", "--ip6tables=false", "--ip-masq=false", "--storage-driver", "vfs"),
        ]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            wait_for("dockerd answers", lambda: self._answers())
        except TimeoutError:
            raise TimeoutError((self.folder / "log").read_text()[-3000:]) from None

    def _answers(self) -> bool:
        return subprocess.run(self._command("version"), capture_output=True).returncode == 0

    def stop(self) -> None:
        """End it; its containers end, too."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def _command(self, *arguments: str) -> list[str]:
        return ["docker", "-H", f"unix://{self.socket}", *arguments]

    def docker(self, *arguments: str, data: bytes | None = None) -> str:
        """What the client's command prints."""
        done = subprocess.run(self._command(*arguments), input=data, capture_output=True)
        if done.returncode:
            raise RuntimeError(f"docker {' '.join(arguments)}: {done.stderr.decode()}")
        return done.stdout.decode().strip()

    def container(self, name: str, **labels: str) -> None:
        """Start one whose httpd, on port 8080, answers with its name."""
        marks = [part for key, value in labels.items() for part in ("--label", f"pylb.{key}={value}")]
        script = f"mkdir -p /www && echo -n {name} > /www/index.html && exec httpd -f -p 8080 -h /www"
        self.docker("run", "-d", "--name", name, *marks, "pylb-busybox", "/bin/busybox", "sh", "-c", script)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _image() -> bytes:
    """A root file system with busybox as its commands."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.add(BUSYBOX, "bin/busybox")
        for name in ("sh", "mkdir", "echo", "httpd"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    return out.getvalue()


class Scene:
    """The engine, and a balancer whose only servers are its containers."""

    def __init__(self, stack: ExitStack) -> None:
        self.engine = Engine(stack)
        self.port = free_port()
        text = frontend("web", self.port) + (
            f'[[backend]]\nname = "b"\nbalance = "roundrobin"\n[[backend.discover]]\n'
            f'docker = "unix:{self.engine.socket}"\nport = 8080\n[workers]\nmin = 1\nmax = 1\n'
        )
        self.balancer = stack.enter_context(Balancer(text=text))
        self.found: list[dict[str, Any]] = []

    def see(self, what: str, wanted: dict[str, int]) -> None:
        """Wait until pylb has as many servers, then ask; ``wanted`` are twelve answers by container."""
        began = time.monotonic()
        self.balancer.wait(what, lambda status: len(status["servers"]) == len(wanted))
        seconds = time.monotonic() - began
        wait_for("answers", lambda: not wanted or _get(self.port) in wanted)
        answers = dict(Counter(_get(self.port) for _ in range(12)))
        good = answers == (wanted or {"503": 12})
        self.found.append({"what": what, "seconds": seconds, "answers": answers, "good": good})
        console.log(
            f"{what}: {answers} after {seconds:.1f} s{'' if good else ', but expected ' + str(wanted)}"
        )


def _get(port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as response:
            text: str = response.read().decode()
            return text
    except urllib.error.HTTPError as error:
        return str(error.code)


def steps(scene: Scene) -> None:
    """What containers do, in turn."""
    engine = scene.engine
    scene.see("no container", {})
    engine.container("one", backend="b")
    scene.see("one starts", {"one": 12})
    engine.container("two", backend="b", weight="2")
    scene.see("another of weight 2", {"one": 4, "two": 8})
    engine.container("other", backend="x")
    engine.container("bad", backend="b", port="http")
    engine.container("three", backend="b", port="8080")
    scene.see(
        "a third, one of another backend, one whose port is no number", {"one": 3, "two": 6, "three": 3}
    )
    engine.docker("pause", "two")
    scene.see("one is paused", {"one": 6, "three": 6})
    engine.docker("unpause", "two")
    engine.docker("rm", "-f", "three")
    scene.see("it goes on, and the third is removed", {"one": 4, "two": 8})
    engine.stop()
    # It ends its containers, too, and says so.
    scene.balancer.wait("the engine is gone", lambda status: bool(status["discovery"][0]["error"]))
    engine.start()
    engine.docker("start", "one")
    scene.see("the engine was stopped and is back, with one container", {"one": 12})
    engine.docker("rm", "-f", "one")
    scene.see("the last one is removed", {})


def main() -> None:
    options = parser(__doc__)
    chosen = options.parse_args()
    need(options, "docker", "dockerd", "ip", root=True)
    if not Path(BUSYBOX).exists():
        options.error("busybox-static not installed (apt-get install busybox-static)")
    with ExitStack() as stack:
        scene = Scene(stack)
        steps(scene)
        version = json.loads(scene.engine.docker("version", "--format", "{{json .Server.Version}}"))
        log = scene.balancer.log.read_text()
    good = all(one["good"] for one in scene.found) and "container bad is left out: pylb.port is 'http'" in log
    lines = [
        *("# Servers by the labels of Docker's containers", ""),
        *(f"Written by `python -m bench.docker_discovery`. Docker {version}; {in_words()}.", ""),
        *("| what happens | s until it is known | twelve answers | as expected |", "|---|---|---|---|"),
        *(
            f"| {one['what']} | {one['seconds']:.1f} "
            f"| {', '.join(f'{n} × {name}' for name, n in sorted(one['answers'].items())) or 'not asked'} "
            f"| {'yes' if one['good'] else '**no**'} |"
            for one in scene.found
        ),
    ]
    write("docker_discovery", {"docker": version, "steps": scene.found, "good": good}, lines, chosen.out)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
