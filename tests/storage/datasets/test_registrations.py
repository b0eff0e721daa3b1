import pytest

from pipeline.errors import DamagedError
from storage.datasets.registrations import find_registration, write_registration


def test_what_a_dataset_was_onboarded_with_is_found_again(workspace):
    assert find_registration(workspace, "pets") is None
    write_registration(workspace, "pets", {"folder": "/pictures/pets", "views": 2})
    write_registration(workspace, "cars", {"folder": "/pictures/cars"})
    assert find_registration(workspace, "pets") == {"folder": "/pictures/pets", "views": 2}
    write_registration(workspace, "pets", {"folder": "/elsewhere"})
    assert find_registration(workspace, "pets") == {"folder": "/elsewhere"}


def test_what_is_known_already_is_not_written_again(workspace):
    write_registration(workspace, "pets", {"folder": "/pictures/pets"})
    before = workspace.onboarded("pets").stat()
    write_registration(workspace, "pets", {"folder": "/pictures/pets"})
    after = workspace.onboarded("pets").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("damage", [b"", b"{}", b"[1]"])
def test_a_damaged_one_says_that_the_dataset_must_be_onboarded_again(workspace, damage):
    write_registration(workspace, "pets", {"folder": "/pictures/pets"})
    workspace.onboarded("pets").write_bytes(damage)
    with pytest.raises(DamagedError, match=r"Onboard it once more.*--name pets"):
        find_registration(workspace, "pets")
    write_registration(workspace, "pets", {"folder": "/pictures/pets"})
    assert find_registration(workspace, "pets") == {"folder": "/pictures/pets"}
