"""The rules of a frontend: in the order of the file, until one ends the evaluation.

A rule that only edits lets the next one have its turn. `Rules.decide` is the one place where that is done:
the worker asks it for each request, and ``explain`` with a trace of what it has looked at.

Floor: the top of `pylb.rules`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pylb.http.errors import Refused
from pylb.rules.index import Index
from pylb.rules.match import Test
from pylb.rules.normal import Ambiguous
from pylb.rules.regex import TooLong
from pylb.rules.view import Network, View

Kind = Literal["backend", "redirect", "answer", "deny", "drop"]


@dataclass(frozen=True, slots=True)
class Decision:
    """What the rules say of a request."""

    kind: Kind
    backend: str
    """The backend's name; of other kinds than ``backend``, the frontend's own."""
    action: Any = None
    """Of other kinds, what the rule's ending holds for whoever makes the answer."""
    edits: tuple[Any, ...] = ()
    """What the rules that have matched edit, in their order."""
    rule: int = -1
    """The position of the rule that ended the evaluation; -1 where none did."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a rule ends the evaluation.

    ``backend`` is a name, or what works one out of a request: None where it gives none that exists.
    """

    kind: Kind
    backend: str | Callable[[View], str | None] | None = None
    action: Any = None


@dataclass(slots=True)
class Rule:
    """A rule, compiled.

    ``tests`` are its matchers with the names of their keys, the cheapest first; all must hold. Those whose
    keys are in ``indexed`` hold for every request that the index gives this rule for.
    """

    number: int
    tests: Sequence[tuple[str, Test]] = ()
    ending: Ending | None = None
    edits: Any = None
    hosts: tuple[bytes, ...] = ()
    """Hosts, and ``*.`` patterns, of which the request's must be one; none: any."""
    paths: tuple[bytes, ...] = ()
    exact: bool = False
    """Whether ``paths`` are whole paths and not prefixes."""
    indexed: frozenset[str] = frozenset()
    captures: bool = False
    """Whether a matcher sets groups of the view."""
    rest: tuple[Test, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.rest = tuple(test for key, test in self.tests if key not in self.indexed)


@dataclass(frozen=True, slots=True)
class Step:
    """What became of a rule when a request was traced."""

    rule: int
    failed: str = ""
    """The key of the matcher that did not hold; empty where the rule has matched."""


class Rules:
    """A frontend's rules.

    Args:
        backend: the frontend's own, where a request goes that no rule sends elsewhere.
        trusted: networks of trusted proxies.
        tls: whether the frontend ends TLS.
        lenient: whether ambiguous paths are passed on.
        by_path: whether a rule looks at the path.
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        backend: str,
        trusted: Sequence[Network] = (),
        tls: bool = False,
        lenient: bool = False,
        by_path: bool = False,
    ) -> None:
        self.rules = rules
        self._trusted = trusted
        self._tls = tls
        self._lenient = lenient
        self._by_path = by_path
        self._default = Decision("backend", backend)
        self._index = Index(rules)
        self._constant: dict[int, Decision] = {}
        for rule in rules:
            ending = rule.ending
            if ending is not None and not callable(ending.backend):
                name = ending.backend or backend
                edits = () if rule.edits is None else (rule.edits,)
                self._constant[rule.number] = Decision(ending.kind, name, ending.action, edits, rule.number)

    @property
    def edit(self) -> bool:
        """Whether any rule edits."""
        return any(rule.edits is not None for rule in self.rules)

    def view(self) -> View:
        """A new view for requests of this frontend."""
        return View(self._trusted, self._tls, self._lenient)

    def decide(self, view: View, trace: list[Step] | None = None) -> Decision:
        """Where a request goes.

        Args:
            trace: gets a step for each rule that was looked at; without the index, in the order of the file.

        Raises:
            Refused: 400 for a path that servers read in different ways where a rule looks at paths, and for
                what is too long for a regular expression.
        """
        try:
            if self._by_path:
                view.path  # noqa: B018  # raises
            return self._decide(view, trace)
        except Ambiguous:
            raise Refused(400, "path") from None
        except TooLong:
            raise Refused(400, "regex") from None

    def _decide(self, view: View, trace: list[Step] | None) -> Decision:
        edits: tuple[Any, ...] = ()
        for rule in self._index.candidates(view) if trace is None else self.rules:
            if trace is None:
                if rule.rest and not _holds(rule, view):
                    continue
            else:
                failed = _failed(rule, view)
                trace.append(Step(rule.number, failed))
                if failed:
                    continue
            ending = rule.ending
            if ending is not None:
                if edits or callable(ending.backend):
                    return self._ended(rule, view, edits)
                return self._constant[rule.number]
            edits += (rule.edits,)
        if edits:
            return Decision("backend", self._default.backend, None, edits)
        return self._default

    def _ended(self, rule: Rule, view: View, edits: tuple[Any, ...]) -> Decision:
        ending = rule.ending
        assert ending is not None
        name = ending.backend(view) if callable(ending.backend) else ending.backend
        if rule.edits is not None:
            edits += (rule.edits,)
        return Decision(ending.kind, name or self._default.backend, ending.action, edits, rule.number)


def _holds(rule: Rule, view: View) -> bool:
    """Whether those of its matchers hold that the index has not looked at."""
    groups = view.groups
    for test in rule.rest:
        if not test(view):
            view.groups = groups
            return False
    return True


def _failed(rule: Rule, view: View) -> str:
    """The key of its first matcher that doesn't hold; empty where all do."""
    groups = view.groups
    for key, test in rule.tests:
        if not test(view):
            view.groups = groups
            return key
    return ""
