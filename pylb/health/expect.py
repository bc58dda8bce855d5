"""What an HTTP response must be for a check to pass: its status, and perhaps something in its body. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pylb.health.exchange import Exchange, quoted


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for in a check by HTTP."""

    method: str = "GET"
    path: str = "/"
    host: str = "localhost"
    headers: tuple[tuple[str, str], ...] = ()
    """Further fields."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What the response must be like."""

    status: tuple[range, ...] = (range(200, 400),)
    text: bytes = b""
    """What its body contains."""
    search: Callable[[bytes], bool] | None = None
    """Whether the body is right, as a regular expression finds out."""
    expression: str = ""
    """That one, for the reason."""

    @property
    def of_body(self) -> bool:
        """Whether the body is looked at."""
        return bool(self.text) or self.search is not None


def judge_status(exchange: Exchange, expected: Expected, status: int) -> None:
    """Set the exchange's verdict, unless the body is to be waited for. Redirects aren't followed."""
    if not any(status in wanted for wanted in expected.status):
        exchange.failed(f"it answers {status}, expected {_written(expected.status)}")
    elif not expected.of_body:
        exchange.passed(f"it answers {status}")


def judge_body(exchange: Exchange, expected: Expected, status: int, body: bytes) -> None:
    """Set the verdict of an exchange whose response has a status that is right."""
    if expected.text and expected.text not in body:
        exchange.failed(f"it answers {status}, and its body lacks {quoted(expected.text)}: {quoted(body)}")
    elif expected.search is not None and not expected.search(body):
        exchange.failed(
            f"it answers {status}, and its body doesn't match {expected.expression!r}: {quoted(body)}"
        )
    else:
        exchange.passed(f"it answers {status}, and its body is as expected")


def _written(ranges: tuple[range, ...]) -> str:
    return " or ".join(str(one.start) if len(one) == 1 else f"{one.start}-{one.stop - 1}" for one in ranges)
