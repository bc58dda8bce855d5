"""Envoy as a peer: a configuration of one listener per site, without the request identifiers that the others
don't make either.

Source: https://www.envoyproxy.io/docs/envoy/latest/configuration/configuration
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.rig import unpacked
from bench.rig.site import Site

_TYPE = "type.googleapis.com/envoy"


def _socket(address: str) -> dict[str, Any]:
    host, _, port = address.rpartition(":")
    return {"socket_address": {"address": host, "port_value": int(port)}}


def _listener(name: str, port: int, cluster: str, tls: dict[str, Any] | None) -> dict[str, Any]:
    manager = {
        "@type": f"{_TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "use_remote_address": True,
        "generate_request_id": False,
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_TYPE}.extensions.filters.http.router.v3.Router"},
            }
        ],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": name,
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": cluster}}],
                }
            ]
        },
    }
    chain: dict[str, Any] = {
        "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    }
    if tls is not None:
        chain["transport_socket"] = {"name": "envoy.transport_sockets.tls", "typed_config": tls}
    address = _socket(f"127.0.0.1:{port}")
    return {"name": name, "address": address, "tcp_backlog_size": 4096, "filter_chains": [chain]}


def command(folder: Path, *sites: Site, workers: int = 1) -> list[str]:
    """The command.

    Raises:
        Missing: Envoy is not to be had.
    """
    file = {"filename": f"{folder}/both.pem"}
    tls = {
        "@type": f"{_TYPE}.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {
            "alpn_protocols": ["h2", "http/1.1"],
            "tls_certificates": [{"certificate_chain": file, "private_key": file}],
        },
    }
    listeners, clusters = [], []
    for number, site in enumerate(sites):
        name = f"b{number}"
        listeners.append(_listener(f"f{number}", site.port, name, None))
        if site.tls_port:
            listeners.append(_listener(f"t{number}", site.tls_port, name, tls))
        servers = [{"endpoint": {"address": _socket(one)}} for one in site.servers]
        clusters.append(
            {
                "name": name,
                "type": "STATIC",
                "lb_policy": "ROUND_ROBIN",
                "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": servers}]},
            }
        )
    document = {"static_resources": {"listeners": listeners, "clusters": clusters}}
    (folder / "envoy.json").write_text(json.dumps(document))
    line = [unpacked.binary("envoy"), "-c", f"{folder}/envoy.json", "--concurrency", str(workers)]
    return [*line, "--use-dynamic-base-id", "--log-level", "error"]
