"""The ledger of `predict-batch`: what became of every file of a folder, so that none is predicted twice or forgotten.

predictions/<id>/ledger.json         which output it is for, and the folder that is predicted into it
predictions/<id>/part-<number>.jsonl rows, written whole; the row of a later part replaces that of an earlier one

A process that works with the ledger locks the folder. A row stays when its file is gone: it was predicted, and an inbox
is emptied sooner or later. So rows cannot all be made again, and each carries a checksum of its own: of a damaged part
the intact ones are kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.errors import ConflictError
from pipeline.fingerprint import fingerprint
from storage.disk.atomic import explained, make_folder, write_whole
from storage.disk.committing import CommittedAtEnd
from storage.disk.documents import read_json, write_json
from storage.disk.locks import alone
from storage.predictions.parts import Row, SeenFile, encode_part, list_parts, number_of, read_or_mend
from storage.workspace import Workspace

FORMAT = "headstart.prediction-ledger"
VERSION = 1
LEDGER_FILE = "ledger.json"
COMMIT_ROWS = 256  # a commit costs a few milliseconds, computing that many rows seconds
COMMIT_SECONDS = 10.0  # the most work that a crash can cost
MAX_PARTS = 32  # then they become one: a folder that is looked at every few minutes gets thousands a year


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
    """Make sure that the output is this folder's, and that no other file is replaced."""
    path = place / LEDGER_FILE
    known = workspace.find_intact(path, read_ledger_file)
    if known is None:
        if output.exists() and not list_parts(place):
            raise ConflictError(
                f"{output} exists, and its rows are not known in {workspace.root}. It is not replaced: move it away, "
                "or name another file."
            )
        write_json(path, {"folder": str(folder), "output": str(output)}, FORMAT, VERSION, workspace.staging)
    elif known.get("folder") != str(folder):
        raise ConflictError(
            f"{output} has the predictions of {known.get('folder')}; this is {folder}. Name another file, or remove it "
            f"and {place} to begin again."
        )


class Ledger(CommittedAtEnd):
    """The rows of one output. As a context manager it commits when the block ends, also on an error or Ctrl-C."""

    def __init__(self, workspace: Workspace, place: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._workspace, self._place, self._clock = workspace, place, clock
        self._rows: dict[str, Row] = {}
        self._pending: list[Row] = []
        self._parts = list_parts(place)
        for path in self._parts:
            self._rows.update((row.file.path, row) for row in read_or_mend(workspace, path))
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
        number = number_of(self._parts[-1]) + 1 if self._parts else 1
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


def list_ledgers(workspace: Workspace) -> list[Path]:
    """The folder of every ledger."""
    return sorted(path for path in workspace.predictions.glob("*") if path.is_dir())


def read_ledger_file(path: Path) -> Mapping[str, object]:
    """Read what a ledger is for; raises as `read_json` does."""
    return read_json(path, FORMAT, VERSION)
