"""The rules of a frontend: in the order of the file, until one ends the evaluation.

A rule that only edits lets the next one have its turn. `Rules.decide` is the one place where that is done:
the worker asks it for each request, and ``explain`` with a trace of what it has looked at.

Floor: the top of `pylb.rules`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

from pylb.http.errors import Refused
from pylb.rules.index import Index
from pylb.rules.match import Test, every
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
    place: Any = None
    """What stands for the backend with whoever asks: the worker's backend object."""


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
    rest: Test | None = field(init=False)
    """What the index has not looked at; None where that is nothing."""
    constant: Decision | None = field(init=False, default=None)
    """The decision, where it is the same for every request that no rule before has edited."""

    def __post_init__(self) -> None:
        rest = [test for key, test in self.tests if key not in self.indexed]
        self.rest = every(rest) if rest else None

    @property
    def final(self) -> bool:
        """Whether no rule after it can be asked, once the index has given it."""
        return self.ending is not None and self.rest is None


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
        places: by name, what stands for a backend in decisions.
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        backend: str,
        trusted: Sequence[Network] = (),
        tls: bool = False,
        lenient: bool = False,
        by_path: bool = False,
        places: Mapping[str, Any] | None = None,
    ) -> None:
        self.rules = rules
        self._trusted = trusted
        self._tls = tls
        self._lenient = lenient
        self._by_path = by_path
        self._backend = backend
        self._places = places or {}
        self._default = self._decision("backend", backend, None, ())
        for rule in rules:
            ending = rule.ending
            if ending is not None and not callable(ending.backend):
                name = ending.backend or backend
                edits = () if rule.edits is None else (rule.edits,)
                rule.constant = self._decision(ending.kind, name, ending.action, edits, rule.number)
        self._node = Index(rules).node
        # What is decided for one request is decided for others; bounded, since clients say which rules match.
        self._known = lru_cache(4096)(self._decision)

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
        edits: tuple[Any, ...] = ()
        try:
            path = view.path if self._by_path else b""
            if trace is None:
                node = self._node(view, path)
                constant: Decision | None = node.constant
                if constant is not None:
                    return constant
                rules: Sequence[Rule] = node.rules
            else:
                rules = self._traced(view, trace)
            for rule in rules:
                rest = rule.rest
                if rest is not None and trace is None and not rest(view):
                    continue
                ending = rule.ending
                if ending is None:
                    edits += (rule.edits,)
                elif rule.constant is not None and not edits:
                    return rule.constant
                else:
                    return self._ended(rule, ending, view, edits)
        except Ambiguous:
            raise Refused(400, "path") from None
        except TooLong:
            raise Refused(400, "regex") from None
        if edits:
            return self._known("backend", self._backend, None, edits, -1)
        return self._default

    def _decision(
        self, kind: Kind, backend: str, action: Any, edits: tuple[Any, ...], rule: int = -1
    ) -> Decision:
        return Decision(kind, backend, action, edits, rule, self._places.get(backend))

    def _ended(self, rule: Rule, ending: Ending, view: View, edits: tuple[Any, ...]) -> Decision:
        name = ending.backend(view) if callable(ending.backend) else ending.backend
        if rule.edits is not None:
            edits += (rule.edits,)
        return self._known(ending.kind, name or self._backend, ending.action, edits, rule.number)

    def _traced(self, view: View, trace: list[Step]) -> list[Rule]:
        """The rules that match, up to the first that ends the evaluation."""
        matching = []
        for rule in self.rules:
            groups = view.groups
            failed = next((key for key, test in rule.tests if not test(view)), "")
            trace.append(Step(rule.number, failed))
            if failed:
                view.groups = groups
                continue
            matching.append(rule)
            if rule.ending is not None:
                break
        return matching
