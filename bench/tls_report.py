"""``python -m bench.tls_report``: what testssl.sh finds at a listener with the default TLS settings.

A balancer gets a certificate of a CA made for the occasion; testssl.sh knows that CA (``--add-ca``) and tries
protocols, ciphers, known attacks and HTTP over TLS. Needs testssl.sh (``apt-get install testssl.sh``).
Exit code 1 if it finds a weakness of medium severity or higher.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import trustme
from rich.console import Console

from bench.balancer import free_port, frontend, in_front_of
from bench.machine import in_words, machine

console = Console()
WEAK = ("MEDIUM", "HIGH", "CRITICAL")
# A CA made for the occasion has nowhere to ask whether a certificate was revoked.
OF_THE_CA = frozenset({"cert_revocation", "cert_ocspURL", "cert_crlDistributionPoints"})
_LIFE = datetime.timedelta(days=90)  # as public CAs give
# What the server behind says for itself; its absence would be a finding about the server.
_ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\nContent-Security-Policy: default-src 'none'\r\n"
    b"X-Frame-Options: DENY\r\nX-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n\r\n"
    b"answered"
)


async def _serve(port: int) -> None:
    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(_ANSWER)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(connection, "127.0.0.1", port)
    await server.serve_forever()


def examine(port: int, ca: Path, folder: Path) -> list[dict[str, str]]:
    """All of testssl's findings about a port of 127.0.0.1."""
    found = folder / "findings.json"
    command = ["testssl", "--warnings", "batch", "--ip", "127.0.0.1", "--nodns", "none", "--color", "0"]
    command += ["--add-ca", str(ca), "--jsonfile", str(found), f"localhost:{port}"]
    with (folder / "testssl.log").open("wb") as log:
        subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=1800, check=False)
    findings: list[dict[str, str]] = json.loads(found.read_text())
    return findings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    options = parser.parse_args()
    if shutil.which("testssl") is None:
        parser.error("testssl.sh is not installed (apt-get install testssl.sh)")
    folder = Path(tempfile.mkdtemp(prefix="pylb-bench-"))
    ca = trustme.CA()
    ca.cert_pem.write_to_path(folder / "ca.pem")
    now = datetime.datetime.now(datetime.UTC)
    certificate = ca.issue_cert("localhost", "127.0.0.1", not_before=now, not_after=now + _LIFE)
    certificate.private_key_and_cert_chain_pem.write_to_path(folder / "cert.pem")
    port = free_port()
    tls = f'tls = {{certificates = "{folder}/cert.pem", hsts = 31536000}}\n'
    try:
        with in_front_of(_serve, folder, frontend("f", port, tls)):
            console.log("testssl is at work; this takes minutes")
            findings = examine(port, folder / "ca.pem", folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    weak = [one for one in findings if one["severity"] in WEAK and one["id"] not in OF_THE_CA]
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "tls.json").write_text(
        json.dumps({"machine": machine(), "findings": findings}, indent=1) + "\n"
    )
    counted = Counter(one["severity"] for one in findings).most_common()
    version = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", "testssl.sh"], capture_output=True)
    lines = [
        "# TLS as testssl.sh sees it",
        "",
        f"Written by `python -m bench.tls_report`. {in_words()}; testssl.sh: {version.stdout.decode()}.",
        "",
        f"{len(findings)} findings ({', '.join(f'{count} {name}' for name, count in counted)}). "
        f"**{len(weak)} weaknesses of medium severity or higher.** What is neither good nor neutral:",
        "",
        "| severity | check | finding | |",
        "|---|---|---|---|",
    ]
    for one in findings:
        if one["severity"] in ("LOW", "WARN", "FATAL", *WEAK):
            why = "the CA made for this test has none" if one["id"] in OF_THE_CA else ""
            lines.append(f"| {one['severity']} | {one['id']} | {one['finding']} | {why} |")
    (options.out / "tls.md").write_text("\n".join(lines) + "\n")
    console.print("\n".join(lines))
    sys.exit(bool(weak) or len(findings) < 100)


if __name__ == "__main__":
    main()
