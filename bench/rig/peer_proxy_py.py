"""proxy.py (PyPI) as a reverse proxy.

``python -m bench.rig.peer_proxy_py FOLDER WORKERS PORT TLS_PORT SERVER…``.

It has one port without and one with TLS only as two instances, so this starts both. With a thread for each
connection, because its default mode breaks at the second request of a connection that is kept alive
(2.4.10: the new server connection has the descriptor of the last one, which it still watches).
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from typing import Any

from proxy.http import Url
from proxy.http.server import ReverseProxyBasePlugin

from bench.rig.processes import DESCRIPTORS


class Everything(ReverseProxyBasePlugin):
    """All paths go to the servers."""

    def routes(self) -> list[Any]:
        return [r"/.*"]

    def handle_route(self, request: Any, pattern: Any) -> Any:
        server = random.choice(os.environ["SERVERS"].split()).encode()
        return Url.from_bytes(b"http://" + server + request.path)


def main() -> None:
    folder, workers, port, tls_port, *servers = sys.argv[1:]
    command = [
        *(sys.executable, "-m", "proxy", "--hostname", "127.0.0.1", "--enable-reverse-proxy"),
        *("--plugins", "bench.rig.peer_proxy_py.Everything", "--num-workers", workers),
        *("--num-acceptors", workers, "--timeout", "300", "--backlog", "4096", "--log-level", "ERROR"),
        *("--disable-http-proxy", "--threaded", "--open-file-limit", str(DESCRIPTORS)),
    ]
    environment = os.environ | {"SERVERS": " ".join(servers)}
    tls = ["--cert-file", f"{folder}/cert.pem", "--key-file", f"{folder}/key.pem"]
    subprocess.Popen([*command, "--port", tls_port, *tls], env=environment)
    os.execve(sys.executable, [*command, "--port", port], environment)


if __name__ == "__main__":
    main()
