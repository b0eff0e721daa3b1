"""The values of `headstart doctor`: a check of one thing, and the report of all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class Check:
    """What was checked, what was found, and what to do about it. Sentences, for people."""

    name: str
    state: Literal["ok", "warning", "problem", "skipped"]
    found: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class DoctorReport:
    """Every check of an installation, a workspace and a server."""

    workspace: str
    server: str | None  # its URL, without a password
    checks: tuple[Check, ...]


def of_error(name: str, error: Exception, otherwise: str) -> Check:
    """Make a problem of an error. Its first sentence is what was found; `otherwise` is the advice if it gives none."""
    found, _, advice = str(error).partition(". ")
    return Check(name, "problem", f"{found.rstrip('.')}.", advice or otherwise)


def or_ok(findings: Iterable[Check], name: str, found: str) -> list[Check]:
    """Return the findings, or one line that says that all is well."""
    return list(findings) or [Check(name, "ok", found)]


def some(names: Iterable[str]) -> str:
    """Name the first few."""
    known = list(names)
    rest = len(known) - MOST_NAMED
    return ", ".join(known[:MOST_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def span(seconds: float) -> str:
    """Say how long something took, or how long ago it was.

    >>> span(150)
    '2 min'
    """
    for unit, name in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * unit or (name == "min" and seconds >= unit):
            return f"{int(seconds // unit)} {name}"
    return f"{int(seconds)} s"
