import os

import pytest

from pipeline.errors import DataError, NotFoundError
from storage.datasets.table import is_table, list_rows, list_table


@pytest.fixture
def table(tmp_path):
    """Write a table, and files beside it at the given paths."""

    def make(content, *paths, name="table.csv"):
        for path in paths:
            place = tmp_path / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(b"content")
        place = tmp_path / name
        place.write_bytes(content if isinstance(content, bytes) else content.encode())
        return place

    return make


def rows(listing):
    return [(entry.path, entry.split, entry.labels) for entry in listing.files]


# ── what is understood ───────────────────────────────────────────────────────────────────────────


def test_a_column_label_gives_every_picture_one_label(table):
    listing = list_table(table("path,label\nx/b.jpg,dog\na.jpg,cat\n", "a.jpg", "x/b.jpg"))
    assert rows(listing) == [("a.jpg", None, ("cat",)), ("x/b.jpg", None, ("dog",))]
    assert (listing.rejected, listing.notes, listing.exclusive) == ([], [], True)


def test_a_column_labels_gives_any_number_sorted_and_none_twice(table):
    listing = list_table(table("labels,path\nred|big|red,a.jpg\n,b.jpg\nred,c.jpg\n", "a.jpg", "b.jpg", "c.jpg"))
    assert [entry.labels for entry in listing.files] == [("big", "red"), (), ("red",)]
    assert not listing.exclusive


def test_labels_do_not_exclude_each_other_even_where_every_row_has_one(table):
    assert not list_table(table("path,labels\na.jpg,cat\nb.jpg,dog\n", "a.jpg", "b.jpg")).exclusive


def test_size_and_time_are_those_of_the_file(table, tmp_path):
    place = table("path,label\na.jpg,cat\n", "a.jpg")
    os.utime(tmp_path / "a.jpg", ns=(0, 123_456_789))
    (entry,) = list_table(place).files
    assert (entry.size_bytes, entry.mtime_ns) == (7, 123_456_789)


@pytest.mark.parametrize(("text", "split"), [("train", "train"), ("Validation", "val"), ("TEST", "test")])
def test_splits_are_known_by_many_names(table, text, split):
    assert list_table(table(f"path,label,split\na.jpg,cat,{text}\n", "a.jpg")).files[0].split == split


@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_byte_order_mark_and_any_line_ends_make_no_difference(table, start, end):
    place = table(f"{start}Path, Label{end}{end}a.jpg,café{end}", "a.jpg")
    assert rows(list_table(place)) == [("a.jpg", None, ("café",))]


def test_quoted_fields_hold_commas_quotes_and_line_breaks(table):
    place = table('path,label\n"a, b.jpg","the ""one"""\n"c\nd.jpg",two\n', "a, b.jpg", "c\nd.jpg")
    assert rows(list_table(place)) == [("a, b.jpg", None, ('the "one"',)), ("c\nd.jpg", None, ("two",))]


def test_an_absolute_path_inside_the_folder_is_one_of_its_files(table, tmp_path):
    place = table(f"path,label\n{tmp_path}/x/a.jpg,cat\n", "x/a.jpg")
    assert rows(list_table(place)) == [("x/a.jpg", None, ("cat",))]


def test_an_absolute_path_may_be_spelt_without_the_links_that_lead_to_the_table(table, tmp_path):
    table(f"path,label\n{tmp_path}/a.jpg,cat\n", "a.jpg")
    (tmp_path / "link").symlink_to(tmp_path)
    assert rows(list_table(tmp_path / "link" / "table.csv")) == [("a.jpg", None, ("cat",))]


def test_columns_that_are_not_read_are_named(table):
    listing = list_table(table("path,label,width\na.jpg,cat,10\n", "a.jpg"))
    assert listing.notes == ["Columns that are not read: 'width'."]


def test_labels_that_differ_only_in_case_are_named(table):
    listing = list_table(table("path,label\na.jpg,Cat\nb.jpg,cat\n", "a.jpg", "b.jpg"))
    assert listing.notes == ["Classes whose names differ only in case or spelling: 'Cat', 'cat'."]


