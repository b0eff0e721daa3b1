from __future__ import annotations

import pytest

from pipeline.errors import ConflictError
from storage.measurements import find_measurement, write_measurement

VALUE = {"distance": 0.125, "verdict": "similar"}


def test_a_record_comes_back_by_its_key(workspace):
    assert find_measurement(workspace, "similarity", "k1") is None
    write_measurement(workspace, "similarity", "k1", VALUE)
    write_measurement(workspace, "similarity", "k2", {})
    assert find_measurement(workspace, "similarity", "k1") == VALUE
    assert find_measurement(workspace, "similarity", "k2") == {}


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"format": "headstart.similarity", "version": 1}'])
def test_a_damaged_record_is_set_aside_and_can_be_written_again(workspace, content):
    write_measurement(workspace, "similarity", "k1", VALUE)
    workspace.measurement("similarity", "k1").write_text(content)
    assert find_measurement(workspace, "similarity", "k1") is None
    assert [path.read_text() for path in workspace.quarantine.iterdir()] == [content]
    write_measurement(workspace, "similarity", "k1", VALUE)
    assert find_measurement(workspace, "similarity", "k1") == VALUE


def test_a_record_of_a_newer_version_is_left_alone(workspace):
    path = workspace.measurement("similarity", "k1")
    path.parent.mkdir()
    path.write_text('{"format": "headstart.similarity", "version": 2}')
    with pytest.raises(ConflictError, match="version 2"):
        find_measurement(workspace, "similarity", "k1")
    assert path.exists()
