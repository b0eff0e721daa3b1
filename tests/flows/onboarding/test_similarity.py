"""Which network measures similarity, and what is kept of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flows.features.backbone import describe_backbone
from flows.onboarding import similarity
from flows.onboarding.similarity import choose_yardstick, measure_similarity
from pipeline.backbones.table import BACKBONES, DEFAULT_BACKBONE, get_backbone
from pipeline.decision import thresholds
from pipeline.decision.thresholds import read_thresholds
from storage.workspace import Workspace

SPEC = get_backbone(DEFAULT_BACKBONE)
SMALL = "mobilenet_v3_small"


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("size", [None, 96])
def test_a_backbone_with_thresholds_measures_itself_at_its_own_size(workspace, name, size):
    yardstick = choose_yardstick(Workspace.open(workspace), get_backbone(name, size))
    assert yardstick.spec == get_backbone(name)
    assert yardstick.thresholds == read_thresholds().get(name)
    assert (yardstick.own, yardstick.why) == (None, "")


def test_the_recipe_of_the_features_is_not_the_one_that_is_measured_with(workspace):
    scaled = replace(SPEC, recipe=replace(SPEC.recipe, decoder="pillow-13-dct-scaled"))
    assert choose_yardstick(Workspace.open(workspace), scaled).spec == SPEC


@pytest.mark.heavy
def test_random_weights_are_measured_with_the_embedded_network(workspace):
    place = Workspace.open(workspace)
    yardstick = choose_yardstick(place, describe_backbone(place, SMALL, "none", "pillow-13"))
    assert (yardstick.spec, yardstick.own) == (SPEC, None)
    assert "random" in yardstick.why


@pytest.mark.heavy
def test_a_network_without_batchnorm_is_measured_with_the_embedded_one(workspace, tmp_path, keras):
    file = tmp_path / "vgg.weights.h5"
    keras.applications.VGG16(include_top=False, weights=None, input_shape=(224, 224, 3)).save_weights(file)
    place = Workspace.open(workspace)
    yardstick = choose_yardstick(place, describe_backbone(place, "vgg16", str(file), "pillow-13"))
    assert (yardstick.spec, yardstick.own) == (SPEC, None)
    assert yardstick.why == "it has no BatchNorm layers that remember data"


@pytest.mark.heavy
def test_a_network_without_thresholds_tells_its_own_distance_and_the_embedded_one_judges(again, tmp_path, keras):
    from pipeline.backbones.networks import build_backbone
    from storage.datasets.manifests import read_manifest

    file = tmp_path / "small.weights.h5"
    place = Workspace.open(again.workspace)
    build_backbone(describe_backbone(place, SMALL, "none", "pillow-13"))
    keras.applications.MobileNetV3Small(include_top=False, weights=None, input_shape=(224, 224, 3)).save_weights(file)
    spec = describe_backbone(place, SMALL, str(file), "pillow-13", 96)
    assert spec.moments is None
    manifest = read_manifest(place, "shapes")
    found = measure_similarity(place, manifest, spec)
    assert found.distance == again.document["similarity"]["distance"]
    assert (found.measured_with, found.own.backbone) == (DEFAULT_BACKBONE, SMALL)
    assert found.own.distance > 0
    assert found.own.interval[0] <= found.own.interval[1]
    assert measure_similarity(place, manifest, spec) == found  # found, by way of JSON


@pytest.mark.heavy
def test_other_thresholds_judge_anew_without_measuring_anew(again, monkeypatch):
    from storage.datasets.manifests import read_manifest

    place = Workspace.open(again.workspace)
    manifest = read_manifest(place, "shapes")
    first = measure_similarity(place, manifest, SPEC)
    stricter = replace(read_thresholds()[DEFAULT_BACKBONE], similar_below=1e-4, different_above=2e-4)
    monkeypatch.setattr(thresholds, "read_thresholds", lambda: {DEFAULT_BACKBONE: stricter})
    monkeypatch.setattr(similarity, "load_engine", None)  # nothing may be computed
    second = measure_similarity(place, manifest, SPEC)
    assert (second.distance, second.verdict, second.limits) == (first.distance, "different", (1e-4, 2e-4))


@pytest.mark.heavy
def test_the_record_has_the_interval_and_the_neighbours(first_run):
    part = first_run.document["similarity"]
    low, high = part["interval"]
    assert 0 <= low <= high
    assert part["num_images"] < 100
    assert any("Fewer than 100 pictures" in reason for reason in first_run.document["reasons"])
    distances = [row["distance"] for row in part["references"]]
    assert distances
    assert distances == sorted(distances)
