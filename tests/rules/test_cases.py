"""The table of `tests.rules.cases` for rules alone, as HTTP/1 and HTTP/2 bring requests."""

from __future__ import annotations

from functools import cache

import pytest

from pylb.http.errors import Refused
from pylb.http.request import HeadLimits, RequestHead
from pylb.http2.fields import field
from pylb.http2.heads import request_head
from pylb.rules.decision import Rules, Step
from tests.rules.cases import CASES, SCENARIOS, Case
from tests.rules.requests import Facts, rules_of, seen


@cache
def rules(name: str) -> Rules:
    """A scenario's."""
    scenario = SCENARIOS[name]
    text, files = scenario.rules, {}
    for spelled, lines in scenario.maps.items():
        one, kind, *key = spelled.split(":")
        text += f'[[map]]\nname = "{one}"\nfile = "/f"\nkind = "{kind}"\n'
        text += "".join(f'key = "{some}"\n' for some in key)
        files[one] = lines.encode()
    return rules_of(text, files, **scenario.keys)


def heads(case: Case) -> dict[str, bytes]:
    """The request's head, as the dialects bring it."""
    lines = [f"{case.method} {case.target} HTTP/1.1", f"Host: {case.host}"]
    lines += [f"{name}: {value}" for name, value in case.fields]
    pseudo = [(":method", case.method), (":path", case.target), (":authority", case.host)]
    fields = [(name.lower(), value) for name, value in case.fields]
    pseudo.append((":scheme", "http"))
    encoded = [field(name.encode(), value.encode()) for name, value in [*pseudo, *fields]]
    return {
        "HTTP/1": "\r\n".join([*lines, "", ""]).encode(),
        "HTTP/2": request_head(encoded, True),
    }


def outcome(rules: Rules, case: Case, protocol: str, trace: list[Step] | None = None) -> str:
    """Of the request, brought by a dialect."""
    trusts = (lambda address: False) if "trusted_proxies" in SCENARIOS[case.scenario].keys else None
    head = RequestHead(b"127.0.0.1", b"127.0.0.1:80", b"http", HeadLimits(), trusts=trusts)
    head.read(heads(case)[protocol])
    view = seen(rules, head, Facts(source=("127.0.0.1", 5), protocol=protocol))
    try:
        decision = rules.decide(view, trace)
    except Refused as refused:
        return str(refused.status)
    assert decision.kind == "backend"
    return decision.backend


def test_there_are_many() -> None:
    assert len(CASES) >= 150
    assert len({(case.scenario, str(case)) for case in CASES}) == len(CASES)


@pytest.mark.parametrize("protocol", ["HTTP/1", "HTTP/2"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_request_leads_to(case: Case, protocol: str) -> None:
    assert outcome(rules(case.scenario), case, protocol) == case.outcome
    trace: list[Step] = []
    assert outcome(rules(case.scenario), case, protocol, trace) == case.outcome
