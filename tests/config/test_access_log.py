"""The keys of access logs: what is a mistake, and what a frontend has of its own and of the general ones."""

from __future__ import annotations

from typing import Any

import pytest

from pylb.config.accesslog import AccessLog, in_force
from pylb.config.load import ConfigError, from_document


def _document(general: Any = None, own: Any = None, mode: str = "http") -> dict[str, Any]:
    frontend = {"name": "f", "bind": "127.0.0.1:1", "backend": "b", "mode": mode}
    document: dict[str, Any] = {"backend": [{"name": "b", "server": ["127.0.0.1:9"]}]}
    document["frontend"] = [frontend | ({} if own is None else {"access_log": own})]
    return document | ({} if general is None else {"log": {"access": general}})


def _log(general: Any = None, own: Any = None) -> AccessLog | None:
    config = from_document(_document(general, own))
    return in_force(config.log.access, config.frontends[0].access_log)


def test_without_a_word_there_is_none() -> None:
    assert _log() is None
    assert _log({"enabled": False}) is None
    assert _log("stdout", False) is None


def test_keys_of_a_frontend_go_before_the_general_ones() -> None:
    general = {"to": "/var/log/a", "format": "json", "sample": 0.5}
    log = _log(general, {"sample": 1, "when": {"status": "5xx"}})
    assert log is not None
    assert (log.to, log.format, log.sample, len(log.when)) == ("/var/log/a", "json", 1.0, 1)
    assert _log({**general, "enabled": False}, {"sample": 0.1}) is not None
    assert _log(general, True) == _log(general)


def test_a_destination_alone() -> None:
    log = _log(own="/var/log/b")
    assert log is not None and (log.to, log.format) == ("/var/log/b", "haproxy")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"format": "common"}, 'log.access.format: expected "haproxy", "combined", "json" or a template'),
        ({"format": "{stat}"}, "log.access.format: no variable 'stat'; there are client.ip"),
        ({"to": ""}, "log.access.to: expected"),
        ({"to": "syslog:x"}, "log.access.to: 'x' is not an address"),
        ({"to": "syslog:127.0.0.1:0"}, "the port of a syslog server"),
        ({"sample": 0}, "log.access.sample: "),
        ({"sample": 1.5}, "log.access.sample: "),
        ({"when": {"status": "6xx"}}, 'log.access.when[0].status[0]: expected a status such as 404, "5xx"'),
        ({"when": {"slower": "soon"}}, "log.access.when[0].slower: expected seconds or a duration"),
        ({"when": {"stat": 1}}, "log.access.when[0].stat: unknown key; allowed: failed, slower, status"),
        ({"request_headers": ["a b"]}, "log.access.request_headers[0]: no variable"),
        ({"facility": "local9"}, "log.access.facility"),
        ({"tag": "a b"}, "log.access.tag"),
        ({"format": "combined", "request_headers": ["a"]}, "frontend[0].access_log: request_headers and"),
        ({"file": "x"}, "log.access.file: unknown key"),
    ],
)
def test_mistakes(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        from_document(_document(given))
    assert said in error.value.problems[0]


def test_tcp_mode_has_no_requests() -> None:
    from_document(_document("stdout", mode="tcp"))
    for given in ({"format": "combined"}, {"request_headers": ["a"]}):
        with pytest.raises(ConfigError) as error:
            from_document(_document(given, mode="tcp"))
        assert 'mode = "http"' in error.value.problems[0]
