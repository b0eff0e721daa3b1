import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest

from pipeline.decision.schedule import plan_finetuning, plan_scratch
from pipeline.errors import CancelledError, DamagedError
from pipeline.finetuning.batches import Batches
from pipeline.types import Checkpoint
from tests.conftest import ROOT
from tests.factories import a_head, a_photo

pytestmark = pytest.mark.heavy

SIZE = 32
NUM = 48  # pictures, of 3 classes
NUM_VAL = 12


class Kept:
    """Checkpoints in memory; stops the training when it has been looked at often enough."""

    def __init__(self, stop_at=None):
        self.checkpoint = None
        self.num_written = 0
        self.num_looks = 0
        self.stop_at = stop_at

    def read(self):
        return self.checkpoint

    def write(self, checkpoint):
        self.num_written += 1
        self.checkpoint = checkpoint

    def is_cancelled(self):
        self.num_looks += 1
        return self.num_looks == self.stop_at


@pytest.fixture(autouse=True)
def look_at_every_batch(keras, monkeypatch):
    monkeypatch.setattr("pipeline.finetuning.train.SECONDS_BETWEEN_LOOKS", 0.0)


def pictures(num, first=0):
    colours = ((200, 60, 60), (60, 200, 60), (60, 60, 200))
    rows = [np.asarray(a_photo(first + place, (SIZE, SIZE), colours[place % 3])) for place in range(num)]
    return np.stack(rows), [place % 3 for place in range(num)]


def a_schedule(**changed):
    return replace(plan_scratch(NUM, epochs=3), batch_size=8, learning_rate=1e-3, **changed)


def a_network(seed=0):
    from pipeline.finetuning.scratch import build_scratch

    return build_scratch(SIZE, 3, seed)


def validation():
    from pipeline.finetuning.scoring import Validation

    return Validation(*pictures(NUM_VAL, first=1000))


def run(schedule, keeper, network=None, **options):
    from pipeline.finetuning.train import train

    network = network or a_network()
    pixels, labels = pictures(NUM)
    curve = train(network, Batches(pixels, labels, 3, schedule), validation(), schedule, keeper, **options)
    return network, curve


def assert_same_curve(found, wanted):
    for mine, other in zip(found, wanted, strict=True):
        assert mine.pop("seconds") > 0 < other.pop("seconds")
        assert mine == pytest.approx(other, rel=1e-4)


def assert_same(found, wanted):
    for mine, other in zip(found.get_weights(), wanted.get_weights(), strict=True):
        assert np.allclose(mine, other, rtol=1e-5, atol=1e-6)


def test_training_learns_and_the_curve_tells():
    _, curve = run(a_schedule(), Kept())
    assert [row["epoch"] for row in curve] == [0, 1, 2, 3]
    assert [row["step"] for row in curve] == [0, 6, 12, 18]
    assert curve[-1]["train_loss"] < curve[1]["train_loss"]
    assert "train_loss" not in curve[0]
    assert max(row["val_accuracy"] for row in curve) > curve[0]["val_accuracy"]
    seconds = [row["seconds"] for row in curve]
    assert seconds == sorted(seconds)


# within an epoch, at its first and last batch, and after several
@pytest.mark.parametrize("stop_at", [1, 4, 6, 7, 14])
def test_a_training_stopped_anywhere_goes_on_as_if_it_had_not_been(stop_at):
    schedule = a_schedule()
    wanted, whole = run(schedule, Kept())
    keeper = Kept(stop_at)
    with pytest.raises(CancelledError, match="what it has done is kept"):
        run(schedule, keeper)
    assert keeper.checkpoint.step == stop_at
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]
    found, curve = run(schedule, keeper)  # a new network, as in a new process
    assert_same(found, wanted)
    assert_same_curve(curve, whole)


def test_an_exception_while_validating_costs_no_step():
    schedule = a_schedule()
    wanted, _ = run(schedule, Kept())
    keeper, epochs = Kept(), []

    def fail(row):
        epochs.append(row["epoch"])
        if row["epoch"] == 2 and epochs.count(2) == 1:
            raise OSError("the log is full")

    with pytest.raises(OSError, match="log is full"):
        run(schedule, keeper, on_epoch=fail)
    found, _ = run(schedule, keeper, on_epoch=fail)
    assert_same(found, wanted)


def test_a_signal_in_the_middle_leaves_a_checkpoint():
    keeper = Kept()

    def leave():
        keeper.num_looks += 1
        if keeper.num_looks == 3:
            raise SystemExit(143)
        return False

    keeper.is_cancelled = leave
    with pytest.raises(SystemExit):
        run(a_schedule(), keeper)
    assert keeper.checkpoint.step == 3


def test_a_checkpoint_is_written_by_the_clock_as_well_as_after_every_epoch():
    often, seldom = Kept(), Kept()
    run(a_schedule(), often, checkpoint_seconds=0.0)
    run(a_schedule(), seldom)
    assert seldom.num_written == 3
    assert often.num_written > 18


def test_a_finished_training_is_found_finished():
    keeper = Kept()
    wanted, whole = run(a_schedule(), keeper)
    num_written = keeper.num_written
    found, curve = run(a_schedule(), keeper)
    assert_same(found, wanted)
    assert curve == whole
    assert keeper.num_written == num_written


