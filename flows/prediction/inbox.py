"""Prediction of the new pictures of a folder into one table; a killed run continues where it stopped."""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from flows.prediction.files import files_below, predict_with
from flows.requests import PredictBatchRequest
from pipeline.errors import DataError, NotFoundError, UsageError
from pipeline.report.record import ModelRef
from pipeline.types import Progress
from storage.datasets.digests import TICK_NS
from storage.models.serving import get_model
from storage.predictions.ledger import open_ledger
from storage.predictions.parts import Row, SeenFile
from storage.predictions.table import check_table_name, write_table
from storage.workspace import Workspace

log = logging.getLogger(__name__)

MAX_NAMED = 5  # files that a warning spells out


@dataclass(frozen=True, slots=True)
class PredictBatchResult:
    """What a run over a folder did."""

    model: str  # NAME@VERSION
    folder: str
    num_files: int  # in the folder
    num_new: int  # rows written by this run
    num_failed: int  # of these, files that are not pictures
    num_unread: int  # files that could not be read this time
    output: str
    num_rows: int  # in the table, those of earlier runs included
    written: bool  # False if the table already had this content
    seconds: float

    def __str__(self) -> str:
        unread = f", {self.num_unread:,} not readable now, to be tried again next time" if self.num_unread else ""
        return (
            f"{self.model}: {self.num_new:,} new files, {self.num_failed:,} of them not pictures{unread}; "
            f"{self.num_rows:,} rows in {self.output}{'' if self.written else ', unchanged'}."
        )


def predict_batch(request: PredictBatchRequest, progress: Progress) -> PredictBatchResult:
    """Predict the new and the changed pictures of a folder, and write the table of all.

    A file that is not a picture gets a row with the reason. A file that could not be read this time gets no row, or
    keeps its old one, and is tried again next time. A file that is gone keeps its row. Hidden files, files that are
    not regular, and folders behind links are left out.

    Raises
    ------
    UsageError
        The output is neither CSV nor Parquet, or it or the workspace lies in the folder.
    NotFoundError
        There is no such folder or model.
    DataError
        The folder cannot be read.
    ConflictError
        The output belongs to another folder, was not written by headstart, or cannot be written.
    """
    started = time.monotonic()
    folder, output = Path(os.path.abspath(request.folder)), Path(os.path.abspath(request.output))
    check_table_name(output)
    _check_folder(folder, output, Path(request.workspace))
    workspace = Workspace.open(request.workspace)
    ref = get_model(workspace, request.model)
    with open_ledger(workspace, folder, output) as ledger:
        files = list(_list_files(folder))
        known = ((file, ledger.find(file)) for file in files)
        due = [file for file, row in known if row is None or (request.every and row.model != str(ref))]
        num_new = num_failed = 0
        for row in _predict(workspace, ref, folder, due, request.top, progress) if due else ():
            ledger.append(row)
            num_new += 1
            num_failed += row.error is not None
        ledger.commit()
        return PredictBatchResult(
            model=str(ref),
            folder=str(folder),
            num_files=len(files),
            num_new=num_new,
            num_failed=num_failed,
            num_unread=len(due) - num_new,
            output=str(output),
            num_rows=len(ledger.rows),
            written=write_table(output, ledger.rows.values(), request.top, workspace.staging.fs),
            seconds=round(time.monotonic() - started, 3),
        )


def _check_folder(folder: Path, output: Path, workspace: Path) -> None:
    """Refuse a folder that holds our own files: they would be new in every run."""
    if not folder.is_dir():
        raise NotFoundError(f"There is no folder {folder}.")
    try:
        os.scandir(folder).close()
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}.") from error
    for what, path in (("output", output), ("workspace", workspace)):
        if path.resolve().is_relative_to(folder.resolve()):
            raise UsageError(f"The {what} {path} lies in {folder}, the folder to predict. Choose a place beside it.")


def _list_files(folder: Path) -> Iterator[SeenFile]:
    """Describe the visible regular files below a folder; a file that cannot be examined is left for the next run."""
    prefix = os.path.join(folder, "")
    for path in files_below([str(folder)]):
        try:
            status = os.stat(path)
        except OSError:  # gone, or a link to nothing
            continue
        if stat.S_ISREG(status.st_mode):  # a pipe would be waited for
            yield SeenFile(path.removeprefix(prefix), status.st_size, status.st_mtime_ns)


def _predict(
    workspace: Workspace, ref: ModelRef, folder: Path, files: Sequence[SeenFile], top: int, progress: Progress
) -> Iterator[Row]:
    """Yield a row for each file that can be read; name the others in a warning."""
    # wait until a change of any of the files would show in its time; see `storage.datasets.digests`
    settled_ns = max(file.mtime_ns for file in files) + TICK_NS
    time.sleep(max(0, min(settled_ns - time.time_ns(), TICK_NS)) / 1e9)
    unread = []
    progress.start("predict", len(files))
    try:
        predictions = predict_with(workspace, ref, (str(folder / file.path) for file in files), top)
        for file, prediction in zip(files, predictions, strict=True):
            if prediction.unread:
                unread.append(f"{file.path} {prediction.error}")
            else:
                now = datetime.now(UTC).isoformat(timespec="seconds")
                yield Row(file, str(ref), now, prediction.top, prediction.labels, prediction.error)
            progress.advance(1)
    finally:
        progress.finish()
    if unread:
        named = "; ".join(unread[:MAX_NAMED]) + (" ..." if len(unread) > MAX_NAMED else "")
        log.warning("%d files could not be read and will be tried again next time: %s", len(unread), named)
