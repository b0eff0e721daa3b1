"""Runs over the same pictures at the same moment share the work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from flows.features import extraction
from flows.requests import OnboardRequest
from pipeline.backbones.table import DEFAULT_BACKBONE, get_backbone
from storage.features.claims import Claims
from storage.features.writer import FeatureWriter
from storage.workspace import Workspace
from tests import factories

pytestmark = pytest.mark.heavy

REPOSITORY = Path(__file__).parents[2]


def test_two_commands_at_once_both_succeed_and_repeat_nothing(tiny_dataset, warm_workspace):
    folder = tiny_dataset(per_class=20)
    command = [sys.executable, "-m", "flows.cli.app", "extract", str(folder), "--json", "-w", str(warm_workspace)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) for _ in range(2)]
    answers = [json.loads(process.communicate()[0]) for process in running]

    assert [process.returncode for process in running] == [0, 0]
    assert [answer["features"]["num_images"] for answer in answers] == [60, 60]
    assert sum(answer["features"]["num_computed"] for answer in answers) == 60


def test_what_another_run_computes_is_waited_for(tiny_dataset, warm_workspace, first_run):
    folder = tiny_dataset()
    spec = get_backbone(DEFAULT_BACKBONE)
    workspace = Workspace.open(warm_workspace)
    dataset = factories.scan(OnboardRequest(str(folder), str(warm_workspace)))
    theirs = FeatureWriter(Workspace.open(first_run.workspace), spec.space())  # the same pictures, computed before
    digests = [image.digest for image in first_run.manifest.images[:10]]
    block = _block(theirs, digests)

    with Claims(workspace, spec.space()) as claims:
        assert claims.take(digests) == digests

        def finish():
            with FeatureWriter(workspace, spec.space()) as store:
                store.append(block)
            claims.keep(())

        timer = threading.Timer(1.0, finish)
        timer.start()
        extracted = extraction.extract(workspace, dataset, spec)
        timer.join()
    assert (extracted.num_images, extracted.num_computed) == (24, 14)


def test_what_a_stopped_run_had_claimed_is_computed_after_all(tiny_dataset, warm_workspace, monkeypatch):
    monkeypatch.setattr("storage.features.claims.STALE_SECONDS", 0.0)
    spec = get_backbone(DEFAULT_BACKBONE)
    dataset = factories.scan(OnboardRequest(str(tiny_dataset()), str(warm_workspace)))
    workspace = Workspace.open(warm_workspace)
    from storage.datasets.manifests import read_manifest

    images = read_manifest(workspace, dataset.name, dataset.fingerprint).images
    with Claims(workspace, spec.space()) as claims:
        claims.take([image.digest for image in images])
        assert extraction.extract(workspace, dataset, spec).num_computed == 24


def _block(store, digests):
    from pipeline.types import FeatureBlock

    return FeatureBlock(tuple(digests), {tap.name: store.read(digests, tap.name) for tap in store.space.taps})
