"""Every error a user can meet, with the exit code the command line gives it.

HeadstartError              1  never raised itself
├── UsageError              2  an argument that cannot be used as it is
│   └── UnknownNameError    2  a name that is not in a table (backbone, tap, strategy)
├── DataError               3  the pictures given cannot be worked with
│   └── ImageError          3  one file that is no usable picture (collected, rarely fatal)
├── NotFoundError           4  no such folder, dataset or model
├── ConflictError           5  something is in the way: a name in use, a folder that cannot be written
│   ├── DamagedError        5  bytes of ours that are not what we wrote
│   └── NumericsError       5  this machine computes other numbers than the ones stored
├── GateError               6  a fine-tuned model that is not better than the head it started from
├── ServerUnreachableError  7  no Prefect server answers
└── CancelledError        130  somebody asked a job to stop

A message says what came, what was wanted, and what to do next.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class HeadstartError(Exception):
    """Root of the tree; the command line prints it as one sentence."""

    exit_code = 1


class UsageError(HeadstartError):
    """An argument that cannot be used as it is."""

    exit_code = 2


class UnknownNameError(UsageError):
    """A name that is not in a table; the message offers the nearest ones."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        close = get_close_matches(name, names, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        super().__init__(f"Unknown {kind} '{name}'.{hint} Known: {', '.join(names)}.")


class DataError(HeadstartError):
    """The pictures given cannot be worked with."""

    exit_code = 3


class ImageError(DataError):
    """One file that is no usable picture; the message is the reason alone, without the path."""


class NotFoundError(HeadstartError):
    """No such folder, dataset or model."""

    exit_code = 4


class ConflictError(HeadstartError):
    """Something is in the way: a name in use, a folder that cannot be written."""

    exit_code = 5


class DamagedError(ConflictError):
    """Bytes of ours that are not what we wrote."""


class NumericsError(ConflictError):
    """This machine computes other numbers than the ones stored."""


class GateError(HeadstartError):
    """A fine-tuned model is not better than the head it started from; raised where the caller asked for it."""

    exit_code = 6


class ServerUnreachableError(HeadstartError):
    """No Prefect server answers."""

    exit_code = 7


class CancelledError(HeadstartError):
    """Somebody asked a job to stop; what it has done is kept."""

    exit_code = 130
