"""Values to Markdown that shows them as they are: nothing that a user wrote is markup."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

MAX_ROWS = 50  # of tables that grow with the data

# what Markdown would act upon; underscores only if they could begin or end emphasis
_MARKUP = re.compile(r"[\\`*{}\[\]<>|#~&$]|(?<!\w)_|_(?!\w)")


def section(title: str, *lines: str) -> str:
    return "\n".join((f"## {title}", "", *lines))


def bullets(items: Iterable[object]) -> list[str]:
    return [f"- {text(item)}" for item in items]


def capped(header: Sequence[str], rows: Sequence[Sequence[object]], what: str) -> list[str]:
    """Make a table of at most `MAX_ROWS` rows that says how many it leaves out."""
    lines = table(header, rows[:MAX_ROWS])
    num_hidden = len(rows) - MAX_ROWS
    return [*lines, "", f"{num_hidden:,} more {what} are not shown."] if num_hidden > 0 else lines


def table(header: Sequence[object], rows: Iterable[Sequence[object]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(text(cell) for cell in line) + " |" for line in lines]


def text(value: object) -> str:
    """Show any value as itself: nothing in it is markup, a line break or an invalid character."""
    return _MARKUP.sub(r"\\\g<0>", printable(str(value)))


def printable(line: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in line)
