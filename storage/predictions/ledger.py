"""The ledger of `predict-batch`: what became of every file of a folder, so that none is predicted twice or forgotten.

predictions/<id>/ledger.json         which output it is for, and the folder that is predicted into it
predictions/<id>/part-<number>.jsonl rows, written whole; the row of a later part replaces that of an earlier one

The folder itself is locked by whoever works with the ledger. A row stays when its file is gone: it was predicted, and
an inbox is emptied sooner or later. So rows cannot all be made again, and each carries a checksum of its own: of a
damaged part the intact ones are kept.
"""

from __future__ import annotations

import json
import logging
import re
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from sys import intern
from typing import NamedTuple

from pipeline.errors import ConflictError, DamagedError, NotFoundError
from pipeline.fingerprint import fingerprint
from storage.disk.atomic import explained, make_folder, write_whole
from storage.disk.committing import CommittedAtEnd
from storage.disk.documents import parse_json, read_json, sealed, unsealed, write_json
from storage.disk.locks import alone
from storage.workspace import Workspace

log = logging.getLogger(__name__)

FORMAT = "headstart.predictions"
LEDGER_FORMAT = "headstart.prediction-ledger"
VERSION = 1
LEDGER_FILE = "ledger.json"
COMMIT_ROWS = 256  # a commit costs a few milliseconds, computing that many rows seconds
COMMIT_SECONDS = 10.0  # the most work that a crash can cost
MAX_PARTS = 32  # then they become one: a folder that is looked at every few minutes gets thousands a year

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
    labels: Scores | None = None  # above their thresholds, where labels exclude no other
    error: str | None = None


# ── ledgers ──────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def open_ledger(workspace: Workspace, folder: Path, output: Path) -> Iterator[Ledger]:
    """Open the ledger of an output, alone: another process that has it open is waited for.

    Parameters
    ----------
    folder, output
        Absolute: what is predicted, and the table that its predictions go to.

    Raises
    ------
    ConflictError
        The output belongs to another folder, or is a file that was there before; or the ledger cannot be used.
    """
    place = workspace.ledger(fingerprint({"output": str(output)}))
    with explained(place):
        make_folder(place, workspace.staging.fs)
    with alone(place, wait=True):
        _claim(workspace, place, folder, output)
        with Ledger(workspace, place) as ledger:
            yield ledger


def _claim(workspace: Workspace, place: Path, folder: Path, output: Path) -> None:
    """Make sure that the output is this folder's, and that nobody else's file is replaced."""
    path = place / LEDGER_FILE
    try:
        known = read_json(path, LEDGER_FORMAT, VERSION)
    except NotFoundError:
        known = None
    except DamagedError as error:
        log.warning("%s It moved to %s.", error, workspace.set_aside(path))
        known = None
    if known is None:
        if output.exists() and not list_parts(place):
            raise ConflictError(
                f"{output} exists, and its rows are not known in {workspace.root}. It is not replaced: move it away, "
                "or name another file."
            )
        write_json(path, {"folder": str(folder), "output": str(output)}, LEDGER_FORMAT, VERSION, workspace.staging)
    elif known.get("folder") != str(folder):
        raise ConflictError(
            f"{output} has the predictions of {known.get('folder')}; this is {folder}. Name another file, or remove it "
            f"and {place} to begin anew."
        )


class Ledger(CommittedAtEnd):
    """The rows of one output. As a context manager it commits when the block ends, also on an error or Ctrl-C."""

    def __init__(self, workspace: Workspace, place: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._workspace, self._place, self._clock = workspace, place, clock
        self._rows: dict[str, Row] = {}
        self._pending: list[Row] = []
        self._parts = list_parts(place)
        for path in self._parts:
            self._rows.update((row.file.path, row) for row in _read_or_mend(workspace, path))
        if len(self._parts) > MAX_PARTS:
            self._merge()

    @property
    def rows(self) -> Mapping[str, Row]:
        """Path -> the newest row, also those that are not committed yet."""
        return self._rows

    def find(self, file: SeenFile) -> Row | None:
        """Return the row of a file that has not changed since it was predicted."""
        row = self._rows.get(file.path)
        return row if row and row.file == file else None

    def append(self, row: Row) -> None:
        """Take a row over; it is durable after the commit that follows every 256 rows or 10 seconds."""
        if not self._pending:
            self._pending_since = self._clock()
        self._pending.append(row)
        self._rows[row.file.path] = row
        if len(self._pending) >= COMMIT_ROWS or self._clock() - self._pending_since >= COMMIT_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Make everything appended so far durable. After a failure it can be called again."""
        if self._pending:
            self._write_part(self._pending)
            self._pending = []

    def _write_part(self, rows: Iterable[Row]) -> None:
        number = _number(self._parts[-1]) + 1 if self._parts else 1
        path = self._place / f"part-{number:08d}.jsonl"
        write_whole(path, encode_part(rows), self._workspace.staging)
        self._parts.append(path)

    def _merge(self) -> None:
        """Write all rows into one part before the others go: whatever is left of these, its rows count."""
        merged = list(self._parts)
        self._write_part(self._rows.values())
        for path in merged:
            with explained(path), suppress(FileNotFoundError):
                self._workspace.staging.fs.unlink(path)
            self._parts.remove(path)


# ── parts ────────────────────────────────────────────────────────────────────────────────────────


def list_ledgers(workspace: Workspace) -> list[Path]:
    """The folder of every ledger."""
    return sorted(path for path in workspace.predictions.glob("*") if path.is_dir())


def list_parts(place: Path) -> list[Path]:
    """The parts of a ledger, oldest first."""
    return sorted((path for path in place.iterdir() if _PART_NAME.fullmatch(path.name)), key=_number)


def read_ledger_file(place: Path) -> Mapping[str, object]:
    """Read what a ledger is for; raises as `read_json` does."""
    return read_json(place / LEDGER_FILE, LEDGER_FORMAT, VERSION)


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
    """Encode a header that vouches for itself and says how many rows follow, and the rows, a line each."""
    lines = []
    for row in rows:
        body = json.dumps(row, allow_nan=False)
        lines.append(f'{{"crc32": "{zlib.crc32(body.encode("ascii")):08x}", "row": {body}}}\n')
    header = json.dumps(sealed({"num_rows": len(lines)}, FORMAT, VERSION))
    return f"{header}\n{''.join(lines)}".encode("ascii")


def _read_or_mend(workspace: Workspace, path: Path) -> list[Row]:
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


def _number(path: Path) -> int:
    match = _PART_NAME.fullmatch(path.name)
    assert match
    return int(match[1])
