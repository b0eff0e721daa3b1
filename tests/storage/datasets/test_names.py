from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UsageError
from storage.datasets.names import dataset_name, parse_dataset_name


@pytest.mark.parametrize(
    ("text", "name"),
    [("My Flowers!", "my-flowers"), ("  a__b.v2 ", "a__b.v2"), ("Blümchen", "blumchen"), ("..x", "x")],
)
def test_a_folder_gives_a_dataset_its_name(text, name):
    assert dataset_name(text) == name


def test_folders_in_other_scripts_get_names_of_their_own():
    assert dataset_name("花") != dataset_name("犬")


@given(st.text(st.characters(exclude_categories=())))
def test_a_derived_name_is_always_a_good_one(text):
    assert parse_dataset_name(dataset_name(text)) == dataset_name(text)


@pytest.mark.parametrize("text", ["", "Pets", "-x", "a b", "../x", "a/b", "x" * 65, "pets\n"])
def test_a_bad_name_is_refused(text):
    with pytest.raises(UsageError, match="Wanted"):
        parse_dataset_name(text)
