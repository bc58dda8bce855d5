"""An outcome as ``explain`` tells it: as text for people, or as an object for programs.

Floor: above `dryrun`. Places of keys are passed in.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pylb.config.model import Config, Rule
from pylb.config.positions import Location
from pylb.config.sources import Places
from pylb.explain.dryrun import Outcome, by_request
from pylb.explain.request import Request

_SHOWN_OF_BODY = 200
"""Characters."""


def described(config: Config, places: Places, request: Request, outcome: Outcome) -> dict[str, Any]:
    """The outcome as an object; keys that say nothing are left out."""
    number = next(at for at, one in enumerate(config.frontends) if one.name == outcome.frontend)
    frontend = config.frontends[number]
    rules = []
    for step in outcome.steps:
        at: Location = ("frontend", number, "rule", step.rule)
        place = places.of((*at, "match", *step.failed.split(".")) if step.failed else at)
        rule: dict[str, Any] = {"rule": step.rule, "place": place, "matches": not step.failed}
        if step.failed:
            rule["failed"] = step.failed
        else:
            rule["does"] = actions(frontend.rules[step.rule])
        rules.append(rule)
    found: dict[str, Any] = {
        "request": _asked(request),
        "frontend": {"name": frontend.name, "place": places.of(("frontend", number))},
        "rules": rules,
        "rules_not_reached": len(frontend.rules) - len(outcome.steps),
    }
    if outcome.rule >= 0:
        found["ended_by"] = outcome.rule
    if outcome.backend:
        which = next(at for at, one in enumerate(config.backends) if one.name == outcome.backend)
        backend: dict[str, Any] = {"name": outcome.backend, "place": places.of(("backend", which))}
        if outcome.shares:
            backend["by_chance"] = outcome.shares
        found["backend"] = backend
        found["servers"] = list(outcome.servers)
        found["balance"] = config.backends[which].balance
        if outcome.cookie:
            found["kept_by"] = outcome.cookie
        if not request.raw:
            found["sent"] = {
                "method": request.method,
                "target": outcome.target,
                "headers": [list(pair) for pair in outcome.request_headers],
            }
    else:
        found["answer"] = {"status": outcome.status} if outcome.status else {"dropped": True}
        if outcome.refused:
            found["answer"]["refused"] = outcome.refused
        if outcome.response_headers:
            found["answer"]["headers"] = [list(pair) for pair in outcome.response_headers]
        if outcome.body:
            found["answer"]["body"] = outcome.body.decode("utf-8", "backslashreplace")
    return found


def _asked(request: Request) -> dict[str, Any]:
    asked: dict[str, Any] = {"url": request.url, "from": request.source}
    if request.raw:
        return asked | ({"alpn": list(request.alpn)} if request.alpn else {})
    return {"method": request.method} | asked


def actions(rule: Rule) -> dict[str, Any]:
    """What a rule does, as it stands in the file."""
    return rule.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude={"match"}, fallback=str)


def text(found: dict[str, Any]) -> str:
    """What `described` gives, for people."""
    return "\n".join(_lines(found))


def _lines(found: dict[str, Any]) -> Iterator[str]:
    asked = found["request"]
    what = f"request   {asked['method']} " if "method" in asked else "connects  "
    yield f"{what}{asked['url']} from {asked['from']}"
    yield f"frontend  {found['frontend']['name']}  ({found['frontend']['place']})"
    names = [f"rule[{rule['rule']}]" for rule in found["rules"]]
    width = max(map(len, names), default=0)
    for name, rule in zip(names, found["rules"], strict=True):
        said = f"no: {rule['failed']}" if not rule["matches"] else "matches"
        if rule["rule"] == found.get("ended_by"):
            said += ", and is the last one"
        yield f"  {name:{width}}  {rule['place']}  {said}"
        for key, value in rule.get("does", {}).items():
            yield f"  {'':{width}}    {key} = {_inline(value)}"
    if found["rules_not_reached"]:
        yield f"  {found['rules_not_reached']} more, not reached"
    if "backend" in found:
        yield from _passed(found)
    else:
        yield from _answered(found["answer"])


def _passed(found: dict[str, Any]) -> Iterator[str]:
    backend, servers, balance = found["backend"], found["servers"], found["balance"]
    yield f"backend   {backend['name']}  ({backend['place']})"
    if "by_chance" in backend:
        shares = backend["by_chance"]
        whole = sum(shares.values())
        parts = (f"{name} {100 * weight / whole:g} %" for name, weight in shares.items())
        yield f"          by chance: {', '.join(parts)}"
    if "kept_by" in found:
        yield f"server    {servers[0]}, by the cookie {found['kept_by']}"
    elif len(servers) == 1:
        yield f"server    {servers[0]}" + (f", by {balance}" if by_request(balance) else "")
    else:
        yield (
            f"server    one of {', '.join(servers)}, by {balance}"
            if servers
            else "server    none has a weight"
        )
    if "sent" in found:
        sent = found["sent"]
        yield f"sent      {sent['method']} {sent['target']}"
        yield from _fields(sent["headers"])


def _answered(answer: dict[str, Any]) -> Iterator[str]:
    if "status" not in answer:
        yield "answer    none: the connection is closed"
        return
    why = f", refused: {answer['refused']}" if "refused" in answer else ""
    yield f"answer    {answer['status']}{why}"
    yield from _fields(answer.get("headers", []))
    body = answer.get("body", "")
    if body:
        shown = body[:_SHOWN_OF_BODY].rstrip().replace("\n", "\n          ")
        yield f"\n          {shown}" + ("…" if len(body) > _SHOWN_OF_BODY else "")


def _fields(pairs: list[list[str]]) -> Iterator[str]:
    return (f"          {name}: {value}" for name, value in pairs)


def _inline(value: Any) -> str:
    """A value as it may stand in a TOML file, on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)} = {_inline(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _key(name: str) -> str:
    bare = name.isascii() and name.replace("-", "").replace("_", "").isalnum()
    return name if bare else json.dumps(name, ensure_ascii=False)
