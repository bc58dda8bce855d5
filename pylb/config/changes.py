"""From a rule's actions to what `pylb.rules` runs: edits, rewriting, answers, pages.

Above `means`, below `routing`, which makes the rest of a rule. Whatever can't be made of them raises
`means.Unusable` with the key.
"""

from __future__ import annotations

import math
import mimetypes
from collections.abc import Iterator, Mapping, Sequence

from pylb.config.actions import Actions
from pylb.config.edits import CookieEdits, HeaderEdits, LocationRewrite, RouteTimeouts, When
from pylb.config.files import read_regular
from pylb.config.means import Means, named
from pylb.config.model import Config, Timeouts
from pylb.config.replies import Body, ErrorPage, Redirect, Reply
from pylb.http.response import ResponseHead
from pylb.rules import answers, cookies, edits, match, rewrite
from pylb.rules.decision import Ending
from pylb.rules.edits import Handler
from pylb.rules.plan import Changes, OnResponse
from pylb.rules.plan import When as WhenTest
from pylb.rules.regex import TooLong
from pylb.rules.view import View

LARGEST_BODY = 1024 * 1024
"""Bytes of a file that is answered."""


def read_bodies(config: Config) -> dict[str, bytes]:
    """What the files of answers and error pages hold, by their path.

    Raises:
        Unusable: a file can't be read.
    """
    bodies: dict[str, bytes] = {}
    for key, body in _bodies(config):
        if body.file is not None:
            with named(f"{key}.file"):
                try:
                    bodies[body.file] = read_regular(body.file, LARGEST_BODY)
                except OSError as error:
                    raise ValueError(f"{body.file}: {error.strerror or error}") from None
    return bodies


def _bodies(config: Config) -> Iterator[tuple[str, Body]]:
    """What is answered, with its key."""
    for number, frontend in enumerate(config.frontends):
        of = f"frontend[{number}]"
        for position, page in enumerate(frontend.error_pages):
            yield f"{of}.error_page[{position}]", page
        for at, rule in enumerate(frontend.rules):
            if rule.answer is not None:
                yield f"{of}.rule[{at}].answer", rule.answer
            for position, page in enumerate(rule.error_pages):
                yield f"{of}.rule[{at}].error_page[{position}]", page


def changes(section: Actions, means: Means) -> Changes | None:
    """What a rule changes; None where it changes nothing."""
    made = Changes(
        tuple(_rewrite(section, means)),
        _request(section, means),
        tuple(_responses(section, means)),
        pages(section.error_pages, means.bodies),
        waits(section.timeouts),
        section.body_bytes,
        section.priority,
    )
    return made or None


def reply(section: Actions, means: Means) -> Ending | None:
    """How a rule answers by itself; None where it doesn't."""
    if section.redirect is not None:
        with named("redirect.to"):
            return Ending("redirect", action=_redirect(section.redirect, means))
    if section.answer is not None:
        with named("answer"):
            return Ending("answer", action=_answer(section.answer, means))
    if section.deny is not None:
        return Ending("deny", action=answers.deny(section.deny))
    return Ending("drop") if section.drop else None


def with_waits(timeouts: Timeouts, waits: Mapping[str, float]) -> Timeouts:
    """The same, but for some, in seconds by their key."""
    return timeouts.model_copy(update=dict(waits)) if waits else timeouts


def waits(section: RouteTimeouts | None) -> dict[str, float]:
    """The timeouts that a section sets, in seconds by their key."""
    return {} if section is None else section.model_dump(exclude_none=True)


BETWEEN_REQUESTS = ("request", "client", "keep_alive", "server_idle", "tunnel", "http2_ping")
"""Keys of the timeouts that a connection has without a request under way."""


def shortest(config: Config, *keys: str) -> float:
    """The shortest of all timeouts, or of those with these keys, in seconds."""
    rules = [rule for frontend in config.frontends for rule in frontend.rules]
    sections = [config.timeouts.model_dump()]
    sections += [waits(one.timeouts) for one in config.backends]
    sections += [waits(one.timeouts) for one in rules]
    # 0: never
    found = [value for one in sections for key, value in one.items() if value and (not keys or key in keys)]
    for one in () if keys else config.backends:
        found += [one.queue.timeout] if one.queue is not None and one.queue.timeout is not None else []
        found += [seconds for seconds in (one.policy.per_try, one.policy.timeout) if seconds < math.inf]
    return float(min(found))


def pages(sections: Sequence[ErrorPage], bodies: Mapping[str, bytes]) -> answers.Pages | None:
    """The pages for errors; None where there are none."""
    if not sections:
        return None
    return answers.Pages(
        [
            answers.Page(section.status, *_content(section, bodies), servers=section.servers)
            for section in sections
        ]
    )


