import threading
from dataclasses import asdict, replace

import numpy as np
import pytest

from pipeline.decision.schedule import plan_scratch
from pipeline.errors import CancelledError, DamagedError
from pipeline.finetuning.batches import Batches
from pipeline.types import Checkpoint
from tests.factories import a_photo

pytestmark = pytest.mark.heavy

SIZE = 32
NUM = 48  # pictures, of 3 classes
NUM_VAL = 12


class Kept:
    """Checkpoints in memory; stops the training when it has been looked at often enough."""

    def __init__(self, stop_at=None, checkpoint_seconds=120.0):
        self.checkpoint_seconds = checkpoint_seconds
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
    from pipeline.finetuning import train

    monkeypatch.setattr(train, "SECONDS_BETWEEN_LOOKS", 0.0)


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


def assert_same_curve(found, wanted, rel=1e-4):
    for mine, other in zip(map(asdict, found), map(asdict, wanted), strict=True):
        assert mine.pop("seconds") > 0 < other.pop("seconds")
        assert (mine.pop("train_loss") or 0) == pytest.approx(other.pop("train_loss") or 0, rel=rel)
        assert mine == pytest.approx(other, rel=rel)


def assert_same(found, wanted):
    for mine, other in zip(found.get_weights(), wanted.get_weights(), strict=True):
        assert np.allclose(mine, other, rtol=1e-5, atol=1e-6)


def test_training_learns_and_the_curve_tells():
    _, curve = run(a_schedule(), Kept())
    assert [row.epoch for row in curve] == [0, 1, 2, 3]
    assert [row.step for row in curve] == [0, 6, 12, 18]
    assert curve[-1].train_loss < curve[1].train_loss
    assert curve[0].train_loss is None
    assert max(row.val_accuracy for row in curve) > curve[0].val_accuracy
    seconds = [row.seconds for row in curve]
    assert seconds == sorted(seconds)


# within an epoch, at its first and last batch, and after several
@pytest.mark.parametrize("stop_at", [1, 4, 6, 7, 14])
def test_a_training_stopped_anywhere_continues_as_if_it_had_not_been(stop_at):
    schedule = a_schedule()
    wanted, whole = run(schedule, Kept())
    keeper = Kept(stop_at)
    with pytest.raises(CancelledError, match="Finished work is saved"):
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
        epochs.append(row.epoch)
        if row.epoch == 2 and epochs.count(2) == 1:
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
    often, seldom = Kept(checkpoint_seconds=0.0), Kept()
    run(a_schedule(), often)
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
    assert [row.epoch for row in curve] == [0, 1]
    found, curve = run(a_schedule(), keeper, network)
    assert_same(found, wanted)
    assert_same_curve(curve, whole)


def test_training_ends_when_validation_no_longer_improves_and_the_best_epoch_is_kept(monkeypatch):
    accuracies = iter([0.3, 0.5, 0.4, 0.45, 0.9])
    weights = []

    def score(network, validation):
        weights.append(network.get_weights())
        return next(accuracies), 1.0

    from pipeline.finetuning import train

    monkeypatch.setattr(train, "score", score)
    network, curve = run(replace(a_schedule(), epochs=9, patience=2), Kept())
    assert [row.val_accuracy for row in curve] == [0.3, 0.5, 0.4, 0.45]
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
