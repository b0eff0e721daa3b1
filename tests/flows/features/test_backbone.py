"""Which engine computes, and how it is set to this machine."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from flows.features import backbone, extraction
from flows.features.backbone import taps_engine
from flows.requests import OnboardRequest
from pipeline.backbones.table import DEFAULT_BACKBONE, get_backbone
from pipeline.engine.canary import TOLERANCE, relative_difference
from storage.features.writer import FeatureWriter
from storage.workspace import Workspace
from tests import factories

pytestmark = pytest.mark.heavy

SPEC = get_backbone(DEFAULT_BACKBONE)


def test_where_there_is_a_gpu_keras_computes_the_same_features(first_run, tiny_dataset, warm_workspace, monkeypatch):
    monkeypatch.setattr(backbone, "has_gpu", lambda visible: True)
    monkeypatch.setattr("pipeline.engine.keras_engine.sees_gpu", lambda: True)
    dataset = factories.scan(OnboardRequest(str(tiny_dataset()), str(warm_workspace)))
    assert extraction.extract(Workspace.open(warm_workspace), dataset, SPEC).num_computed == 24

    from pipeline.engine.keras_engine import KerasEngine
    from storage.datasets.manifests import read_manifest

    by_keras, by_openvino = (
        FeatureWriter(Workspace.open(root), SPEC.space()) for root in (warm_workspace, first_run.workspace)
    )
    assert isinstance(taps_engine(Workspace.open(warm_workspace), SPEC, 1), KerasEngine)
    digests = [image.digest for image in read_manifest(Workspace.open(warm_workspace), dataset.name).images]
    for tap in SPEC.taps:
        found, wanted = (np.asarray(store.read(digests, tap.name)) for store in (by_keras, by_openvino))
        assert relative_difference(found, wanted) < TOLERANCE


def test_a_gpu_that_tensorflow_cannot_use_is_named_and_the_cpu_computes(warm_workspace, monkeypatch, caplog):
    monkeypatch.setattr(backbone, "has_gpu", lambda visible: True)
    monkeypatch.setattr("pipeline.engine.keras_engine.sees_gpu", lambda: False)
    from pipeline.engine.openvino_engine import Engine

    with caplog.at_level(logging.WARNING):
        assert isinstance(taps_engine(Workspace.open(warm_workspace), SPEC, 1), Engine)
    assert "CUDA libraries" in caplog.text


def test_the_fastest_tuning_is_measured_once_and_only_where_it_pays(warm_workspace, monkeypatch):
    from pipeline.engine.openvino_engine import DEFAULT_TUNING, Tuning

    calls = []

    def tune(network):
        calls.append(network)
        return Tuning(batch=4, streams=1, threads=0)

    monkeypatch.setattr("pipeline.engine.tuning.tune", tune)
    workspace = Workspace.open(warm_workspace)
    assert taps_engine(workspace, SPEC, backbone.TUNED_FROM - 1).batch == DEFAULT_TUNING.batch
    assert not calls
    assert taps_engine(workspace, SPEC, backbone.TUNED_FROM).batch == 4
    assert taps_engine(workspace, SPEC, 1).batch == 4
    assert len(calls) == 1
