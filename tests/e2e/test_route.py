"""Requests go to a backend by host and path, whichever HTTP they come by."""

from __future__ import annotations

import http.client
from collections.abc import Iterator

import pytest

from bench.rig.balancer import Balancer, backend, free_port, frontend
from tests.e2e.http2client import Client
from tests.e2e.origin import Origin

ROUTES = """
[[frontend.route]]
path = "/api"
backend = "other"
[[frontend.route]]
host = "Other.example"
path = "/shop/"
backend = "other"
"""


@pytest.fixture(scope="module")
def sites() -> Iterator[tuple[Balancer, int, Origin, Origin]]:
    usual, other = Origin(), Origin()
    port = free_port()
    text = "workers = {min = 1, max = 1}\n" + frontend("f", port, ROUTES, "usual")
    text += backend("usual", [usual.address]) + backend("other", [other.address])
    with Balancer(text=text) as balancer:
        yield balancer, port, usual, other
    usual.stop()
    other.stop()


@pytest.mark.parametrize(
    ("host", "target", "routed"),
    [
        ("a", "/", False),
        ("a", "/api", True),
        ("a", "/api?x", True),
        ("a", "/api/x", True),
        ("a", "/apis", False),
        ("a", "/x/api", False),
        ("a", "/shop/x", False),
        ("other.EXAMPLE:81", "/shop/x", True),
        ("other.example.", "/shop?/", True),
        ("other.example", "/shopping", False),
        ("other.example", "/api/", True),
        ("a", "http://a/api", True),
    ],
)
def test_by_host_and_path(
    sites: tuple[Balancer, int, Origin, Origin], host: str, target: str, routed: bool
) -> None:
    _, port, usual, other = sites
    counts = len(usual.heads), len(other.heads)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", target, headers={"Host": host})
    assert connection.getresponse().status == 200
    connection.close()
    assert (len(usual.heads), len(other.heads)) == (counts[0] + (not routed), counts[1] + routed)


def test_streams_too(sites: tuple[Balancer, int, Origin, Origin]) -> None:
    _, port, usual, other = sites
    counts = len(usual.heads), len(other.heads)
    client = Client(port)
    for path in ("/api/1", "/elsewhere"):
        number = client.request(path)
        client.answer(number)
    client.sock.close()
    assert (len(usual.heads), len(other.heads)) == (counts[0] + 1, counts[1] + 1)


def test_of_two_requests_on_a_connection_each_has_its_own(
    sites: tuple[Balancer, int, Origin, Origin],
) -> None:
    _, port, usual, other = sites
    counts = len(usual.heads), len(other.heads)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    for path in ("/api/1", "/x", "/api/2", "/api/2"):
        connection.request("GET", path, headers={"Host": "a"})
        assert connection.getresponse().read() == path.encode()
    connection.close()
    assert (len(usual.heads), len(other.heads)) == (counts[0] + 1, counts[1] + 3)
