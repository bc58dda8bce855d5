"""The operator's changes of servers, and what comes of them in files' and discovered servers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pylb.config.load import from_document
from pylb.config.model import Backend, Config
from pylb.scoreboard import Scoreboard
from pylb.servers import Table
from pylb.supervisor import statefile
from pylb.supervisor.overlay import Overlay, Refused
from pylb.supervisor.servers import Servers


def config(*servers: Any, backend: str = "web", **more: Any) -> Config:
    return from_document(
        {
            "frontend": [{"name": "f", "bind": "127.0.0.1:0", "backend": backend}],
            "backend": [{"name": backend, "server": list(servers), **more}],
        }
    )


class Made:
    """Lists of one configuration."""

    def __init__(self, *servers: Any, overlay: Overlay | None = None, **more: Any) -> None:
        self.board = Scoreboard(1, 16)
        self.table = Table(self.board)
        self.config = config(*servers, **more)
        self.servers = Servers(self.board, self.config, overlay)
        self.servers.serves(self.config)

    def change(self, server: str, backend: str = "web", **what: Any) -> tuple[str, bool]:
        return self.servers.change(backend, server, what, [self.config])

    def names(self) -> dict[str, str]:
        return {one.config.name: str(one.config.address) for one in self.servers.lists(self.config)["web"]}

    def index(self, server: str) -> int:
        return next(one.index for one in self.servers.lists(self.config)["web"] if one.config.name == server)

    def state(self, server: str) -> tuple[str, int]:
        index = self.index(server)
        return self.table.state(index), self.table.weight(index, 1)


TWO = ("10.0.0.1:80", "10.0.0.2:80")


def test_states_and_numbers_are_written_to_the_table() -> None:
    made = Made(*TWO)
    assert made.change("s1", state="drain", weight=5) == ("web/s1: state drain, weight 5", False)
    assert made.state("s1") == ("draining", 5) and made.state("s2") == ("unchecked", 1)
    made.change("s1", state="maintenance", weight=None)
    assert made.state("s1") == ("maintenance", 1)
    made.change("s1", state="ready", health="down")
    assert made.state("s1")[0] == "down"
    made.change("s1", health="off")
    assert made.state("s1")[0] == "up"
    assert made.change("s1", restore=True)[0] == "web/s1 is as the configuration says"
    assert made.state("s1") == ("unchecked", 1)


def test_servers_are_added_and_removed() -> None:
    made = Made(*TWO)
    assert made.change("", add={"address": "10.0.0.7:80", "weight": 3}) == ("web/s3 added", True)
    assert made.change("", add={"address": "10.0.0.8:80", "name": "x"})[0] == "web/x added"
    assert made.change("s1", remove=True)[1]
    assert made.names() == {"s2": TWO[1], "s3": "10.0.0.7:80", "x": "10.0.0.8:80"}
    assert [one.source for one in made.servers.lists(made.config)["web"]] == ["", "added", "added"]
    made.change("s1", restore=True)
    made.change("x", remove=True)
    assert made.names() == {"s1": TWO[0], "s2": TWO[1], "s3": "10.0.0.7:80"}


def test_another_address_is_another_server_with_the_same_changes() -> None:
    made = Made(*TWO)
    made.change("s1", state="drain")
    before = made.index("s1")
    assert made.change("s1", address="10.0.0.9:81") == ("web/s1: address 10.0.0.9:81", True)
    assert made.names()["s1"] == "10.0.0.9:81" and made.index("s1") != before
    assert made.state("s1")[0] == "draining"


@pytest.mark.parametrize(
    ("server", "what", "status", "said"),
    [
        ("s9", {"state": "drain"}, 404, "it has s1, s2"),
        ("s1", {"state": "gone"}, 400, "expected ready, drain, maintenance"),
        ("s1", {"weight": 257}, 400, "from 0 to 256"),
        ("s1", {"weight": True}, 400, "from 0 to 256"),
        ("s1", {"maxconn": -1}, 400, "0 for any"),
        ("s1", {"health": "up"}, 400, "expected on, off, down"),
        ("s1", {"address": "unix:/etc/x"}, 400, "only be set in the configuration's file"),
        ("s1", {"address": "nowhere:0"}, 400, "from 1 to 65535"),
        ("s1", {"tls": {"verify": False}}, 400, "no change is called 'tls'"),
        ("s1", {}, 400, "say what to change"),
        ("s1", {"restore": True}, 404, "nothing was changed"),
        ("", {"add": {"address": "10.0.0.1:80", "name": "s1"}}, 409, "has a server s1 already"),
        ("", {"add": {"address": "10.0.0.1:80", "name": "a/b"}}, 400, "letters, digits"),
        ("", {"add": {"address": "unix:/x"}}, 400, "only be set in the configuration's file"),
        ("", {"add": {"address": "10.0.0.1:80", "tls": 1}}, 400, "no key 'tls'"),
        ("", {"add": {}}, 400, "address"),
        ("", {"add": 3}, 400, "a table"),
    ],
)
def test_what_makes_no_sense_changes_nothing(
    server: str, what: dict[str, Any], status: int, said: str
) -> None:
    made = Made(*TWO)
    made.change("s2", weight=7)
    before = made.servers.overlay.document(), made.names()
    with pytest.raises(Refused) as refused:
        made.change(server, **what)
    assert refused.value.status == status and said in str(refused.value)
    assert (made.servers.overlay.document(), made.names()) == before
    with pytest.raises(Refused, match="there are web"):
        made.change(server, backend="wbe", **what)


def test_a_reload_keeps_changes_and_forgets_what_the_file_says_now() -> None:
    made = Made(*TWO)
    made.change("s1", weight=5, state="drain")
    made.change("", add={"address": "10.0.0.7:80", "name": "s7"})
    made.change("s2", remove=True)
    again = config({"address": TWO[0], "weight": 5}, TWO[1], {"address": "10.0.0.7:80", "name": "s7"})
    made.servers.prepare(again)
    assert made.servers.serves(again) == []
    assert made.servers.overlay.document() == {
        "web": {"said": {"s1": {"state": "drain"}}, "added": [], "removed": ["s2"]}
    }
    other = config("10.0.0.5:80", backend="api")
    made.servers.prepare(other)
    assert made.servers.serves(other) == ["backend web is gone, and with it the changes of its servers"]
    assert made.servers.overlay.document() == {}


def test_changes_survive_in_the_state_file(tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    path = str(tmp_path / "state")
    made = Made(*TWO)
    made.change("s1", weight=5, health="down", address="10.0.0.3:80")
    made.change("", add={"address": "10.0.0.7:80", "slow_start": 2})
    made.change("s2", remove=True)
    assert statefile.read(path).document() == {}
    file = statefile.StateFile()
    file.changed(made.servers.overlay)
    file.tick(path)
    read = statefile.read(path)
    assert read.document() == made.servers.overlay.document() != {}
    assert Made(*TWO, overlay=read).names() == made.names()
    assert [one.name for one in tmp_path.iterdir()] == ["state"]
    for text in ("{", "[]", '{"format": 9}', json.dumps({"format": 1, "servers": {"web": {"added": [{}]}}})):
        (tmp_path / "state").write_text(text)
        caplog.clear()
        assert statefile.read(path).document() == {}
        assert "can't be used" in caplog.text


def test_a_state_file_that_cannot_be_written_is_said_once(
    tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    file = statefile.StateFile()
    file.changed(Overlay())
    for _ in range(3):
        file.tick(str(tmp_path / "nowhere" / "state"))
    assert caplog.text.count("can't be written") == 1
    file.tick(str(tmp_path / "state"))
    assert (tmp_path / "state").exists()


def test_the_configurations_state_holds_until_the_operator_says_otherwise() -> None:
    made = Made({"address": TWO[0], "state": "maintenance"}, TWO[1])
    assert made.state("s1")[0] == "maintenance"
    made.change("s1", state="ready")
    assert made.state("s1")[0] == "unchecked"


def test_discovered_servers_can_be_changed_and_kept_out() -> None:
    made = Made(*TWO, discover=[{"dns": "app.internal:80"}])
    found = [
        {"name": "d1", "address": "10.1.0.1:80", "weight": 1},
        {"name": "d2", "address": "10.1.0.2:80", "weight": 1},
    ]
    assert made.servers.discovered("web", "dns", found, [made.config])
    assert not made.servers.discovered("web", "dns", found, [made.config])
    made.change("d1", remove=True)
    made.change("d2", state="drain")
    assert set(made.names()) == {"s1", "s2", "d2"} and made.state("d2")[0] == "draining"
    backend: Backend = made.config.backends[0]
    assert [one.source for one in made.servers.listed(backend)] == ["", "", "dns"]
