"""Every error a user can meet, with its exit code on the command line and the built-in error that it also is.

HeadstartError              1                     never raised itself
├── UsageError              2  ValueError         an argument that cannot be used as it is
│   └── UnknownNameError    2  ValueError         a name that is not in a table (backbone, tap, strategy)
├── DataError               3  ValueError         the given pictures cannot be used
│   └── ImageError          3  ValueError         one file that is not a usable picture (collected, rarely fatal)
├── NotFoundError           4  FileNotFoundError  no such folder, dataset or model
├── ConflictError           5                     something is in the way: a name in use, a folder that is read-only
│   ├── IncomparableError   5                     two versions of a model that cannot be compared
│   ├── DamagedError        5                     stored data that is corrupted
│   └── NumericsError       5                     this machine computes other numbers than the stored ones
├── GateError               6                     a fine-tuned model that is not better than the head it started from
├── ServerUnreachableError  7  ConnectionError    no Prefect server answers
└── CancelledError        130                     a job was asked to stop

A message says what was given, what was wanted, and what to do next. NotFoundError and ServerUnreachableError are an
OSError too: a block that catches the operating system's errors must let those of headstart through.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class HeadstartError(Exception):
    """Root of the tree; the command line prints it as one sentence."""

    exit_code = 1


class UsageError(HeadstartError, ValueError):
    """An argument that cannot be used as it is."""

    exit_code = 2


class UnknownNameError(UsageError):
    """A name that is not in a table; the message offers the nearest ones."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        self._given = kind, name, names
        close = get_close_matches(name, names, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        super().__init__(f"Unknown {kind} '{name}'.{hint} Known: {', '.join(names)}.")

    def __reduce__(self) -> tuple[type[UnknownNameError], tuple[str, str, list[str]]]:
        return type(self), self._given  # an error from another process is made of what it was made of there


class DataError(HeadstartError, ValueError):
    """The given pictures cannot be used."""

    exit_code = 3


class ImageError(DataError):
    """One file that is not a usable picture; the message is the reason alone, without the path."""


class NotFoundError(HeadstartError, FileNotFoundError):
    """No such folder, dataset or model."""

    exit_code = 4


class ConflictError(HeadstartError):
    """Something is in the way: a name in use, a folder that cannot be written."""

    exit_code = 5


class DamagedError(ConflictError):
    """Stored data that is corrupted."""


class IncomparableError(ConflictError):
    """Two versions of a model cannot be compared; the message says why. Never seen by a user."""


class NumericsError(ConflictError):
    """This machine computes other numbers than the stored ones."""


class GateError(HeadstartError):
    """A fine-tuned model is not better than the head it started from; raised if the caller asked for it."""

    exit_code = 6


class ServerUnreachableError(HeadstartError, ConnectionError):
    """No Prefect server answers."""

    exit_code = 7


class CancelledError(HeadstartError):
    """A job was asked to stop; what it has done is kept."""

    exit_code = 130
