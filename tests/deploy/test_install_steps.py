"""The Dockerfile's install steps, done in a temporary folder: a clean environment from what is copied."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.deploy.compose import ROOT, dockerfile


def run(*command: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def copy(sources: list[str], place: Path) -> None:
    for source in sources:
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / source, place)


def test_they_install_what_the_images_run(tmp_path: Path) -> None:
    folder = tmp_path / "src"
    installed: list[str] = []
    for name, rest in dockerfile():
        if name == "WORKDIR":
            folder = tmp_path / rest.lstrip("/")
            folder.mkdir(parents=True, exist_ok=True)
        elif name == "COPY" and not rest.startswith("--from="):
            *sources, place = rest.split()
            copy(sources, folder / place)
        elif name == "RUN" and "/opt/pylb" in rest:
            run("/bin/sh", "-ec", rest.replace("/opt/pylb", f"{tmp_path}/opt/pylb"), cwd=tmp_path / "src")
            installed.append(rest)
            if "pip install" in rest:
                run(f"{tmp_path}/opt/pylb/bin/pip", "check", cwd=tmp_path)
    # The environment, what is locked, pylb, locust, and pip removed.
    assert len(installed) == 5, installed
    python = str(tmp_path / "opt/pylb/bin/python")
    demo = tmp_path / "demo"
    assert "status" in run(python, "-m", "pylb", "--help", cwd=tmp_path)
    assert "--listen" in run(python, "-m", "controller", "--help", cwd=tmp_path)
    assert "--listen" in run(python, "-m", "pylb.demo", "--help", cwd=tmp_path)
    list_ = (python, "-m", "locust", "-f", "deploy/locustfile.py", "--list")
    assert "Visitor" in run(*list_, cwd=demo, PYTHONPATH=str(demo))
    assert not (tmp_path / "opt/pylb/bin/pip").exists()
