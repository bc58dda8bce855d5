"""``python -m bench.h2spec``: what h2spec finds at pylb, HAProxy and nginx, over TLS before the same server.

h2spec (github.com/summerwind/h2spec) tries RFC 9113's and RFC 7541's rules one by one. It is built from its
source with Debian's packages, offline: ``golang-go golang-golang-x-net-dev golang-github-fatih-color-dev
golang-github-spf13-cobra-dev``, the source in a GOPATH, and ``GO111MODULE=off go build ./cmd/h2spec`` with
``/usr/share/gocode`` in GOPATH, too.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from xml.etree import ElementTree

from bench.rig import origins, peers
from bench.rig.command import need, parser
from bench.rig.peers import Site
from bench.rig.report import in_words, write

NAMES = ("pylb", "haproxy", "nginx")


@dataclass(frozen=True)
class Verdict:
    """What h2spec has found at one of them."""

    passed: int
    failed: list[str]
    skipped: list[str]

    @property
    def cases(self) -> int:
        """How many there are."""
        return self.passed + len(self.failed) + len(self.skipped)


def read(report: str) -> Verdict:
    """h2spec's report in JUnit's form."""
    failed, skipped, passed = [], [], 0
    for case in ElementTree.fromstring(report).iter("testcase"):
        name = f"{case.get('package', '')} {case.get('classname', '')}".strip()
        if case.find("failure") is not None or case.find("error") is not None:
            failed.append(name)
        elif case.find("skipped") is not None:
            skipped.append(name)
        else:
            passed += 1
    return Verdict(passed, failed, skipped)


def ask(binary: str, port: int, folder: Path) -> Verdict:
    """Have h2spec try what listens on a port.

    Raises:
        RuntimeError: it has tried nothing.
    """
    report = folder / f"h2spec-{port}.xml"
    command = [binary, "-h", "127.0.0.1", "-p", str(port), "-t", "-k", "-P", "/small", "-o", "2"]
    done = subprocess.run(
        [*command, "--strict", "-j", str(report)], capture_output=True, text=True, timeout=600
    )
    if not report.exists():
        raise RuntimeError(done.stdout + done.stderr)
    return read(report.read_text())


def page(verdicts: dict[str, Verdict], versions: dict[str, str]) -> list[str]:
    """The results as Markdown."""
    lines = [
        "# h2spec over TLS",
        "",
        f"Written by `python -m bench.h2spec`. {in_words()}. Strict cases included.",
        "",
        "| | version | cases | passed | failed | skipped |",
        "|---|---|---|---|---|---|",
    ]
    for name, one in verdicts.items():
        lines.append(
            f"| {name} | {versions[name]} | {one.cases} | **{one.passed}** | {len(one.failed)} | "
            f"{len(one.skipped)} |"
        )
    for name, one in verdicts.items():
        for what, cases in (("failed", one.failed), ("skipped", one.skipped)):
            if cases:
                lines += ["", f"{name}, {what}:", "", *(f"- {case}" for case in cases)]
    return lines


def _options() -> argparse.ArgumentParser:
    options = parser(__doc__)
    options.add_argument("--h2spec", default="h2spec", metavar="PROGRAM", help="where it is [h2spec]")
    return options


def main() -> None:
    options = _options()
    chosen = options.parse_args()
    need(options, "haproxy", "nginx")
    verdicts: dict[str, Verdict] = {}
    with tempfile.TemporaryDirectory(prefix="pylb-bench-") as text:
        folder = Path(text)
        folder.chmod(0o755)
        with origins.nginx(folder / "servers", ()) as (_, servers):
            for name in NAMES:
                site = Site.with_tls(servers)
                with peers.running(name, folder / name, site):
                    try:
                        verdicts[name] = ask(chosen.h2spec, site.tls_port, folder)
                    except FileNotFoundError:
                        options.error(f"--h2spec: there is no program {chosen.h2spec!r} (see --help)")
    found = peers.versions(*NAMES)
    results = {name: asdict(one) | {"version": found[name]} for name, one in verdicts.items()}
    write("h2spec", results, page(verdicts, found), chosen.out)
    sys.exit(bool(verdicts["pylb"].failed))


if __name__ == "__main__":
    main()
