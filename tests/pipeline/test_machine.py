import os

import pytest

from pipeline.machine import has_gpu, machine_id, usable_cores

affinity = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system has no affinity")


@pytest.fixture
def four_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 2, 4, 6})


@pytest.fixture
def root(tmp_path):
    """A file system; `root(path, text)` adds a file to it."""

    def write(path, text=""):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
        return tmp_path

    return write


@affinity
@pytest.mark.usefixtures("four_cores")
@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", 4), ("200000 100000", 2), ("150000 100000", 2), ("50000 100000", 1), ("900000 100000", 4)],
)
def test_cores_are_those_that_affinity_and_quota_leave(root, quota, cores):
    assert usable_cores(root("sys/fs/cgroup/cpu.max", f"{quota}\n")) == cores


@affinity
@pytest.mark.usefixtures("four_cores")
def test_without_a_quota_affinity_decides(tmp_path, root):
    assert usable_cores(tmp_path) == 4
    assert usable_cores(root("sys/fs/cgroup/cpu.max", "")) == 4


def test_a_machine_is_known_by_its_cores_and_its_openvino(monkeypatch):
    before = machine_id()
    assert before == machine_id()
    monkeypatch.setattr("pipeline.machine.usable_cores", lambda: 999)
    assert machine_id() != before
    assert "999 cores" in machine_id()
    monkeypatch.setattr("pipeline.machine.version", lambda name: "1.2.3")
    assert machine_id().endswith("openvino 1.2.3")


def test_a_gpu_is_a_driver_with_a_device(root):
    assert not has_gpu(root=root("etc/hostname"))
    assert not has_gpu(root=root("dev/nvidiactl"))
    assert has_gpu(root=root("proc/driver/nvidia/gpus/0000:01:00.0/information"))


def test_a_driver_whose_device_was_not_given_to_us_is_no_gpu(root):
    assert not has_gpu(root=root("proc/driver/nvidia/gpus/0000:01:00.0/information"))


@pytest.mark.parametrize(
    ("visible", "found"),
    [(None, True), ("0", True), ("1,0", True), ("GPU-8f2", True), ("", False), ("-1", False), ("-1,0", False)],
)
def test_a_hidden_gpu_is_none(root, visible, found):
    root("dev/nvidiactl")
    assert has_gpu(visible, root("proc/driver/nvidia/gpus/0000:01:00.0/information")) == found
