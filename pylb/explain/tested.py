"""Tests that a configuration brings along: run by ``check``, at the start, and at a reload.

Floor: above `dryrun`, beside `show`. `load_tested` is how the command line reads a file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from pylb.config.case import Case
from pylb.config.load import ConfigError, Source, from_source, read_source
from pylb.config.model import Config
from pylb.config.positions import Location
from pylb.config.sources import Places
from pylb.excerpt import shown
from pylb.explain.dryrun import DryRun, Outcome
from pylb.explain.request import BadRequest, Request, headers_of


def load_tested(path: str | os.PathLike[str], **given: str | None) -> Config:
    """As `pylb.config.load.load_file`; a test that fails is a mistake, too."""
    return tested(read_source(path), **given)


def tested(source: Source, **given: str | None) -> Config:
    """The configuration of files that were read; raises as `load_tested`."""
    config = from_source(source, **given)
    problems = list(failures(config, source.places))
    if problems:
        raise ConfigError(problems, [source.places.of_problem(problem) for problem in problems])
    return config


def failures(config: Config, places: Places) -> Iterator[str]:
    """A line for each thing that a test has not found as expected; it begins with the key."""
    if not config.tests:
        return
    run = DryRun(config)
    for number, case in enumerate(config.tests):
        key = f"test[{number}]"
        try:
            request = request_of(case)
            outcome = run.ask(request, case.frontend or "")
        except BadRequest as error:
            yield f"{key}.{error.key}: {error}"
            continue
        asked = shown(case.url, 200) if request.raw else f"{case.method} {shown(case.url, 200)}"
        for name, expected, got in differences(case, outcome):
            why = _why(config, places, case, outcome)
            yield f"{key}.expect.{name}: {asked}: expected {expected}, got {got} ({why})"


def request_of(case: Case) -> Request:
    """The request of a test; raises BadRequest."""
    return Request(case.url, case.method, headers_of(case.headers), case.source, case.alpn)


def differences(case: Case, outcome: Outcome) -> Iterator[tuple[str, str, str]]:
    """(key below ``expect``, what was expected, what came) for each that isn't as it should be."""
    expect = case.expect
    if expect.backend is not None and expect.backend not in (outcome.shares or {outcome.backend}):
        yield "backend", repr(expect.backend), _end(outcome)
    if expect.server is not None and outcome.servers != (expect.server,):
        got = _end(outcome) if not outcome.backend else f"one of {', '.join(outcome.servers) or 'none'}"
        yield "server", repr(expect.server), repr(outcome.servers[0]) if len(outcome.servers) == 1 else got
    if expect.status is not None and expect.status != outcome.status:
        yield "status", str(expect.status), _end(outcome)
    dropped = not outcome.backend and not outcome.status
    if expect.drop is not None and expect.drop is not dropped:
        yield "drop", "no answer" if expect.drop else "an answer", _end(outcome)
    if expect.path is not None:
        got = outcome.target if "?" in expect.path else outcome.target.partition("?")[0]
        if got != expect.path:
            yield "path", repr(expect.path), repr(got) if outcome.backend else _end(outcome)
    for key, headers in (
        ("request_headers", outcome.request_headers),
        ("response_headers", outcome.response_headers),
    ):
        for name, wanted in getattr(expect, key).items():
            values = tuple(value for one, value in headers if one.lower() == name.lower())
            if values != wanted if not isinstance(wanted, bool) else bool(values) is not wanted:
                yield f"{key}.{name}", _values(wanted), _values(values) if values else "none"


def _values(wanted: Sequence[str] | bool) -> str:
    if isinstance(wanted, bool):
        return "any" if wanted else "none"
    return ", ".join(map(repr, wanted)) or "none"


def _end(outcome: Outcome) -> str:
    """What has become of the request, in a few words."""
    if outcome.shares:
        return f"one of {', '.join(map(repr, outcome.shares))}"
    if outcome.backend:
        return f"backend {outcome.backend!r}"
    if not outcome.status:
        return "no answer"
    return f"status {outcome.status}" + (f", refused: {outcome.refused}" if outcome.refused else "")


def _why(config: Config, places: Places, case: Case, outcome: Outcome) -> str:
    """Which rule has decided, and which one, that leads where it should have gone, has not matched."""
    number = next(at for at, one in enumerate(config.frontends) if one.name == outcome.frontend)
    rules: Location = ("frontend", number, "rule")
    why = f"no rule of {outcome.frontend} has ended it"
    if outcome.rule >= 0:
        why = f"by rule[{outcome.rule}], {places.of((*rules, outcome.rule))}"
    for step in outcome.steps:
        section = config.frontends[number].rules[step.rule]
        if step.failed and case.expect.backend and case.expect.backend in (section.backend, *section.split):
            place = places.of((*rules, step.rule, "match", *step.failed.split(".")))
            return f"{why}; rule[{step.rule}] has not matched: {step.failed}, {place}"
    return why
