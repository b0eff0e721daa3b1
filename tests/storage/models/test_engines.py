from __future__ import annotations

import os

import pytest

from storage.models.engines import find_engine, new_engine


@pytest.fixture
def compiled(workspace):
    with new_engine(workspace, "e1") as folder:
        (folder / "network.xml").write_bytes(b"graph")
        (folder / "network.bin").write_bytes(b"weights")
    return workspace.engine("e1")


def test_an_engine_is_found_once_it_is_whole(workspace, compiled):
    assert find_engine(workspace, "e1") == compiled
    assert sorted(os.listdir(compiled)) == ["engine.json", "network.bin", "network.xml"]
    assert find_engine(workspace, "e2") is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "network.bin").write_bytes(b"weightz"),
        lambda folder: (folder / "network.bin").unlink(),
        lambda folder: (folder / "engine.json").write_text("{"),
        lambda folder: (folder / "engine.json").unlink(),
    ],
)
def test_an_engine_that_is_not_whole_is_compiled_again(workspace, compiled, damage):
    damage(compiled)
    assert find_engine(workspace, "e1") is None
    assert not compiled.exists()


def test_the_first_of_two_engines_stays(workspace, compiled):
    with new_engine(workspace, "e1") as folder:
        (folder / "network.bin").write_bytes(b"other")
    assert (compiled / "network.bin").read_bytes() == b"weights"
    assert find_engine(workspace, "e1") == compiled


def test_nothing_remains_of_an_engine_that_failed(workspace):
    def failing():
        with new_engine(workspace, "e1") as folder:
            (folder / "network.bin").write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        failing()
    assert find_engine(workspace, "e1") is None
    assert os.listdir(workspace.staging.folder) == []
