"""Extraction on a Dask cluster: two real worker processes, the session's real Prefect server."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
from dataclasses import replace

import pytest

import flows.cli.app as cli
from flows.features import extraction
from flows.progress import Quiet
from flows.requests import OnboardRequest
from pipeline.backbones.table import DEFAULT_BACKBONE, get_backbone
from pipeline.errors import ConflictError, NumericsError, ServerUnreachableError, UnknownNameError, UsageError
from pipeline.machine import usable_cores
from storage.datasets.manifests import read_manifest
from storage.features.store import FeatureStore
from storage.features.writer import FeatureWriter
from storage.workspace import Workspace
from tests import factories

pytestmark = [pytest.mark.prefect, pytest.mark.heavy]

SPEC = get_backbone(DEFAULT_BACKBONE)
PART_ROWS = 32
NUM_PICTURES = 240


@pytest.fixture(scope="module")
def cluster(prefect_server):
    """A Dask cluster of two worker processes."""
    from flows.features.cluster import local_cluster

    with local_cluster(num_workers=2) as started:
        yield started


@pytest.fixture
def scheduler(cluster):
    """The address of its scheduler."""
    return cluster.scheduler_address


@pytest.fixture
def pictures(tiny_dataset):
    return tiny_dataset(per_class=NUM_PICTURES // 3)


@pytest.mark.skipif(usable_cores() < 2 or not hasattr(os, "sched_getaffinity"), reason="needs two cores, on Linux")
def test_workers_of_one_machine_share_its_cores_out(scheduler):
    one, other = _on_workers(scheduler, os.sched_getaffinity, 0)
    assert one.isdisjoint(other)
    assert one | other == os.sched_getaffinity(0)


def test_two_workers_store_what_one_process_stores(scheduler, pictures, warm_workspace, tmp_path):
    alone = tmp_path / "alone"
    shutil.copytree(warm_workspace, alone)

    expected = extraction.extract(Workspace.open(alone), _scan(pictures, alone), SPEC)
    extracted = _extract(scheduler, warm_workspace, _scan(pictures, warm_workspace))

    assert extracted == expected
    assert extracted.num_computed == NUM_PICTURES
    assert len(_shards(warm_workspace)) == -(-NUM_PICTURES // PART_ROWS)
    digests = [image.digest for image in read_manifest(Workspace.open(alone), pictures.name).images]
    ours, theirs = (FeatureWriter(Workspace.open(root), SPEC.space()) for root in (alone, warm_workspace))
    for tap in SPEC.taps:
        assert ours.read(digests, tap.name).tobytes() == theirs.read(digests, tap.name).tobytes()


def test_a_killed_worker_costs_at_most_its_part(scheduler, pictures, warm_workspace):
    dataset = _scan(pictures, warm_workspace)
    killer = _KillsAWorker(scheduler, warm_workspace)

    extracted = _extract(scheduler, warm_workspace, dataset, killer)

    assert killer.killed not in _process_ids(scheduler)
    assert 0 < killer.num_stored_then < NUM_PICTURES
    assert extracted.num_images == NUM_PICTURES
    store = FeatureWriter(Workspace.open(warm_workspace), SPEC.space())
    assert (
        store.missing([image.digest for image in read_manifest(Workspace.open(warm_workspace), dataset.name).images])
        == []
    )
    # nothing that was committed was computed again: every row is there once
    assert killer.shards_then <= _shards(warm_workspace)
    assert sum(_num_rows(shard) for shard in _shards(warm_workspace)) == store.num_stored == NUM_PICTURES


class _KillsAWorker(Quiet):
    """Listens to progress: when the first part is done, and both workers are at their next, kills one of them."""

    def __init__(self, scheduler, workspace):
        self._scheduler, self._workspace = scheduler, workspace
        self.killed = None

    def advance(self, num_done):
        if self.killed is None:
            self.killed = _process_ids(self._scheduler)[0]
            os.kill(self.killed, signal.SIGKILL)
            self.shards_then = _shards(self._workspace)
            self.num_stored_then = FeatureStore(Workspace.open(self._workspace), SPEC.space()).num_stored


def test_an_error_of_a_worker_comes_out_as_it_would_inline(scheduler, pictures, warm_workspace, engine):
    from pipeline.engine.extract import canary_block

    block = canary_block(SPEC.recipe, engine)
    other = replace(block, taps={name: rows + 0.5 for name, rows in block.taps.items()})
    FeatureWriter(Workspace.open(warm_workspace), SPEC.space()).write_canary(other)
    dataset = _scan(pictures, warm_workspace)

    with pytest.raises(NumericsError) as inline:
        extraction.extract(Workspace.open(warm_workspace), dataset, SPEC)
    with pytest.raises(NumericsError) as on_cluster:
        _extract(scheduler, warm_workspace, dataset)
    assert str(on_cluster.value) == str(inline.value)


def test_workers_that_do_not_see_the_pictures_are_found_before_they_begin(scheduler, pictures, warm_workspace):
    dataset = _scan(pictures, warm_workspace)
    shutil.rmtree(pictures)
    with pytest.raises(
        UsageError, match=rf"does not see {pictures}\. Workspace and pictures must be on storage that all"
    ):
        _extract(scheduler, warm_workspace, dataset)


def test_a_worker_that_does_not_reach_the_server_says_so(tmp_path):
    from flows.features.cluster import find_obstacle

    assert "Set PREFECT_API_URL" in find_obstacle(str(tmp_path), str(tmp_path), f"http://{_closed_port()}/api")


def test_a_scheduler_that_does_not_answer_is_one_sentence(monkeypatch):
    from flows.features import cluster

    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.2)
    with pytest.raises(ServerUnreachableError, match="No Dask scheduler answers at 127"):
        cluster.extract_on(_closed_port(), print)


def test_a_scheduler_without_workers_is_one_sentence():
    from distributed import LocalCluster

    from flows.features.cluster import extract_on

    with (
        LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0") as empty,
        pytest.raises(ServerUnreachableError, match="has no workers"),
    ):
        extract_on(empty.scheduler_address, print)


def test_a_prefect_server_that_is_set_must_answer():
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.features.cluster import extract_on

    with (
        temporary_settings({PREFECT_API_URL: f"http://{_closed_port()}/api"}),
        pytest.raises(ServerUnreachableError, match="No Prefect server answers"),
    ):
        extract_on(None, print)


def test_pictures_that_end_one_worker_after_the_other_are_given_up(cluster, pictures, warm_workspace, monkeypatch):
    monkeypatch.setattr(cluster.scheduler, "allowed_failures", 0)  # as if others had been lost over them before
    dataset = _scan(pictures, warm_workspace)
    with pytest.raises(ConflictError, match="lost over the same pictures"):
        _extract(
            cluster.scheduler_address, warm_workspace, dataset, _KillsAWorker(cluster.scheduler_address, warm_workspace)
        )


def test_the_command_line_starts_workers_and_prints_one_document(
    prefect_server, tiny_dataset, warm_workspace, headstart
):
    from prefect.settings import PREFECT_API_URL

    url = PREFECT_API_URL.value()
    command = ("extract", tiny_dataset(), "--runner", "dask", "--json", "-w", warm_workspace)
    first = headstart(*command, PREFECT_API_URL=url)
    second = headstart(*command, PREFECT_API_URL=url)

    assert (first.code, second.code) == (0, 0)
    assert json.loads(first.stdout)["features"]["num_computed"] == 24
    assert json.loads(second.stdout)["features"]["num_reused"] == 24
    assert "Dask workers on this machine" in first.stderr
    assert second.stderr == ""  # nothing was missing, nothing was started
    assert not [line for line in first.stderr.splitlines() if not line.startswith(("started ", "extract: "))]


@pytest.mark.parametrize(
    ("runner", "error"), [("dusk", UnknownNameError), ("dask=", UsageError), ("dask= ", UsageError)]
)
def test_a_runner_that_cannot_be_is_a_usage_error(runner, error):
    with pytest.raises(error, match="dask"):
        cli._steps(runner)


def test_without_the_extra_the_runner_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install"):
        cli._steps("dask")


def test_a_bad_runner_is_answered_before_anything_heavy_is_loaded(tiny_dataset, workspace, headstart):
    answer = headstart("extract", tiny_dataset(), "--runner", "dusk", "-w", workspace)
    assert (answer.code, answer.stdout) == (2, "")
    assert "Did you mean 'dask'?" in answer.stderr
    assert not answer.loaded & {"tensorflow", "openvino", "prefect"}
    assert not workspace.exists()


def _scan(folder, workspace):
    return factories.scan(OnboardRequest(str(folder), str(workspace)))


def _extract(scheduler, workspace, dataset, progress=None):
    from flows.features.cluster import extract_on

    return extract_on(scheduler, print, PART_ROWS)(Workspace.open(workspace), dataset, SPEC, progress=progress)


def _process_ids(scheduler):
    return _on_workers(scheduler, os.getpid)


def _on_workers(scheduler, function, *args):
    from distributed import Client

    with Client(scheduler, set_as_default=False) as client:
        return [*client.run(function, *args).values()]


def _shards(workspace):
    return set((workspace / "spaces").glob("*/??/*.h5"))


def _num_rows(shard):
    import h5py

    with h5py.File(shard) as file:
        return len(file["key"])


def _closed_port():
    """An address where nothing listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{sock.getsockname()[1]}"
