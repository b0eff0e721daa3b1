import os
from pathlib import Path

import pandas as pd
import pytest

from flows.api.data import parse_data
from pipeline.errors import DataError, UsageError
from tests.factories import write_dataset


@pytest.fixture
def pairs(tmp_path):
    folder = write_dataset(tmp_path / "shapes", num_classes=2, per_class=3)
    return [(path, path.parent.name) for path in sorted(folder.glob("*/*"))]


def test_a_folder_and_a_table_stay_what_they_are():
    assert parse_data(Path("pictures")) == ("pictures", None)
    assert parse_data("pictures.csv") == ("pictures.csv", None)


def test_pairs_and_a_data_frame_list_the_same_pictures(pairs, tmp_path):
    frame = pd.DataFrame(pairs, columns=["Path", "label"])
    frame["camera"] = 1  # a column that is not read
    by_pairs, by_frame = parse_data(pairs), parse_data(frame)
    assert by_pairs == by_frame
    assert by_pairs[0] == str(tmp_path / "shapes")
    assert [entry.labels for entry in by_pairs[1].files] == [("class0",)] * 3 + [("class1",)] * 3


def test_relative_paths_are_below_the_working_folder(pairs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = parse_data([(os.path.relpath(path), label) for path, label in pairs])
    assert found == parse_data(pairs)


def test_splits_and_missing_values_are_read_as_in_a_table(pairs):
    frame = pd.DataFrame(pairs, columns=["path", "label"])
    frame["split"] = ["train", "train", "test"] * 2
    assert [entry.split for entry in parse_data(frame)[1].files] == ["train", "train", "test"] * 2
    frame.loc[4, "label"] = float("nan")
    with pytest.raises(DataError, match="the table, row 4: no label"):
        parse_data(frame)


def test_several_labels_are_lists_or_joined_text(pairs):
    paths = [path for path, _ in pairs]
    lists = parse_data([(path, ["red", "big"] if number % 2 else []) for number, path in enumerate(paths)])
    frame = pd.DataFrame({"path": paths, "labels": ["", "red|big"] * 3})
    assert lists == parse_data(frame)
    assert lists[1].exclusive is False
    assert lists[1].files[1].labels == ("big", "red")


def test_numbers_are_labels_too(pairs):
    assert parse_data([(path, number % 2) for number, (path, _) in enumerate(pairs)])[1].files[1].labels == ("1",)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ([], "There are no rows"),
        (7, "int cannot be read as data"),
        ([("a.jpg", "cat", 3)], "cannot be read as data"),
        ([(3, "cat")], "cannot be read as data"),
        (pd.DataFrame({"file": ["a.jpg"], "label": ["cat"]}), "no column 'path' among file, label"),
        ([("a.jpg", ["cat|dog"])], "'cat|dog' cannot be a label"),
    ],
)
def test_what_is_no_data_is_refused_with_what_was_wanted(data, reason):
    with pytest.raises(UsageError) as caught:
        parse_data(data)
    assert reason in str(caught.value)
