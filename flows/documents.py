"""Results that several rooms share, and the JSON documents of all results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.jsonable import to_json

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class SavedModel:
    """A version of a model, and where it is."""

    name: str
    version: int
    path: str

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True)
class SubmittedRun:
    """A run that a Prefect server has been given."""

    run: str  # its id
    name: str
    state: str
    server: str  # URL without a password
    message: str | None = None  # how it ended, if it was waited for


@dataclass(frozen=True, slots=True)
class SubmittedJob:
    """A run of a fine-tuning job that a Prefect server has been given."""

    job: str  # its id
    attempt: int  # from 1 on
    run: str
    name: str
    state: str
    server: str
    next: str | None = None  # command for another attempt, if this run has ended without an outcome
    message: str | None = None


@dataclass(frozen=True, slots=True)
class FinishedJob:
    """A fine-tuning job that has its outcome, so that nothing was submitted."""

    job: str
    passed: bool  # the comparison with the head
    model: SavedModel | None
    state: str = "finished"


@dataclass(frozen=True, slots=True)
class UnscheduledJob:
    """A fine-tuning that could not be submitted."""

    job: str | None
    reason: str
    next: str  # command that runs it here
    state: str = "not scheduled"


FinetuneRun = SubmittedJob | FinishedJob | UnscheduledJob


def to_document(result: object) -> dict[str, Any]:
    """Return a result, a frozen value, as a JSON object. Nothing else gives a document its `schema_version`."""
    own = getattr(result, "to_json", None)  # of a result whose document is not its fields
    return {"schema_version": SCHEMA_VERSION, **(own() if own else to_json(result))}