def test_a_pause_changes_nothing():
    wanted, whole = run(a_schedule(), Kept())
    keeper = Kept()
    network, curve = run(a_schedule(), keeper, stop_after=1)
    assert [row["epoch"] for row in curve] == [0, 1]
    found, curve = run(a_schedule(), keeper, network)
    assert_same(found, wanted)
    assert_same_curve(curve, whole)


def test_training_ends_when_validation_no_longer_improves_and_the_best_epoch_is_kept(monkeypatch):
    accuracies = iter([0.3, 0.5, 0.4, 0.45, 0.9])
    weights = []

    def score(network, validation):
        weights.append(network.get_weights())
        return next(accuracies), 1.0

    monkeypatch.setattr("pipeline.finetuning.train.score", score)
    network, curve = run(replace(a_schedule(), epochs=9, patience=2), Kept())
    assert [row["val_accuracy"] for row in curve] == [0.3, 0.5, 0.4, 0.45]
    for mine, best in zip(network.get_weights(), weights[1], strict=True):
        assert np.array_equal(mine, best)


def test_a_checkpoint_of_another_network_is_refused():
    keeper = Kept(stop_at=2)
    with pytest.raises(CancelledError):
        run(a_schedule(), keeper)
    arrays = {**keeper.checkpoint.arrays, "network/0": np.zeros((5, 5), np.float32)}
    keeper.checkpoint = Checkpoint(keeper.checkpoint.step, arrays, keeper.checkpoint.state)
    with pytest.raises(DamagedError, match=r"does not fit the network: network variable 0 is \(5, 5\), wanted"):
        run(a_schedule(), keeper)


# ── the pretrained network ───────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def small_spec(keras):
    from pipeline.backbones.table import get_backbone

    spec = get_backbone("efficientnet_lite0")
    return replace(spec, recipe=replace(spec.recipe, size=64), moments=None)


def test_fine_tuning_starts_at_the_head(small_spec, keras):
    """Before its first step the network says what the head says of the features of a frozen backbone."""
    from pipeline.backbones.networks import load_backbone, tap_outputs
    from pipeline.finetuning.train import build_finetuned
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
    from pipeline.finetuning.scoring import Validation
    from pipeline.finetuning.train import build_finetuned, train

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


def test_statistics_that_are_not_frozen_learn_with_the_momentum_of_short_trainings(keras):
    from pipeline.decision.schedule import norm_momentum
    from pipeline.finetuning.scratch import build_residual_network
    from pipeline.finetuning.train import train

    schedule = replace(plan_scratch(NUM, epochs=1), batch_size=8)
    network = build_residual_network(SIZE, 3)
    norm = network.get_layer("last_norm")
    pixels, labels = pictures(16)
    before = np.asarray(norm.moving_mean)
    train(network, Batches(pixels, labels, 3, schedule), validation(), schedule, Kept())
    assert not np.array_equal(before, np.asarray(norm.moving_mean))
    assert norm.momentum == norm_momentum(2) == 0.9


def test_without_a_capable_gpu_everything_is_float32(keras, monkeypatch):
    from pipeline.finetuning.devices import best_precision
    from pipeline.quiet_keras import tf

    details = {"compute_capability": (9, 0)}
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    assert best_precision() == "float32"
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["one"])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda device: details)
    assert best_precision() == "mixed_bfloat16"
    details["compute_capability"] = (7, 5)
    assert best_precision() == "float32"


def test_mixed_precision_ends_in_float32(small_spec, keras):
    from pipeline.finetuning.devices import precision
    from pipeline.finetuning.train import build_deliverable, build_finetuned

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
    from pipeline.finetuning.train import _stages, build_finetuned

    network = build_finetuned(small_spec, a_head([small_spec.taps[-1]]), plan_finetuning(1000))
    stages = _stages(network)
    names = [variable.path for variable in network.trainable_variables]
    of = dict(zip(names, stages, strict=True))
    assert of[next(name for name in names if "top_scores" in name)] == 0
    assert of[next(name for name in names if "top_conv" in name)] == 1
    assert of[next(name for name in names if "stem_conv" in name)] == max(stages) == 5


# ── several devices ──────────────────────────────────────────────────────────────────────────────

TWO_DEVICES = """
from pipeline.quiet_keras import tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from pipeline.finetuning.train import train as finetune
from pipeline.finetuning.devices import all_gpus, num_replicas
finetune.SECONDS_BETWEEN_LOOKS = 0.0
from tests.pipeline.finetuning.test_train import Kept, a_network, a_schedule, run
with all_gpus(["CPU:0", "CPU:1"]):
    whole, stopped = Kept(), Kept(stop_at=8)
    network, curve = run(a_schedule(), whole)
    try:
        run(a_schedule(), stopped)
    except Exception as error:
        assert type(error).__name__ == "CancelledError", error
    _, resumed = run(a_schedule(), stopped)
learns = curve[-1]["train_loss"] < curve[1]["train_loss"]
print(num_replicas(network), [row["step"] for row in curve], stopped.num_looks > 8, len(resumed), learns)
"""


def test_several_devices_share_every_batch_and_a_training_on_them_resumes():
    done = subprocess.run([sys.executable, "-c", TWO_DEVICES], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.split("\n")[0] == "2 [0, 6, 12, 18] True 4 True", done.stderr


def test_without_gpus_nothing_is_shared_out(keras):
    from pipeline.finetuning.devices import all_gpus, num_replicas

    with all_gpus():
        assert num_replicas(a_network()) == 1
