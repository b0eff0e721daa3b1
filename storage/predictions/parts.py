"""The rows of a prediction ledger on disk: JSON Lines in numbered parts, a checksum a row.

predictions/<id>/part-<number>.jsonl rows, written whole; the row of a later part replaces that of an earlier one
"""

from __future__ import annotations

import json
import logging
import re
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from sys import intern
from typing import NamedTuple

from pipeline.errors import ConflictError, DamagedError
from storage.disk.atomic import write_whole
from storage.disk.documents import parse_json, sealed, unsealed
from storage.workspace import Workspace

log = logging.getLogger(__name__)

FORMAT = "headstart.predictions"
VERSION = 1

_PART_NAME = re.compile(r"part-(\d{8,})\.jsonl")
_BEFORE_ROW = len('{"crc32": "00000000", "row": ')

Scores = Sequence[tuple[str, float]]  # class and probability, best first


class SeenFile(NamedTuple):
    """A file as the file system describes it."""

    path: str  # relative to the folder, may hold surrogate escapes
    size_bytes: int
    mtime_ns: int


class Row(NamedTuple):
    """What became of one file as it was: either `top` or `error`."""

    file: SeenFile
    model: str  # name@version
    predicted: str  # when, ISO 8601, UTC
    top: Scores = ()
    labels: Scores | None = None  # above their thresholds, if labels exclude no other
    error: str | None = None


def list_parts(place: Path) -> list[Path]:
    """The parts of a ledger, oldest first."""
    return sorted((path for path in place.iterdir() if _PART_NAME.fullmatch(path.name)), key=number_of)


def read_part(path: Path) -> list[Row]:
    """Read the rows of a part.

    Raises
    ------
    DamagedError
        Some of them are not as they were written; `mend_part` keeps the others.
    ConflictError
        Another version wrote it, or the system does not let us read it.
    """
    rows, problem = _parse(_read(path), path)
    if problem:
        raise DamagedError(f"{path} is damaged: {problem}.")
    return rows


def mend_part(workspace: Workspace, path: Path) -> Path:
    """Put the intact rows of a damaged part in its place; returns where the damaged one is kept."""
    data = _read(path)
    kept = workspace.keep_copy(path, data)
    write_whole(path, encode_part(_parse(data, path)[0]), workspace.staging)
    return kept


def encode_part(rows: Iterable[Row]) -> bytes:
    """Encode a header with its own checksum and the number of rows, and the rows, a line each."""
    lines = []
    for row in rows:
        body = json.dumps(row, allow_nan=False)
        lines.append(f'{{"crc32": "{zlib.crc32(body.encode("ascii")):08x}", "row": {body}}}\n')
    header = json.dumps(sealed({"num_rows": len(lines)}, FORMAT, VERSION))
    return f"{header}\n{''.join(lines)}".encode("ascii")


def read_or_mend(workspace: Workspace, path: Path) -> list[Row]:
    try:
        return read_part(path)
    except DamagedError as error:
        log.warning("%s It moved to %s; its intact rows stay.", error, mend_part(workspace, path))
        return read_part(path)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConflictError(
            f"Cannot read {path}: {error.strerror or error}. See that it can be read, or remove it: the pictures in it "
            "that are still there are then predicted again."
        ) from error


def _parse(data: bytes, path: Path) -> tuple[list[Row], str]:
    """Return the intact rows, and what is wrong with the others."""
    head, _, body = data.partition(b"\n")
    try:
        num_rows = unsealed(parse_json(head, path), FORMAT, VERSION, path).get("num_rows")
    except DamagedError:
        num_rows = None
    lines = body.splitlines()
    rows = [row for line in lines if (row := _parse_row(line))]
    if num_rows is None:
        return rows, "its header fails its checksum"
    if len(rows) != num_rows or len(lines) != num_rows:
        return rows, f"{len(rows)} of its {num_rows} rows are intact"
    return rows, ""


def _parse_row(line: bytes) -> Row | None:
    try:
        document = json.loads(line)
        if zlib.crc32(line[_BEFORE_ROW:-1]) != int(document["crc32"], 16):
            return None
        file, model, predicted, top, labels, error = document["row"]
        given = None if labels is None else _scores(labels)
        return Row(SeenFile(*file), intern(model), predicted, _scores(top), given, error)
    except (ValueError, TypeError, KeyError):
        return None


def _scores(pairs: Iterable[tuple[str, float]]) -> Scores:
    return tuple((intern(name), value) for name, value in pairs)  # few names, many rows


def number_of(path: Path) -> int:
    return int(path.stem.removeprefix("part-"))
