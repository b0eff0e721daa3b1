"""A user's table of images: CSV with a header, a row per picture, read and never touched.

    path,labels,split
    pictures/1.jpg,beach|people,train
    pictures/2.jpg,,test

`path` is relative to the table's folder, or absolute inside it. `label` names exactly one class; `labels` names any
number, separated by "|", none too. `split` may be left out. What the table says wrongly is an error with its line;
a file that is not there, or cannot be read, costs its own row.
"""

from __future__ import annotations

import csv
import io
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pipeline.errors import DataError, NotFoundError
from pipeline.types import FileEntry, Rejected, Split
from storage.datasets.folder import SPLITS, Listing, alike_notes, kind_of

SUFFIX = ".csv"
SEPARATOR = "|"  # between the labels of a picture
COLUMNS = ("path", "label", "labels", "split")
_ONE, _SEVERAL = "label", "labels"


def is_table(path: str) -> bool:
    """Tell whether a dataset's place means a table, whether or not it exists."""
    return path.lower().endswith(SUFFIX) and not os.path.isdir(path)


def list_table(table: Path | str) -> Listing:
    """List the files that a table names, with their labels and, if it has them, their splits.

    Raises
    ------
    NotFoundError
        There is no such file.
    DataError
        It cannot be read, or a line of it cannot be understood.
    """
    reading = _Table(os.path.abspath(table), os.path.dirname(os.path.abspath(table)))
    try:
        # a byte-order mark would be part of the first column's name
        text = Path(reading.table).read_bytes().decode("utf-8-sig")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(f"There is no table {table}.") from error
    except OSError as error:
        raise DataError(f"{table} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(f"{table}, line {line}: not UTF-8. Save the table as UTF-8.") from error
    reading.read(_numbered(reading.table, csv.reader(io.StringIO(text, newline=""), strict=True)))
    return reading.listing()


def list_rows(rows: Iterable[Sequence[str]], root: str) -> Listing:
    """List the files that rows of text name, the first row with the columns' names, as `list_table` does a file's.

    Parameters
    ----------
    root
        The absolute folder that all of them lie in.

    Raises
    ------
    DataError
        A row cannot be understood; rows are counted from 0 after the header, as a DataFrame counts them.
    """
    reading = _Table("the table", root, word="row")
    reading.read(enumerate(map(list, rows), start=-1))
    return reading.listing()


class _Table:
    def __init__(self, table: str, root: str, word: str = "line") -> None:
        self.table = table
        self._word = word  # for a row, in messages
        self._root = root
        self._files: list[FileEntry] = []
        self._rejected: list[Rejected] = []
        self._lines: dict[str, int] = {}  # path -> line that names it
        self._split_line: int | None = None  # the first with a split
        self._bare_line: int | None = None  # the first without
        self._line = 1

    def read(self, rows: Iterator[tuple[int, list[str]]]) -> None:
        """Take every row, each with its number; blank ones are none."""
        self._line, header = next(rows, (1, []))
        self._parse_header(header)
        for self._line, row in rows:
            if row:
                self._add(row)
        if not self._lines:
            raise DataError(f"{self.table} has a header and no rows. Add a row per picture.")

    def listing(self) -> Listing:
        labels = {label for entry in self._files for label in entry.labels}
        notes = [f"Columns that are not read: {', '.join(self._ignored)}."] if self._ignored else []
        return Listing(
            files=sorted(self._files, key=lambda entry: entry.path),
            rejected=sorted(self._rejected, key=lambda rejected: rejected.path),
            notes=[*notes, *alike_notes(labels)],
            exclusive=self._exclusive,
        )

    def _parse_header(self, row: list[str]) -> None:
        names = [name.strip().lower() for name in row]
        found = ", ".join(repr(name) for name in names) or "nothing"
        if "path" not in names:
            raise self._wrong(f"no column 'path' among {found}; the first line names the columns, separated by commas")
        if (_ONE in names) == (_SEVERAL in names):
            which = "both 'label' and 'labels'" if _ONE in names else "neither 'label' nor 'labels'"
            raise self._wrong(f"{which} among {found}; 'label' is one class a picture, 'labels' any number of them")
        if twice := [name for name in COLUMNS if names.count(name) > 1]:
            raise self._wrong(f"column '{twice[0]}' is there twice")
        self._columns = {name: place for place, name in enumerate(names) if name in COLUMNS}
        self._num_columns = len(names)
        self._ignored = [repr(name) for name in names if name not in COLUMNS]
        self._exclusive = _ONE in names

    def _add(self, row: list[str]) -> None:
        if len(row) != self._num_columns:
            raise self._wrong(f"{len(row)} fields, but the header has {self._num_columns}; quote fields with commas")
        cells = {name: row[place].strip() for name, place in self._columns.items()}
        path = self._parse_path(row[self._columns["path"]])
        labels = self._parse_labels(cells)
        split = self._parse_split(cells.get("split", ""))
        try:
            status = os.stat(os.path.join(self._root, path))
        except OSError as error:
            missing = isinstance(error, FileNotFoundError | NotADirectoryError)
            self._rejected.append(Rejected(path, "no such file" if missing else f"cannot be read: {error.strerror}"))
            return
        if not stat.S_ISREG(status.st_mode):
            self._rejected.append(Rejected(path, f"not a file but {kind_of(status)}"))
            return
        self._files.append(FileEntry(path, status.st_size, status.st_mtime_ns, split, labels))

    def _parse_path(self, text: str) -> str:
        """Return the path relative to the table's folder, by its name alone; links are followed, as in folders."""
        if not text.strip() or "\0" in text:
            raise self._wrong("no path")
        # an absolute path may be spelt with the root's name or with what that links to
        path = _find_below(self._root, text) or _find_below(os.path.realpath(self._root), text)
        if path is None:
            raise self._wrong(f"{text} is outside {self._root}; move the table, or the picture, or link to it")
        if path in self._lines:
            raise self._wrong(f"{text} was named in {self._word} {self._lines[path]} already; one row a picture")
        self._lines[path] = self._line
        return path

    def _parse_labels(self, cells: dict[str, str]) -> tuple[str, ...]:
        if self._exclusive:
            if not cells[_ONE]:
                raise self._wrong("no label; a picture without any is possible in a table with a column 'labels'")
            return (cells[_ONE],)
        if not cells[_SEVERAL]:
            return ()
        labels = [label.strip() for label in cells[_SEVERAL].split(SEPARATOR)]
        if not all(labels):
            raise self._wrong(f"an empty label in {cells[_SEVERAL]!r}")
        return tuple(sorted(set(labels)))

    def _parse_split(self, text: str) -> Split | None:
        if text and text.lower() not in SPLITS:
            raise self._wrong(f"unknown split {text!r}; wanted train, val or test")
        if text and self._split_line is None:
            self._split_line = self._line
        if not text and self._bare_line is None:
            self._bare_line = self._line
        if self._split_line is not None and self._bare_line is not None:
            raise DataError(
                f"{self.table}, {self._word} {self._bare_line}: no split, but {self._word} {self._split_line} has one. "
                "Give all rows a split, or none."
            )
        return SPLITS[text.lower()] if text else None

    def _wrong(self, what: str) -> DataError:
        return DataError(f"{self.table}, {self._word} {self._line}: {what}.")


def _numbered(table: str, rows: Iterator[list[str]]) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows, each with the line that it begins in: a quoted field may hold line breaks."""
    end = 0
    while True:
        try:
            row = next(rows, None)
        except csv.Error as error:
            raise DataError(f"{table}, line {end + 1}: no valid CSV ({error}).") from error
        if row is None:
            return
        yield end + 1, row
        end = int(rows.line_num)  # type: ignore[attr-defined]  # of csv.reader, which has no public type


def _find_below(root: str, text: str) -> str | None:
    """Return a path relative to the root; None if it leads out of it."""
    path = os.path.relpath(os.path.join(root, text), root)
    return None if path == os.pardir or path.startswith(os.path.join(os.pardir, "")) else path
