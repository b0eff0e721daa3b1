import numpy as np
import pytest

from pipeline.engine.canary import TOLERANCE, canary_pictures, check_canary, relative_difference
from pipeline.errors import NumericsError
from pipeline.images.decode import decode
from tests.factories import a_block, a_recipe


def changed(block, tap, change):
    return a_block(first=0, digests=block.digests, taps={**block.taps, tap: change(block.taps[tap])})


def test_the_same_numbers_pass():
    check_canary(a_block(), a_block())


def test_rounding_to_float16_passes():
    stored = a_block(taps={name: rows.astype(np.float16).astype(np.float32) for name, rows in a_block().taps.items()})
    check_canary(a_block(), stored)


@pytest.mark.parametrize("tap", ["top", "stage5_grid"])
@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows * 1.01,
        lambda rows: rows * 0.99,
        lambda rows: rows[::-1],
        lambda rows: rows[:, ::-1],
        lambda rows: rows * 0,
        lambda rows: rows * np.nan,
        lambda rows: rows[:, :-1],
        lambda rows: rows[:-1],
    ],
    ids=["1 % more", "1 % less", "rows swapped", "columns swapped", "zero", "nan", "column lost", "row lost"],
)
def test_other_numbers_are_refused_and_the_tap_is_named(tap, change):
    with pytest.raises(NumericsError, match=f"computes tap '{tap}' of the built-in pictures"):
        check_canary(changed(a_block(), tap, change), a_block())


def test_the_message_says_what_came_what_was_wanted_and_what_to_do():
    with pytest.raises(NumericsError, match=r"difference of 1.0e-02 .* at most 2e-03.* constraints.txt"):
        check_canary(changed(a_block(), "top", lambda rows: rows * np.float32(1.01)), a_block())


def test_a_difference_is_relative_to_the_norm():
    rows = a_block().taps["top"]
    assert relative_difference(rows, rows) == 0
    assert relative_difference(rows * 3, rows * 2) == pytest.approx(0.5)
    assert relative_difference(rows * 3000, rows * 2000) == pytest.approx(0.5)
    assert relative_difference(rows, rows * 0) > TOLERANCE


def test_the_built_in_pictures_decode_and_differ_in_kind():
    pictures = [decode(data, a_recipe()) for data in canary_pictures()]
    assert len({picture.size for picture in pictures}) == len(pictures) == 3
    assert sum(data.startswith(b"\xff\xd8") for data in canary_pictures()) == 2  # JPEG, the format that varies
