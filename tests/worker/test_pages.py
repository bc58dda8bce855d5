"""Error pages, and requests that are dropped, as the exchange tells its two sides."""

from __future__ import annotations

import pytest

from pylb.config.model import ErrorPage
from pylb.worker.frontend import DROP
from pylb.worker.reasons import Reason
from tests.worker.scene import Scene
from tests.worker.stand_ins import OK, STREAM, response_head

BAD = response_head(b"HTTP/1.1 502 B\r\nContent-Length: 6\r\n\r\n")
BUSY = response_head(b"HTTP/1.1 503 B\r\nContent-Length: 2\r\n\r\n")

PAGES = (
    ErrorPage(status=(503,), body="own"),
    ErrorPage(status=(502,), body="both", servers=True),
)


@pytest.mark.parametrize("whole", [True, False])
def test_a_page_in_place_of_a_servers_response(monkeypatch: pytest.MonkeyPatch, whole: bool) -> None:
    scene = Scene(monkeypatch, error_pages=PAGES)
    scene.request()
    server = scene.server
    scene.tell(scene.exchange.response, BAD, b"secret", 0, whole)
    account = scene.over()
    assert (account["status"], account["own"], account["reason"]) == (502, True, None)
    assert account["bytes_out"] == len("both")
    assert server.words()[-1] == ("release" if whole else "abort")
    assert scene.count["REQUESTS"] == 1


def test_other_responses_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    for head in (OK, STREAM, BUSY):
        scene = Scene(monkeypatch, error_pages=PAGES)
        scene.request()
        scene.tell(scene.exchange.response, head, b"ok", 0, True)
        assert scene.over()["own"] is False


def test_a_page_for_an_error_of_pylbs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, pooled=False, retries=0, error_pages=PAGES)
    scene.request()
    scene.connect(ConnectionRefusedError())
    account = scene.over()
    assert (account["status"], account["own"], account["reason"]) == (503, True, Reason.CONNECT_FAILED)
    assert account["bytes_out"] == len("own")


def test_a_dropped_request_ends_without_a_response(scene: Scene) -> None:
    scene.phases(DROP)
    scene.request()
    account = scene.over()
    assert (account["reason"], account["state"], account["local"]) == (Reason.REFUSED, "R", True)
    assert scene.client.told[-1] == ("abort", Reason.CUT)
