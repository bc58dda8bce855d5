"""Caddy as a peer: a Caddyfile with one address per site, and as many idle connections to servers as others
keep.

Source: https://caddyserver.com/docs/caddyfile
"""

from __future__ import annotations

from pathlib import Path

from bench.rig import unpacked
from bench.rig.site import Site


def command(folder: Path, *sites: Site, workers: int = 1) -> list[str]:
    """The command; ``workers`` is how many threads run Go code at a time.

    Raises:
        Missing: Caddy is not to be had.
    """
    text = "{\n  admin off\n  auto_https off\n  persist_config off\n}\n"
    for site in sites:
        proxied = (
            f"  bind 127.0.0.1\n  reverse_proxy {' '.join(site.servers)} {{\n    lb_policy round_robin\n"
            "    transport http {\n      keepalive_idle_conns_per_host 256\n    }\n  }\n}\n"
        )
        text += f"http://:{site.port} {{\n{proxied}"
        if site.tls_port:
            text += f"https://:{site.tls_port} {{\n  tls {folder}/cert.pem {folder}/key.pem\n{proxied}"
    (folder / "Caddyfile").write_text(text)
    line = ["env", f"GOMAXPROCS={workers}", f"HOME={folder}", unpacked.binary("caddy")]
    return [*line, "run", "--adapter", "caddyfile", "--config", f"{folder}/Caddyfile"]
