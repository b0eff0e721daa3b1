"""The curve of a training, a row an epoch, as people read it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


def describe_epoch(row: Row) -> str:
    """Say in a line what an epoch came to; epoch 0 is the network before any training."""
    parts = [f"{row['arm']}: epoch {row['epoch']} of {row['num_epochs']}"]
    if (loss := row.get("train_loss")) is not None:
        parts.append(f"training loss {loss:.3f}")
    parts.append(f"validation accuracy {row['val_accuracy']:.3f}")
    if (seconds := row.get("seconds")) is not None:
        parts.append(f"{seconds:.0f} s")
    return ", ".join(parts)


def rows_of(document: Mapping[str, Any]) -> list[Row]:
    """List the epochs of a finished job, those of the network from random weights too if one was raced."""
    scratch = document.get("scratch")
    if not scratch:
        return list(document["curve"])
    arms = {"fine-tune": document["curve"], "scratch": scratch["curve"]}
    return [{"arm": arm, **row} for arm, curve in arms.items() for row in curve]


def table_of(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Prepare rows for JSON: equal columns, numbers of four digits, and None for what is no number."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return [{column: _cell(row.get(column)) for column in columns} for row in rows]


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    return value
