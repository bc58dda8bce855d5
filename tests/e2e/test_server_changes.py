"""Servers are changed while pylb runs: by the command line, over a reload, a dead worker and a restart."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.rig.balancer import Balancer, free_port
from tests.e2e.http2client import Client
from tests.e2e.origin import Origin

CONFIG = """# A site.
state_file = "{folder}/state"
workers = "1"
[[frontend]]
name = "f"
bind = "127.0.0.1:{port}"
backend = "web"
[[backend]]
name = "web"
balance = "roundrobin"
server = [
  "{one}",  # the first
  "{two}",
]
"""


def command(one: Balancer, *arguments: str, fails: bool = False) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pylb", *arguments, "--admin", str(one.admin)],
        capture_output=True, text=True, timeout=50,
    )  # fmt: skip
    assert (done.returncode != 0) == fails, done
    return (done.stderr if fails else done.stdout).strip()


def states(one: Balancer) -> dict[str, str]:
    return {server["name"]: server["state"] for server in one.status()["servers"]}


def asked(one: Balancer, origins: list[Origin], count: int = 12) -> list[int]:
    """How many of some requests each server gets."""
    before = [len(origin.requests) for origin in origins]
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", PORTS[id(one)], timeout=50)
    for _ in range(count):
        connection.request("GET", "/")
        response = connection.getresponse()
        response.read()
        assert response.status == 200
    connection.close()
    return [len(origin.requests) - so_far for origin, so_far in zip(origins, before, strict=True)]


PORTS: dict[int, int] = {}
