"""The demo's files as the tests read them: compose.yaml's services, the Dockerfile's instructions, and what
the services run, moved from containers to this machine."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml

from bench.rig.balancer import free_port

ROOT = Path(__file__).parents[2]
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]


def dockerfile() -> list[tuple[str, str]]:
    """The Dockerfile's (instruction, arguments) in order."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", "")
    return [(name, rest.strip()) for name, rest in re.findall(r"^([A-Z]+)\s+(.*)$", joined, re.MULTILINE)]


def image_command(instruction: str) -> list[str]:
    """What the last image's CMD or HEALTHCHECK runs."""
    arguments = [rest for name, rest in dockerfile() if name == instruction][-1]
    found: list[str] = json.loads(arguments[arguments.index("[") :])
    return found


class Here:
    """This machine in place of the containers: 127.0.0.1 for the services' names, free ports for theirs,
    folders of ``root`` for those in /etc and /run."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._ports: dict[str, int] = {}

    def port(self, number: str) -> int:
        """The port that stands for one of compose.yaml."""
        if number not in self._ports:
            self._ports[number] = free_port()
        return self._ports[number]

    def text(self, text: str) -> str:
        """Any text that names addresses or folders."""
        text = text.replace("${RSA_BITS:-6144}", "2048")  # a key that is made in no time
        names = "|".join(SERVICES)
        text = re.sub(rf"\b(?:{names}):(\d+)\b", lambda found: f"127.0.0.1:{self.port(found[1])}", text)
        return re.sub(r"(?<!\w)/(?=(?:etc|run)/pylb)", f"{self.root}/", text)

    def command(self, arguments: list[str]) -> list[str]:
        """What a service runs."""
        program, *rest = arguments
        if program == "python":
            program = sys.executable
        else:
            beside = Path(sys.executable).parent / program
            program = str(beside) if beside.exists() else shutil.which(program) or program
        moved = [program]
        for before, argument in zip(arguments, rest, strict=False):
            if before.endswith("-host") and before != "--host":
                argument = "127.0.0.1"
            elif before.endswith("-port"):
                argument = str(self.port(argument))
            moved.append(self.text(argument))
        return moved
