"""Data as Python users have them: a folder, a CSV table, a DataFrame, or pairs of path and label."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from pipeline.errors import UsageError
from storage.datasets.folder import Listing
from storage.datasets.table import COLUMNS, SEPARATOR, list_rows

if TYPE_CHECKING:
    import pandas as pd

    PathLike: TypeAlias = str | os.PathLike[str]
    Data: TypeAlias = PathLike | pd.DataFrame | Sequence[tuple[PathLike, str | Sequence[str]]]

WANTED = (
    "Wanted: a folder, a CSV file, a DataFrame with the columns path and label (or labels), or pairs (path, label)."
)


def parse_data(data: Data) -> tuple[str, Listing | None]:
    """Return the folder or table that data lie in, and a listing of them if they are rows from Python.

    Raises
    ------
    UsageError
        It is nothing that can be read as data.
    DataError
        A row cannot be understood.
    """
    if isinstance(data, str | os.PathLike):
        return os.fspath(data), None
    header, rows = _table_of(data)
    if not rows:
        raise UsageError(f"There are no rows. {WANTED}")
    place = header.index("path")
    for row in rows:
        row[place] = os.path.abspath(row[place]) if row[place] else ""
    root = os.path.commonpath([os.path.dirname(row[place]) or os.sep for row in rows])
    return root, list_rows([header, *rows], root)


def _table_of(data: Any) -> tuple[list[str], list[list[str]]]:
    """Return the columns' names and the cells as text, in the columns that a table may have."""
    if hasattr(data, "columns") and hasattr(data, "itertuples"):
        header = [str(name).strip().lower() for name in data.columns]
        if "path" not in header:
            raise UsageError(f"The DataFrame has no column 'path' among {', '.join(header) or 'none'}. {WANTED}")
        used = [number for number, name in enumerate(header) if name in COLUMNS]
        rows = [[_text(row[number]) for number in used] for row in data.itertuples(index=False, name=None)]
        return [header[number] for number in used], rows
    try:
        pairs = [(os.fspath(path), labels) for path, labels in data]
    except (TypeError, ValueError) as error:
        raise UsageError(f"{type(data).__name__} cannot be read as data ({error}). {WANTED}") from error
    several = any(not isinstance(labels, str) and isinstance(labels, Iterable) for _, labels in pairs)
    return ["path", "labels" if several else "label"], [[path, _text(labels)] for path, labels in pairs]


def _text(cell: Any) -> str:
    """Write a cell as a table would have it: lists joined, missing values empty."""
    if cell is None or cell != cell:  # NaN
        return ""
    if isinstance(cell, os.PathLike):
        return str(os.fspath(cell))
    if isinstance(cell, str) or not isinstance(cell, Iterable):
        return str(cell)
    labels = [str(label) for label in cell]
    if odd := [label for label in labels if SEPARATOR in label or not label.strip()]:
        raise UsageError(f"{odd[0]!r} cannot be a label: it is empty or has a {SEPARATOR!r} in it.")
    return SEPARATOR.join(labels)