def _content(section: Body, bodies: Mapping[str, bytes]) -> tuple[bytes, str]:
    """A body and its Content-Type."""
    kind = section.content_type
    if section.file is not None:
        if kind is None:
            kind = mimetypes.guess_type(section.file)[0] or "application/octet-stream"
            kind += "; charset=utf-8" if kind.startswith("text/") else ""
        return bodies.get(section.file, b""), kind
    return (section.body or "").encode(), kind or "text/plain; charset=utf-8"


def _redirect(section: Redirect, means: Means) -> answers.Maker:
    if section.to == "https":
        return answers.https(section.status or 308)
    return answers.redirect(
        means.template(section.to),
        section.to.startswith("//"),
        section.status or 302,
        section.keep_path,
        section.keep_query,
    )


def _answer(section: Reply, means: Means) -> answers.Maker:
    body, kind = _content(section, means.bodies)
    with named("headers"):
        return answers.fixed(section.status, section.headers, means.template, body, kind)


def _rewrite(section: Actions, means: Means) -> Iterator[rewrite.Step]:
    wanted = section.rewrite
    if wanted is None:
        return
    path, query = wanted.path, wanted.query
    if path is not None:
        with named("rewrite.path"):
            to = means.template(path.to)
            if path.prefix is not None:
                yield rewrite.prefix(path.prefix.encode(), to)
            elif path.regex is not None:
                yield rewrite.regex(path.regex, to, means.unsafe_regex)
            else:
                yield rewrite.path(to)
    if query is not None:
        with named("rewrite.query"):
            if query.to is not None:
                yield rewrite.query(means.template(query.to))
            if query.set or query.remove:
                new = [(name.encode(), means.template(text)) for name, text in query.set.items()]
                yield rewrite.parameters(new, [name.encode() for name in query.remove])
    if wanted.host is not None:
        with named("rewrite.host"):
            yield rewrite.host(rewrite.fixed_host(wanted.host, means.template))


def _edits(
    section: HeaderEdits,
    means: Means,
    untouched: frozenset[str],
    handlers: Mapping[bytes, Sequence[Handler]] | None = None,
) -> edits.Edits | None:
    return edits.compiled(
        means.template,
        section.set,
        section.add,
        section.remove,
        {name: (one.regex, one.to) for name, one in section.replace.items()},
        untouched,
        means.unsafe_regex,
        handlers,
    )


def _request(section: Actions, means: Means) -> edits.Edits | None:
    if section.request_headers is None:
        return None
    with named("request_headers"):
        return _edits(section.request_headers, means, edits.OF_REQUESTS)


def _responses(section: Actions, means: Means) -> Iterator[OnResponse]:
    handlers: dict[bytes, list[Handler]] = {}
    if section.location:
        with named("location"):
            handlers[b"location"] = [_location(section.location, means)]
    if section.set_cookie:
        with named("set_cookie"):
            handlers[b"set-cookie"] = [cookies.cookies([_cookie(one, means) for one in section.set_cookie])]
    if handlers:
        yield OnResponse(edits.Edits(handlers, [], []), servers=True)
    if section.response_headers is not None:
        with named("response_headers"):
            always = _edits(section.response_headers, means, edits.OF_RESPONSES)
        if always is not None:
            yield OnResponse(always)
    for number, one in enumerate(section.responses):
        with named(f"response[{number}]"):
            made = _edits(one, means, edits.OF_RESPONSES)
            if made is None:
                raise ValueError("nothing is edited; set one of remove, replace, set, add")
            yield OnResponse(made, _when(one.when, means))


def _when(section: When, means: Means) -> WhenTest | None:
    if not section.model_fields_set:
        return None
    tests = [
        (edits.values_of(name.encode()), match.text(wanted, means.unsafe_regex))
        for name, wanted in section.header.items()
    ]
    statuses = frozenset(section.status)

    def when(head: ResponseHead, view: View) -> bool:
        if statuses and head.status not in statuses:
            return False
        try:
            return all(any(test(value, view) for value in values(head.out)) for values, test in tests)
        except TooLong:
            return False

    return when


def _location(sections: Sequence[LocationRewrite], means: Means) -> Handler:
    handlers = [
        cookies.location(means.template(one.from_), means.template(one.to))
        if one.from_ is not None
        else cookies.location_regex(one.regex or "", means.template(one.to), means.unsafe_regex)
        for one in sections
    ]

    def handle(value: bytes, view: View) -> bytes | None:
        for one in handlers:
            new = one(value, view)
            if new != value:
                return new
        return value

    return handle


def _cookie(section: CookieEdits, means: Means) -> cookies.CookieEdit:
    path, domain = section.path, section.domain
    return cookies.CookieEdit(
        frozenset(name.encode() for name in section.cookie),
        means.template(path.to) if path is not None else None,
        path.from_.encode() if path is not None and path.from_ is not None else None,
        means.template(domain.to) if domain is not None else None,
        domain.from_.lower().encode() if domain is not None and domain.from_ is not None else None,
        section.secure,
        section.http_only,
        section.same_site.encode() if section.same_site is not None else None,
    )
