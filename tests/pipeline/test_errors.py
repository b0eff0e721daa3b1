"""Each error is a sentence, has an exit code, and is the built-in error that people catch."""

from __future__ import annotations

import pickle

import pytest

from pipeline import errors

BUILT_IN = {
    errors.UsageError: ValueError,
    errors.DataError: ValueError,
    errors.ImageError: ValueError,
    errors.NotFoundError: FileNotFoundError,
    errors.ServerUnreachableError: ConnectionError,
}
CORRUPTED = (errors.ConflictError, errors.DamagedError, errors.NumericsError, errors.GateError, errors.CancelledError)


@pytest.mark.parametrize(("error", "built_in"), BUILT_IN.items())
def test_an_error_is_caught_as_the_built_in_one_and_says_its_sentence_alone(error, built_in):
    with pytest.raises(built_in) as caught:
        raise error("There is no folder 'pets'. Name one.")
    assert str(caught.value) == "There is no folder 'pets'. Name one."
    assert caught.value.exit_code == error.exit_code
    assert isinstance(caught.value, errors.HeadstartError)


@pytest.mark.parametrize("error", CORRUPTED)
def test_what_readers_of_files_turn_into_damage_is_none_of_the_errors_that_say_so_already(error):
    """`except (OSError, ValueError, ...)` round a library's reader must not catch the answer of an inner one."""
    from storage.disk.hdf5 import UNREADABLE

    assert not issubclass(error, UNREADABLE)
    assert str(error("Cannot write /there: it is full.")) == "Cannot write /there: it is full."


def test_an_unknown_name_says_the_nearest_and_is_a_value_error():
    with pytest.raises(ValueError, match=r"^Unknown tap 'topp'\. Did you mean 'top'\? Known: deep, top\.$"):
        raise errors.UnknownNameError("tap", "topp", ["top", "deep"])


@pytest.mark.parametrize(
    "error", [errors.UnknownNameError("tap", "topp", iter(["top", "deep"])), errors.NotFoundError("There is none.")]
)
def test_an_error_from_a_process_of_a_cluster_is_the_same_here(error):
    there = pickle.loads(pickle.dumps(error))
    assert (type(there), str(there), there.exit_code) == (type(error), str(error), error.exit_code)
