import numpy as np
import pytest

pytestmark = pytest.mark.heavy


def moved(keras, steps=1, **options):
    """Train three dense layers on a constant gradient; returns how far each kernel went, first to last."""
    from pipeline.finetuning.optimizer import StagedAdamW

    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(4, use_bias=False) for _ in range(3)]
    network = keras.Sequential([keras.Input((4,)), *layers])
    known = {"stages": [2, 1, 0], "layer_decay": 1.0, "unfreeze_steps": 0, "decoupled_decay": 0.0, "clip": 1.0}
    optimizer = StagedAdamW(0.01, **known | options)
    optimizer.build(network.trainable_variables)
    before = [np.asarray(variable) for variable in network.trainable_variables]
    ones = [keras.ops.ones_like(variable) for variable in network.trainable_variables]
    for _ in range(steps):
        optimizer.apply(ones, network.trainable_variables)
    return [
        float(np.abs(np.asarray(variable) - start).mean())
        for variable, start in zip(network.trainable_variables, before, strict=True)
    ]


def test_by_default_all_stages_learn_alike(keras):
    assert moved(keras) == pytest.approx([0.01] * 3, rel=1e-3)


def test_a_stage_learns_slower_than_the_one_behind_it(keras):
    assert moved(keras, layer_decay=0.5) == pytest.approx([0.0025, 0.005, 0.01], rel=1e-3)


def test_stages_join_one_after_the_other(keras):
    assert moved(keras, steps=2, unfreeze_steps=2) == pytest.approx([0, 0, 0.02], rel=1e-3)
    assert moved(keras, steps=3, unfreeze_steps=2)[1] == pytest.approx(0.01, rel=1e-2)
    assert moved(keras, steps=3, unfreeze_steps=2)[0] == 0


def test_weight_decay_shrinks_kernels_whatever_the_gradient(keras):
    plain, decayed = moved(keras), moved(keras, decoupled_decay=1.0)
    assert decayed != pytest.approx(plain, rel=1e-3)
