"""Real peers of HTTP/2, where installed: curl, nghttp, h2load, node, Chromium; nghttpd as a server."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.rig.balancer import Balancer, free_port
from bench.rig.peers import certificate
from bench.rig.processes import start
from tests.e2e.origin import Origin

LIMIT = 50  # seconds for a program that hangs


def need(*programs: str) -> str:
    """The first of these programs that is installed; without any the test is skipped."""
    for program in programs:
        if shutil.which(program) is not None:
            return program
    pytest.skip(f"{programs[0]} is not installed")


def run(*command: str) -> str:
    """What a program says, whatever its exit code."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a balancer serves with TLS."""
    origin = Origin()
    folder = tmp_path_factory.mktemp("tls")
    certificate(folder)
    port = free_port()
    text = (
        f'workers = {{min = 1, max = 1}}\n[[frontend]]\nname = "f"\nbind = "127.0.0.1:{port}"\n'
        f'backend = "b"\n[frontend.tls]\ncertificates = "{folder}/both.pem"\n\n'
        f'[[backend]]\nname = "b"\nbody_bytes = 100_000\n[[backend.server]]\naddress = "{origin.address}"\n'
    )
    with Balancer(text=text):
        yield f"https://127.0.0.1:{port}"
    origin.stop()


def test_curl_gets_an_early_answer_to_its_upload(encrypted: str, tmp_path: Path) -> None:
    need("curl")
    big = tmp_path / "big"
    big.write_bytes(bytes(5_000_000))
    code = ("-o", "/dev/null", "-w", "%{http_version} %{http_code} %{exitcode}")
    ask = ("curl", "-sk", "--http2", *code)
    assert run(*ask, f"{encrypted}/bytes/100000") == "2 200 0"
    for length in ("", "Content-Length:"):
        got = run(*ask, "-H", length, "-T", str(big), f"{encrypted}/echo")
        assert got == "2 413 0"


def test_nghttp_gets_many_at_a_time(encrypted: str) -> None:
    need("nghttp")
    paths = [f"{encrypted}/bytes/{size}" for size in (0, 1, 70_000, 1_000_000)]
    said = run("nghttp", "-n", "-s", "-y", *paths)
    assert said.count(" 200 ") == len(paths), said


def test_h2load_loses_nothing(encrypted: str) -> None:
    need("h2load")
    said = run("h2load", "-n", "400", "-c", "4", "-m", "20", f"{encrypted}/bytes/3000")
    assert "400 succeeded, 0 failed, 0 errored" in said, said


NODE = """
const http2 = require("http2");
const client = http2.connect(process.argv[1], {rejectUnauthorized: false});
const ask = (headers, body) => new Promise((done) => {
  const stream = client.request(headers, {endStream: body === undefined});
  let status = 0, size = 0;
  stream.on("response", (head) => { status = head[":status"]; });
  stream.on("data", (data) => { size += data.length; });
  stream.on("error", (error) => done([status, error.code]));
  stream.on("end", () => done([status, size]));
  if (body !== undefined) stream.end(body);
});
(async () => {
  const found = [];
  found.push(await ask({":path": "/bytes/200000"}));
  found.push(await ask({":path": "/echo", ":method": "POST"}, Buffer.alloc(2000000)));
  const cancelled = client.request({":path": "/bytes/5000000"});
  await new Promise((done) => cancelled.on("response", () => { cancelled.close(8); done(); }));
  found.push(...await Promise.all([1, 2, 3].map((size) => ask({":path": "/bytes/" + size}))));
  console.log(JSON.stringify(found));
  client.close();
})();
"""


def test_node_hears_an_early_answer_and_goes_on(encrypted: str) -> None:
    need("node")
    said = run("node", "-e", NODE, encrypted)
    large, early, *small = json.loads(said)
    assert large == [200, 200_000]
    assert early[0] == 413
    assert small == [[200, 1], [200, 2], [200, 3]]


def test_chromium_shows_a_page(encrypted: str, tmp_path: Path) -> None:
    chromium = need("chromium", "chromium-browser", "google-chrome")
    said = run(
        *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--ignore-certificate-errors"),
        *(f"--user-data-dir={tmp_path}", "--dump-dom", f"{encrypted}/"),
    )
    assert "<html" in said and "ERR_" not in said, said


def test_nghttpd_is_a_server(tmp_path: Path) -> None:
    need("nghttpd")
    need("curl")
    sizes = (0, 1, 2_000_000)
    for size in sizes:
        (tmp_path / str(size)).write_bytes(bytes(size))
    port, near = free_port(), free_port()
    server = start(["nghttpd", "--no-tls", "-d", str(tmp_path), str(port)], tmp_path / "log", port)
    text = (
        f'workers = {{min = 1, max = 1}}\n[[frontend]]\nname = "f"\nbind = "127.0.0.1:{near}"\n'
        'backend = "b"\n[[backend]]\nname = "b"\nhttp2 = true\n'
        f'[[backend.server]]\naddress = "127.0.0.1:{port}"\n'
    )
    code = ("-o", "/dev/null", "-w", "%{http_code} %{size_download} %{exitcode}")
    try:
        with Balancer(text=text):
            for version in ("--http1.1", "--http2-prior-knowledge"):
                for size in sizes:
                    got = run("curl", "-s", version, *code, f"http://127.0.0.1:{near}/{size}")
                    assert got == f"200 {size} 0"
    finally:
        server.stop()
