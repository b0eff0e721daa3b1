"""The curve of a training as people read it, one row per epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from flows.finetuning.results import FinetuneResult
from pipeline.decision.finetuned import JobStatus
from pipeline.jsonable import to_json

Cell = str | int | float | None
Row = Mapping[str, Cell]


def describe_epoch(status: JobStatus) -> str:
    """Describe an epoch in one line; epoch 0 is the network before training."""
    loss = "" if status.train_loss is None else f", training loss {status.train_loss:.3f}"
    return (
        f"{status.arm}: epoch {status.epoch} of {status.num_epochs}{loss}, "
        f"validation accuracy {status.val_accuracy:.3f}, {status.seconds:.0f} s"
    )


def rows_of(result: FinetuneResult) -> list[Row]:
    """Return the epochs of a finished job as the rows of a table, with those of the other arm if there was a race."""
    if not result.scratch:
        return [to_json(row) for row in result.curve]
    arms = {"fine-tune": result.curve, "scratch": result.scratch.curve}
    return [{"arm": arm, **to_json(row)} for arm, curve in arms.items() for row in curve]


def table_of(values: Sequence[object]) -> list[dict[str, Cell]]:
    """Turn values into rows for JSON: the same columns in each, four digits, and None for what is not a number."""
    rows = [to_json(value) for value in values]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return [{column: _cell(row.get(column)) for column in columns} for row in rows]


def _cell(value: Cell) -> Cell:
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    return value
