"""The table of predictions, as those read it who never heard of us."""

from __future__ import annotations

import csv
from datetime import UTC, datetime

import pytest
from pyarrow import parquet

from pipeline.errors import ConflictError, UsageError
from storage.disk.atomic import REAL
from storage.predictions.parts import Row, SeenFile
from storage.predictions.table import check_table_name, write_table

WHEN = "2026-01-02T03:04:05+00:00"
COLUMNS = ["path", "label", "probability", "label_2", "probability_2"]
REST = ["labels", "label_probabilities", "error", "model", "predicted"]
ROWS = [
    Row(SeenFile("b/2.jpg", 1, 1), "pets@2", WHEN, (("dog", 0.75), ("cat", 0.25)), (("dog", 0.75),)),
    Row(SeenFile("a.jpg", 1, 1), "pets@1", WHEN, (("cat", 1 / 3), ("dog", 0.3), ("eel", 0.2))),
    Row(SeenFile("none.png", 1, 1), "pets@2", WHEN, (("dog", 0.25),), ()),
    Row(SeenFile('odd, "name"\n\udcff.txt', 1, 1), "pets@2", WHEN, error="not a picture that can be read (text)"),
]
SEVERAL = Row(SeenFile("z.png", 1, 1), "pets@2", WHEN, (("dog", 0.9),), (("dog", 0.9), ("cat", 0.7)))


def write(path, rows=ROWS, top=2):
    return write_table(path, rows, top, REAL)


def test_csv_has_a_row_per_file_by_path(tmp_path):
    path = tmp_path / "out.csv"
    write(path, [*ROWS, SEVERAL])
    with open(path, newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [
            [*COLUMNS, *REST],
            ["a.jpg", "cat", "0.333333", "dog", "0.300000", "", "", "", "pets@1", WHEN],
            ["b/2.jpg", "dog", "0.750000", "cat", "0.250000", "dog", "0.750000", "", "pets@2", WHEN],
            ["none.png", "dog", "0.250000", "", "", "", "", "", "pets@2", WHEN],
            ['odd, "name"\n\\udcff.txt', *[""] * 6, "not a picture that can be read (text)", "pets@2", WHEN],
            ["z.png", "dog", "0.900000", "", "", "dog|cat", "0.900000|0.700000", "", "pets@2", WHEN],
        ]


def test_parquet_has_the_same_columns_with_types(tmp_path):
    path = tmp_path / "out.parquet"
    write(path)
    table = parquet.read_table(path)
    assert table.column_names == [*COLUMNS, *REST]
    assert [str(kind) for kind in table.schema.types] == [
        *("string", "string", "double", "string", "double"),
        *("list<element: string>", "list<element: double>", "string", "string", "timestamp[ms, tz=UTC]"),
    ]
    first, second, third, fourth = table.to_pylist()
    assert (first["path"], first["label"], first["probability"], first["labels"]) == ("a.jpg", "cat", 1 / 3, None)
    assert (second["labels"], second["label_probabilities"]) == (["dog"], [0.75])
    assert (third["labels"], third["label_2"], third["error"]) == ([], None, None)
    assert (fourth["path"], fourth["label"]) == ('odd, "name"\n\\udcff.txt', None)
    assert first["predicted"] == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_the_columns_depend_on_top_alone(tmp_path, name):
    path = tmp_path / name

    def columns():
        if path.suffix == ".csv":
            return path.read_text().partition("\n")[0].split(",")
        return parquet.read_schema(path).names

    write(path, [], top=1)
    assert columns() == [*COLUMNS[:3], *REST]
    write(path, ROWS, top=1)
    assert columns() == [*COLUMNS[:3], *REST]
    write(path, [], top=4)
    assert columns() == [*COLUMNS, "label_3", "probability_3", "label_4", "probability_4", *REST]


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_a_table_that_is_as_it_should_be_is_not_written_again(tmp_path, name):
    path = tmp_path / name
    assert write(path)
    first = path.stat()
    assert not write(path, ROWS[::-1])
    assert path.stat() == first
    for spoil in (lambda: path.write_bytes(bytes(path.stat().st_size)), path.unlink):
        data = path.read_bytes()
        spoil()
        assert write(path)
        assert path.read_bytes() == data
    assert [found.name for found in tmp_path.iterdir()] == [name]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "out.csv").symlink_to(tmp_path / "real" / "table.csv")
    write(tmp_path / "out.csv")
    assert (tmp_path / "out.csv").is_symlink()
    assert (tmp_path / "real" / "table.csv").is_file()


def test_what_a_killed_process_left_beside_it_goes(tmp_path):
    left = tmp_path / ".out.csv.part"
    left.mkdir()
    (left / ".1234.part").write_text("half of a table")
    write(tmp_path / "out.csv")
    assert [found.name for found in tmp_path.iterdir()] == ["out.csv"]


def test_a_place_that_cannot_be_written_is_a_conflict(tmp_path):
    (tmp_path / "out.csv").mkdir()
    with pytest.raises(ConflictError, match=r"Cannot write .*out\.csv"):
        write(tmp_path / "out.csv")
    (tmp_path / "file").touch()
    with pytest.raises(ConflictError, match="Cannot write"):
        write(tmp_path / "file" / "out.csv")


def test_the_ending_chooses_the_format(tmp_path):
    for name in ("a.csv", "a.CSV", "a.parquet"):
        check_table_name(tmp_path / name)
    with pytest.raises(UsageError, match=r"'a\.xlsx' does not end in \.csv or \.parquet"):
        check_table_name(tmp_path / "a.xlsx")