def test_a_file_whose_name_ends_in_csv_is_a_table_and_a_folder_is_not(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    assert is_table(str(tmp_path / "new.CSV"))
    assert not is_table(str(tmp_path / "folder.csv"))
    assert not is_table(str(tmp_path))


# ── what costs its own row ───────────────────────────────────────────────────────────────────────


def test_a_missing_file_and_a_folder_cost_their_own_rows(table):
    listing = list_table(table("path,label\nz.jpg,cat\nx,cat\na.jpg,cat\n", "a.jpg", "x/b.jpg"))
    assert [(item.path, item.reason) for item in listing.rejected] == [
        ("x", "not a file but a folder"),
        ("z.jpg", "no such file"),
    ]
    assert [entry.path for entry in listing.files] == ["a.jpg"]


def test_a_pipe_is_not_opened(table, tmp_path):
    place = table("path,label\npipe.jpg,cat\na.jpg,dog\n", "a.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    assert [item.reason for item in list_table(place).rejected] == ["not a file but a pipe"]


# ── what is an error with its line ───────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "line 1: no column 'path' among nothing"),
        ("file,label\na.jpg,cat\n", "line 1: no column 'path' among 'file', 'label'"),
        ("path;label\na.jpg;cat\n", "line 1: no column 'path' among 'path;label'.*separated by commas"),
        ("path,class\na.jpg,cat\n", "line 1: neither 'label' nor 'labels' among 'path', 'class'"),
        ("path,label,labels\na.jpg,cat,cat\n", "line 1: both 'label' and 'labels'"),
        ("path,path,label\na.jpg,a.jpg,cat\n", "line 1: column 'path' is there twice"),
        ("path,label\n", "has a header and no rows"),
        ("path,label\na.jpg,cat\nb.jpg\n", "line 3: 1 fields, but the header has 2"),
        ("path,label\na.jpg,cat,dog\n", "line 2: 3 fields, but the header has 2; quote fields with commas"),
        ("path,label\n ,cat\n", "line 2: no path"),
        ("path,label\n\n\na.jpg, \n", "line 4: no label; .*column 'labels'"),
        ("path,labels\na.jpg,cat||dog\n", r"line 2: an empty label in 'cat\|\|dog'"),
        ("path,label\n../a.jpg,cat\n", r"line 2: \.\./a.jpg is outside"),
        ("path,label\n/etc/passwd,cat\n", "line 2: /etc/passwd is outside"),
        ("path,label\nx/../../a.jpg,cat\n", "line 2: .* is outside"),
        ("path,label\na.jpg,cat\nx/../a.jpg,dog\n", "line 3: x/../a.jpg was named in line 2 already"),
        ("path,label,split\na.jpg,cat,dev\n", "line 2: unknown split 'dev'; wanted train, val or test"),
        ("path,label,split\na.jpg,cat,train\nb.jpg,cat,\n", "line 3: no split, but line 2 has one"),
        ("path,label,split\na.jpg,cat,\nb.jpg,cat,test\n", "line 2: no split, but line 3 has one"),
        ('path,label\n"a\nb.jpg",cat\n"c.jpg,cat\n', "line 4: no valid CSV"),
        ('path,label\n"a\nb.jpg",cat\nc.jpg,\n', "line 4: no label"),
        (b"path,label\na.jpg,cat\nb.jpg,caf\xe9\n", "line 3: not UTF-8. Save the table as UTF-8"),
        ("path,label\na.jpg,cat\n".encode("utf-16"), "line 1: not UTF-8"),
    ],
)
def test_what_a_table_says_wrongly_is_an_error_with_its_line(table, content, message):
    with pytest.raises(DataError, match=message):
        list_table(table(content))


def test_there_is_no_table_where_there_is_no_file(tmp_path):
    with pytest.raises(NotFoundError, match="no table"):
        list_table(tmp_path / "new.csv")


def test_rows_from_python_are_read_as_a_table_is_and_counted_from_zero(tmp_path):
    for name in ("1.png", "2.png"):
        (tmp_path / name).write_bytes(b"x")
    rows = [("path", "label", "split"), (str(tmp_path / "1.png"), "cat", "train"), ("2.png", "dog", "test")]
    found = list_rows(rows, str(tmp_path))
    assert [(entry.path, entry.labels, entry.split) for entry in found.files] == [
        ("1.png", ("cat",), "train"),
        ("2.png", ("dog",), "test"),
    ]
    with pytest.raises(DataError, match=r"the table, row 1: 2\.png was named in row 0 already"):
        list_rows([("path", "label"), ("2.png", "dog"), ("2.png", "cat")], str(tmp_path))
    with pytest.raises(DataError, match="the table, row 1: no split, but row 0 has one"):
        list_rows([("path", "label", "split"), ("1.png", "cat", "test"), ("2.png", "dog", "")], str(tmp_path))
