"""What `headstart doctor` says about one thing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class Check:
    """What was looked at, what came, and what to do about it. Sentences, for people."""

    name: str
    state: Literal["ok", "warning", "problem", "skipped"]
    found: str
    advice: str = ""


def of_error(name: str, error: Exception, otherwise: str) -> Check:
    """Make a problem of an error, whose first sentence says what came; `otherwise` is for one that advises nothing."""
    found, _, advice = str(error).partition(". ")
    return Check(name, "problem", f"{found.rstrip('.')}.", advice or otherwise)


def or_ok(findings: Iterable[Check], name: str, found: str) -> list[Check]:
    """Return what was found, or where that is nothing, one line that says so."""
    return list(findings) or [Check(name, "ok", found)]


def some(names: Iterable[str]) -> str:
    """Name the first few."""
    known = list(names)
    rest = len(known) - MOST_NAMED
    return ", ".join(known[:MOST_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def span(seconds: float) -> str:
    """Say how long something took, or is ago.

    >>> span(150)
    '2 min'
    """
    for unit, name in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * unit or (name == "min" and seconds >= unit):
            return f"{int(seconds // unit)} {name}"
    return f"{int(seconds)} s"
