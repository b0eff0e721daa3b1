from dataclasses import replace

import numpy as np
import pytest

from pipeline.decision.schedule import plan_finetuning
from pipeline.finetuning.batches import Batches
from tests.factories import a_head, a_photo
from tests.pipeline.finetuning.test_train import NUM, Kept

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def small_spec(keras):
    from pipeline.backbones.table import get_backbone

    spec = get_backbone("efficientnet_lite0")
    return replace(spec, recipe=replace(spec.recipe, size=64), moments=None)


def test_fine_tuning_starts_at_the_head(small_spec, keras):
    """Before its first step the network says what the head says of the features of a frozen backbone."""
    from pipeline.backbones.networks import load_backbone, tap_outputs
    from pipeline.finetuning.networks import build_finetuned
    from pipeline.heads.fit import head_scores

    head = a_head([tap for tap in small_spec.taps if tap.name in ("top", "stage5_grid")])
    pixels = np.stack([np.asarray(a_photo(number, (64, 64)), np.float32) for number in range(4)])
    backbone = load_backbone(small_spec)
    features = keras.Model(backbone.input, tap_outputs(backbone, small_spec.taps))(pixels, training=False)
    features = {name: np.asarray(rows) for name, rows in features.items()}
    network = build_finetuned(small_spec, head, plan_finetuning(1000))
    wanted = head.temperature * head_scores(head, features)
    assert np.allclose(np.asarray(network(pixels)), wanted, atol=2e-2 * np.abs(wanted).max())
    assert not any(layer.trainable_weights for layer in backbone.layers)  # the shared one stays frozen


def test_frozen_statistics_stay_and_everything_else_learns(small_spec, keras):
    from pipeline.finetuning.networks import build_finetuned
    from pipeline.finetuning.scoring import Validation
    from pipeline.finetuning.train import train

    head = a_head([tap for tap in small_spec.taps if tap.name == "top"])
    schedule = replace(plan_finetuning(NUM, epochs=1), batch_size=8)
    network = build_finetuned(small_spec, head, schedule)
    before = {id(variable): np.asarray(variable) for variable in network.weights}
    pixels = np.stack([np.asarray(a_photo(number, (64, 64))) for number in range(16)])
    labels = [number % 3 for number in range(16)]
    train(network, Batches(pixels, labels, 3, schedule), Validation(pixels, labels), schedule, Kept())
    changed = {
        variable.name for variable in network.weights if not np.array_equal(before[id(variable)], np.asarray(variable))
    }
    assert not {name for name in changed if name.startswith("moving_")}
    assert {"kernel", "gamma", "beta"} <= changed
    assert all(np.isfinite(np.asarray(variable)).all() for variable in network.weights)


def test_mixed_precision_ends_in_float32(small_spec, keras):
    from pipeline.finetuning.devices import precision
    from pipeline.finetuning.networks import build_deliverable, build_finetuned

    head = a_head([tap for tap in small_spec.taps if tap.name == "top"])
    before = keras.config.dtype_policy()
    with precision("mixed_bfloat16"):
        mixed = build_finetuned(small_spec, head, plan_finetuning(1000))
    assert keras.config.dtype_policy() == before
    assert mixed.output.dtype == "float32"
    assert {layer.compute_dtype for layer in mixed.layers} == {"bfloat16", "float32"}
    plain = build_deliverable(small_spec, head)
    plain.set_weights(mixed.get_weights())
    assert {weight.dtype for weight in plain.weights} == {"float32"}


def test_stages_count_from_the_head_backwards(small_spec, keras):
    from pipeline.finetuning.networks import build_finetuned, variable_stages

    network = build_finetuned(small_spec, a_head([small_spec.taps[-1]]), plan_finetuning(1000))
    stages = variable_stages(network)
    names = [variable.path for variable in network.trainable_variables]
    of = dict(zip(names, stages, strict=True))
    assert of[next(name for name in names if "top_scores" in name)] == 0
    assert of[next(name for name in names if "top_conv" in name)] == 1
    assert of[next(name for name in names if "stem_conv" in name)] == max(stages) == 5
