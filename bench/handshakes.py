"""Handshakes: what of ``python -m bench.tls_report --handshakes`` measures them.

A few clients in Python open connections, each for one request, with a session to resume or without. The
figure is the CPU time that the balancer (one worker, one thread) used for such a connection with its request,
beside the same of HAProxy and nginx with keys of the same kind, in turns. And how many of the sessions begun
with one of two workers are resumed: with any of them, and after a reload that brings a new certificate.
"""

from __future__ import annotations

import signal
import socket
import ssl
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from bench.rig import origins, peers
from bench.rig.balancer import Balancer
from bench.rig.command import console, in_turns
from bench.rig.peers import Site
from bench.rig.processes import cpu_seconds
from bench.rig.report import in_words, machine, spread
from bench.turns import BALANCERS, CLIENTS

_CONNECTIONS, _CLIENTS = 1_000, 5  # of a turn, and at once
_GET = b"GET /small HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
NAMES = ("haproxy", "nginx", "pylb")


def _context(version: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = version
    return context


def _connect(
    port: int, context: ssl.SSLContext, session: ssl.SSLSession | None
) -> tuple[ssl.SSLSession | None, bool]:
    """One connection with its request and all of the answer; the session that it gave, and whether it has
    resumed the one it was given."""
    raw = socket.create_connection(("127.0.0.1", port), timeout=20)
    with context.wrap_socket(raw, server_hostname="localhost", session=session) as sock:
        sock.sendall(_GET)
        while sock.recv(65536):
            pass
        return sock.session, bool(sock.session_reused)


def _turn(port: int, cpu: Callable[[], float], context: ssl.SSLContext, resumes: bool) -> dict[str, float]:
    """Microseconds of CPU per connection, and the share of those that were resumed."""

    def client(session: ssl.SSLSession | None) -> int:
        reused = 0
        for _ in range(_CONNECTIONS // _CLIENTS):
            given, again = _connect(port, context, session)
            reused += again
            if resumes:
                session = given
        return reused

    first = [_connect(port, context, None)[0] if resumes else None for _ in range(_CLIENTS)]
    before = cpu()
    with ThreadPoolExecutor(_CLIENTS) as pool:
        reused = sum(pool.map(client, first))
    return {"us": round(1e6 * (cpu() - before) / _CONNECTIONS, 1), "resumed": reused / _CONNECTIONS}


def _costs(turns: int) -> list[dict[str, Any]]:
    with (
        tempfile.TemporaryDirectory(prefix="pylb-bench-") as text,
        origins.nginx(Path(text, "servers"), CLIENTS) as (_, servers),
        peers.running(
            "haproxy", folder := Path(text, "haproxy"), first := Site.with_tls(servers), wrap=BALANCERS
        ) as haproxy,
        peers.running(
            "nginx", Path(text, "nginx"), second := Site.with_tls(servers), wrap=BALANCERS
        ) as nginx,
        Balancer(
            text=peers.ONE_WORKER + peers.pylb_text(folder, third := Site.with_tls(servers)), wrap=BALANCERS
        ) as pylb,
    ):
        (child,) = psutil.Process(nginx.process.pid).children()
        balancers = {
            "haproxy": (first.tls_port, partial(cpu_seconds, haproxy.process.pid)),
            "nginx": (second.tls_port, partial(cpu_seconds, child.pid)),
            "pylb": (third.tls_port, partial(cpu_seconds, pylb.workers()[0]["pid"])),
        }
        results = []
        for version, number in VERSIONS.items():
            for resumes in (False, True):
                seen: dict[str, list[dict[str, float]]] = {name: [] for name in NAMES}
                for _, name in in_turns(NAMES, turns):
                    seen[name].append(_turn(*balancers[name], _context(number), resumes))
                one: dict[str, Any] = {"version": version, "resumes": resumes}
                for name in NAMES:
                    one[name] = {key: spread(turn[key] for turn in seen[name]) for key in ("us", "resumed")}
                for name in NAMES[:2]:
                    pairs = zip(seen["pylb"], seen[name], strict=True)
                    one[f"over {name}"] = spread(ours["us"] / theirs["us"] for ours, theirs in pairs)
                console.log(f"TLS {version}, {resumes=}: {one['over haproxy']} of HAProxy")
                results.append(one)
        return results


def _share(port: int, context: ssl.SSLContext, session: ssl.SSLSession | None) -> float:
    """Of 100 connections with this session, how many have resumed it."""
    return sum(_connect(port, context, session)[1] for _ in range(100)) / 100


def _kept() -> dict[str, float]:
    """Shares of sessions that two workers resume, before and after a reload."""
    found = {}
    with tempfile.TemporaryDirectory(prefix="pylb-bench-") as text:
        folder = Path(text)
        with origins.nginx(folder / "servers") as (_, servers):
            peers.certificate(folder)
            site = Site.with_tls(servers)
            count = "workers = {min = 2, max = 2}\n"
            with Balancer(text=count + peers.pylb_text(folder, site)) as pylb:
                pylb.wait_workers(2)
                for version, number in VERSIONS.items():
                    context = _context(number)
                    session, _ = _connect(site.tls_port, context, None)
                    share = partial(_share, site.tls_port, context, session)
                    found[f"TLS {version}, two workers"] = share()
                    generation = pylb.workers()[0]["generation"]
                    peers.certificate(folder)
                    pylb.signal(signal.SIGHUP)
                    pylb.wait(
                        "reloaded",
                        lambda status, last=generation: len(status["workers"]) == 2
                        and all(one["generation"] > last for one in status["workers"]),  # type: ignore[misc]
                    )
                    found[f"TLS {version}, after a reload with a new certificate"] = share()
    return found


def run(turns: int) -> tuple[dict[str, Any], list[str]]:
    """The results, and their page."""
    costs, kept = _costs(turns), _kept()
    versions = peers.versions("haproxy", "nginx")
    told = "; ".join(f"{name}: {version}" for name, version in versions.items())
    lines = [
        "# TLS handshakes",
        "",
        f"Written by `python -m bench.tls_report --handshakes`. {in_words()}; {told}.",
        "",
        f"µs of CPU per connection with its handshake and one small request; medians of {turns} turns of "
        f"{_CONNECTIONS}, in brackets the extremes.",
        "",
        "| | HAProxy | nginx | pylb | pylb / HAProxy | pylb / nginx | resumed: HAProxy, nginx, pylb |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in costs:
        figures = " | ".join(f"{one[name]['us']['median']:.0f}" for name in NAMES)
        ratios = " | ".join(
            f"**{ratio['median']:.2f}** ({ratio['min']:.2f} to {ratio['max']:.2f})"
            for ratio in (one["over haproxy"], one["over nginx"])
        )
        shares = ", ".join(f"{100 * one[name]['resumed']['median']:.0f} %" for name in NAMES)
        what = "resumed" if one["resumes"] else "whole"
        lines.append(f"| TLS {one['version']}, {what} | {figures} | {ratios} | {shares} |")
    lines += ["", "Sessions begun with one of two workers that are resumed:", ""]
    lines += [f"- {what}: {100 * share:.0f} %" for what, share in kept.items()]
    return {"machine": machine() | versions, "costs": costs, "kept": kept}, lines
