"""``python -m bench.tls_report``: what testssl.sh finds at a listener with the default TLS settings.

A balancer gets a certificate of a CA made for the occasion; testssl.sh knows that CA (``--add-ca``) and tries
protocols, ciphers, known attacks and HTTP over TLS. Needs testssl.sh (``apt-get install testssl.sh``).
Exit code 1 if it finds a weakness of medium severity or higher.

``--handshakes``: in place of that, what a handshake costs beside HAProxy and nginx, with a session to resume
and without (`bench.handshakes`). Needs haproxy, nginx and taskset.
"""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import trustme

from bench import handshakes
from bench.rig.balancer import Balancer, backend, free_port, frontend
from bench.rig.command import console, need, parser
from bench.rig.origins import origin, response
from bench.rig.report import in_words, write

WEAK = ("MEDIUM", "HIGH", "CRITICAL")
# A CA made for the occasion has nowhere to ask whether a certificate was revoked.
OF_THE_CA = frozenset({"cert_revocation", "cert_ocspURL", "cert_crlDistributionPoints"})
_LIFE = datetime.timedelta(days=90)  # as public CAs give
# What the server behind says for itself; its absence would be a finding about the server.
_ANSWER = response(
    b"answered",
    b"Content-Security-Policy: default-src 'none'\r\nX-Frame-Options: DENY\r\n"
    b"X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n",
)


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
    options = parser(__doc__)
    options.add_argument("--handshakes", action="store_true", help="what they cost, in place of that")
    options.add_argument("--turns", type=int, default=5, help="of handshakes, per balancer and kind [5]")
    chosen = options.parse_args()
    if chosen.handshakes:
        need(options, "haproxy", "nginx", "taskset")
        write("handshakes", *handshakes.run(chosen.turns), chosen.out)
        return
    need(options, "testssl")
    ca = trustme.CA()
    now = datetime.datetime.now(datetime.UTC)
    certificate = ca.issue_cert("localhost", "127.0.0.1", not_before=now, not_after=now + _LIFE)
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="pylb-bench-") as name, origin(_ANSWER) as server:
        folder = Path(name)
        ca.cert_pem.write_to_path(folder / "ca.pem")
        certificate.private_key_and_cert_chain_pem.write_to_path(folder / "cert.pem")
        tls = f'tls = {{certificates = "{folder}/cert.pem", hsts = 31536000}}\n'
        text = "workers = {min = 1, max = 1}\n" + frontend("f", port, tls) + backend("b", [server])
        with Balancer(text=text):
            console.log("testssl is at work; this takes minutes")
            findings = examine(port, folder / "ca.pem", folder)
    weak = [one for one in findings if one["severity"] in WEAK and one["id"] not in OF_THE_CA]
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
    notable = [one for one in findings if one["severity"] in ("LOW", "WARN", "FATAL", *WEAK)]
    for one in notable:
        why = "the CA made for this test has none" if one["id"] in OF_THE_CA else ""
        lines.append(f"| {one['severity']} | {one['id']} | {one['finding']} | {why} |")
    write("tls", {"counted": dict(counted), "findings": notable}, lines, chosen.out)
    sys.exit(bool(weak) or len(findings) < 100)


if __name__ == "__main__":
    main()
