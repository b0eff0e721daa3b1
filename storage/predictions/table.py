"""The output of `predict-batch`: one row per file, CSV or Parquet, whole or not at all.

    column                               CSV                      Parquet
    path                                 relative to the folder   string
    label, probability                   the best class           string, float64
    label_2, probability_2, ... up to K  the next ones            string, float64
    labels, label_probabilities          a|b, 0.9|0.7             list of string, list of float64
    error                                why it is no picture     string
    model                                name@version             string
    predicted                            ISO 8601, UTC            timestamp in UTC

The columns depend on K (`--top`) alone. `labels` are those that reach their thresholds, where labels exclude no other;
with other models they are empty, or null. CSV has six digits of a probability, and an empty cell for what there is not.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Any

from pipeline.errors import UsageError
from storage.datasets.table import SEPARATOR
from storage.disk.atomic import Fs, Staging, explained, write_whole
from storage.predictions.parts import Row
from storage.sqlite import plain

CSV, PARQUET = ".csv", ".parquet"


def check_table_name(path: Path) -> None:
    """Raise UsageError unless a file's ending says how to write it."""
    if path.suffix.lower() not in (CSV, PARQUET):
        raise UsageError(f"{path.name!r} does not end in {CSV} or {PARQUET}, so its format is unknown. Rename it.")


def write_table(path: Path, rows: Iterable[Row], top: int, fs: Fs) -> bool:
    """Write rows by path; a file that already holds them stays. Returns whether it was written.

    A link is followed. No other process may write to the same path meanwhile: the ledger's lock prevents it.

    Raises
    ------
    ConflictError
        It cannot be written.
    """
    path = path.resolve()
    ordered = sorted(rows, key=lambda row: row.file.path)
    data = (_to_csv if path.suffix.lower() == CSV else _to_parquet)(ordered, top)
    # always under the same name, so that what a killed process left behind goes with the next one
    staging = Staging(path.with_name(f".{path.name}.part"), fs)
    try:
        _clear(staging)
        if _holds(path, data):
            return False
        write_whole(path, data, staging)
        return True
    finally:
        _clear(staging)


def _clear(staging: Staging) -> None:
    with explained(staging.folder), suppress(FileNotFoundError):
        staging.fs.remove_tree(staging.folder)


def _holds(path: Path, data: bytes) -> bool:
    with suppress(OSError):  # what cannot be read is replaced, or cannot be written either
        return path.stat().st_size == len(data) and path.read_bytes() == data
    return False


def _columns(top: int) -> list[str]:
    best = [name for place in range(2, top + 1) for name in (f"label_{place}", f"probability_{place}")]
    return ["path", "label", "probability", *best, "labels", "label_probabilities", "error", "model", "predicted"]


def _cells(row: Row, top: int) -> list[Any]:
    """Return what a row has in each column; an earlier run may have kept more classes, or fewer."""
    best = [row.top[place] if place < len(row.top) else (None, None) for place in range(top)]
    labels = None if row.labels is None else tuple(name for name, _ in row.labels)
    values = None if row.labels is None else tuple(value for _, value in row.labels)
    predicted = datetime.fromisoformat(row.predicted)
    return [row.file.path, *chain.from_iterable(best), labels, values, row.error, row.model, predicted]


def _to_csv(rows: Sequence[Row], top: int) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_columns(top))
    writer.writerows([_text(cell) for cell in _cells(row, top)] for row in rows)
    return plain(text.getvalue()).encode("utf-8")


def _text(cell: Any) -> str:
    if isinstance(cell, tuple):
        return SEPARATOR.join(map(_text, cell))
    if isinstance(cell, datetime):
        return cell.isoformat()
    return "" if cell is None else f"{cell:.6f}" if isinstance(cell, float) else str(cell)


def _to_parquet(rows: Sequence[Row], top: int) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    text, number, time = pa.string(), pa.float64(), pa.timestamp("ms", tz="UTC")
    types = [text, *[text, number] * top, pa.list_(text), pa.list_(number), text, text, time]
    cells = [[_valid(cell) for cell in _cells(row, top)] for row in rows]
    columns = zip(*cells, strict=True) if cells else [()] * len(types)
    arrays = [pa.array(column, kind) for column, kind in zip(map(list, columns), types, strict=True)]
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_arrays(arrays, names=_columns(top)), sink)
    return bytes(sink.getvalue())


def _valid(cell: Any) -> Any:
    """Parquet has no text that is not UTF-8."""
    if isinstance(cell, tuple):
        return [_valid(item) for item in cell]
    return plain(cell) if isinstance(cell, str) else cell
