"""When a reload begins, and when it doesn't; how one goes, `test_arbiter` and `test_survival` show."""

from __future__ import annotations

from typing import Any, cast
from unittest.mock import Mock

import pytest

from pylb.config.load import quick
from pylb.supervisor import reload as reload_
from pylb.supervisor.fleet import Fleet
from pylb.supervisor.generations import Generation
from pylb.supervisor.guard import Guard
from pylb.supervisor.indices import NoRoom
from pylb.supervisor.reload import Reload


def test_a_reload_that_waits_is_refused_once_a_stop_is_announced(caplog: pytest.LogCaptureFixture) -> None:
    config = quick(["127.0.0.1:0"], ["127.0.0.1:9"])
    announced = False
    fleet = Mock(Fleet, stopping=False, short="", failed_starts=0)
    fleet.newest = fleet.served = Generation(1, config, cast(Any, None), cast(Any, None))
    reload = Reload(lambda: config, fleet, Mock(), Mock(), Mock(), Guard(), lambda: announced, lambda: False)
    reload.pending = Mock()
    reload.start()  # another one is under way
    announced = True
    reload.flipped()
    for _ in range(3):
        reload.check()
    assert [record.getMessage() for record in caplog.records] == ["reload refused: a stop was ordered"]
    assert reload.result == {"ok": False, "errors": ["a stop was ordered"]}


def test_a_reload_waits_for_room_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers of the last one may be known to processes still; what has no room even then is refused."""
    config = quick(["127.0.0.1:0"], ["127.0.0.1:9"])
    pending = Mock()
    pending.prepare.side_effect = NoRoom("more than 512 servers")
    monkeypatch.setattr(reload_, "Pending", Mock(return_value=pending))
    clock = 100.0
    monkeypatch.setattr(reload_, "time", Mock(monotonic=lambda: clock))
    fleet = Mock(Fleet, stopping=False, short="", failed_starts=0)
    fleet.newest = fleet.served = Generation(1, config, cast(Any, None), cast(Any, None))
    reload = Reload(lambda: config, fleet, Mock(), Mock(), Mock(), Guard(), lambda: False, lambda: True)
    reload.start()
    for _ in range(3):
        reload.check()
    assert reload.result["ok"] and pending.abandon.call_count == 4
    clock += 10
    reload.check()
    assert reload.result == {"ok": False, "errors": ["more than 512 servers"]}
    reload.check()
    assert pending.prepare.call_count == 5
