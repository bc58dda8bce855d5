"""compose.yaml, its companions and the Dockerfile against their schema and against each other."""

from __future__ import annotations

import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

from pylb.config.load import from_document, read_document
from tests.deploy.compose import ROOT, SERVICES, dockerfile, image_command

COMPOSE_FILES = ("compose.yaml", "compose.override.yaml", "deploy/compose.host-network.yaml")


@pytest.mark.parametrize("name", COMPOSE_FILES)
def test_the_schema_of_the_compose_specification(name: str) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, str(ROOT / name)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_other_files_speak_of_the_same_services() -> None:
    published, host = (yaml.safe_load((ROOT / name).read_text())["services"] for name in COMPOSE_FILES[1:])
    assert set(host) == set(SERVICES)
    assert set(published) < set(SERVICES)
    ports = [port for service in published.values() for port in service["ports"]]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    hosts = {line.partition(":")[0] for service in host.values() for line in service["extra_hosts"]}
    assert {"pylb", "web1", "web2", "locust"} == hosts


def test_what_the_services_share_exists() -> None:
    volumes = yaml.safe_load((ROOT / "compose.yaml").read_text())["volumes"]
    stages = [rest.split()[-1] for name, rest in dockerfile() if name == "FROM"]
    for name, service in SERVICES.items():
        assert service["build"]["target"] in stages, name
        assert service["cap_drop"] == ["ALL"], name
        assert set(service.get("depends_on", ())) <= set(SERVICES), name
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert source in volumes or (ROOT / source).is_file(), volume


def test_the_balancers_file_has_the_services_addresses() -> None:
    config = from_document(read_document(ROOT / "deploy/pylb.toml"))
    listening = {SERVICES[name]["command"][4] for name in ("web1", "web2")}
    assert {str(server.address) for server in config.backends[0].servers} == listening
    listen = SERVICES["controller"]["command"][4]
    assert config.controller.address == listen
    assert SERVICES["controller"]["healthcheck"]["test"][-1] == listen
    assert image_command("CMD") == SERVICES["pylb"]["command"]


def test_the_image_has_a_user_a_health_check_and_what_it_copies() -> None:
    instructions = dockerfile()
    assert [rest for name, rest in instructions if name == "USER"][-1] == "10001:10001"
    assert image_command("HEALTHCHECK")[:3] == ["python", "-m", "pylb"]
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for name, rest in instructions:
        if name == "COPY" and not rest.startswith("--from="):
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert any(fnmatch(source, pattern) for pattern in allowed), source
    assert all(Path(ROOT / pattern).exists() for pattern in allowed)
