"""The demo without an engine: every service's command runs, on free ports here, and they work together."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pylb.config.address import Address
from pylb.control import view
from tests.deploy.compose import ROOT, SERVICES, Here, image_command

PATIENCE = 60.0  # seconds, for something that must come


class Demo:
    """The running services."""

    def __init__(self, root: Path) -> None:
        self.here = Here(root)
        for folder in ("run/pylb", "run/pylb-controller", "etc/pylb/tls"):
            (root / folder).mkdir(parents=True)
        file = root / "etc/pylb/pylb.toml"
        file.write_text(self.here.text((ROOT / "deploy/pylb.toml").read_text()))
        self.admin = Address("", 0, f"{root}/run/pylb/admin.sock")
        self.running: list[tuple[str, subprocess.Popen[bytes]]] = []
        # As the images' ENV.
        self._environment = {
            **os.environ, "PYTHONPATH": str(ROOT), "PYLB_RUNTIME_DIR": f"{root}/run/pylb",
        }  # fmt: skip

    def once(self, command: list[str]) -> int:
        """Run a command to its end; gives the exit code."""
        quiet = subprocess.DEVNULL
        return subprocess.run(
            self.here.command(command),
            cwd=ROOT, env=self._environment, stdout=quiet, stderr=quiet, timeout=PATIENCE,
        ).returncode  # fmt: skip

    def start(self, name: str) -> None:
        """Start a service, so often as it has replicas."""
        service = SERVICES[name]
        for _ in range(service.get("deploy", {}).get("replicas", 1)):
            command = self.here.command(service["command"])
            log = (self.here.root / f"{name}.log").open("ab")
            with log:
                process = subprocess.Popen(
                    command, cwd=ROOT, env=self._environment, stdout=log, stderr=log, start_new_session=True
                )
            self.running.append((name, process))

    def stop(self) -> dict[str, int]:
        """Stop what runs, the last first; gives the exit codes."""
        codes: dict[str, int] = {}
        for name, process in reversed(self.running):
            process.terminate()
            try:
                codes[name] = codes.get(name, 0) or process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                codes[name] = process.wait()
        self.running.clear()
        return codes

    def wait(self, what: str, until: Callable[[], Any]) -> Any:
        """Ask until the answer is true; no answer yet counts as false."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                if answer := until():
                    return answer
            except (OSError, view.AdminError):
                pass
            time.sleep(0.02)
        logs = {file.name: file.read_text()[-2000:] for file in self.here.root.glob("*.log")}
        raise TimeoutError(f"not {what}: {json.dumps(logs, indent=1)}")

    def healthy(self, name: str, check: list[str]) -> None:
        """Wait until a service's own health check passes."""
        self.wait(f"{name} healthy", lambda: self.once(check) == 0)

    def ask(self, port: str, path: str, scheme: str = "http", **form: object) -> str:
        """What a port of compose.yaml answers."""
        trusting = ssl.create_default_context()
        trusting.check_hostname = False
        trusting.verify_mode = ssl.CERT_NONE
        body = urllib.parse.urlencode(form).encode() if form else None
        url = f"{scheme}://127.0.0.1:{self.here.port(port)}{path}"
        with urllib.request.urlopen(
            url, body, timeout=PATIENCE, context=trusting if scheme == "https" else None
        ) as answer:
            text: str = answer.read().decode()
            return text


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    one = Demo(tmp_path)
    yield one
    one.stop()


def test_they_start_answer_each_other_and_stop(demo: Demo) -> None:
    assert demo.once(SERVICES["certificate"]["command"]) == 0
    demo.start("controller")
    demo.healthy("controller", SERVICES["controller"]["healthcheck"]["test"][1:])
    for name, port in (("web1", "8001"), ("web2", "8002")):
        demo.start(name)
        assert demo.wait(name, partial(demo.ask, port, "/")) == f"{name} says hello\n"
    demo.start("pylb")
    demo.healthy("pylb", image_command("HEALTHCHECK"))
    seen = {demo.ask(port, "/", scheme) for port, scheme in (("8080", "http"), ("8443", "https")) * 4}
    assert seen <= {"web1 says hello\n", "web2 says hello\n"}

    def granted() -> bool:
        scaling = view.fetch(demo.admin, "GET", "/status")["scaling"]
        return bool(scaling["controller_connected"]) and scaling["granted_cores"] is not None

    demo.wait("granted cores", granted)
    demo.start("locust")
    demo.start("locust-worker")
    replicas = SERVICES["locust-worker"]["deploy"]["replicas"]

    def report() -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(demo.ask("8089", "/stats/requests"))
        return answer

    demo.wait("locust workers", lambda: len(report()["workers"]) == replicas)
    started = json.loads(demo.ask("8089", "/swarm", user_count=4, spawn_rate=4))
    assert started["success"], started
    demo.wait("visitors", lambda: report()["stats"][-1]["num_requests"] >= 8)
    assert report()["fail_ratio"] == 0
    assert view.fetch(demo.admin, "GET", "/status")["totals"]["status_2xx"] >= 16
    names = {name for name, _ in demo.running}
    assert names | {"certificate"} == set(SERVICES)
    assert demo.stop() == dict.fromkeys(names, 0)
