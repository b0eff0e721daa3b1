"""The arms of a fine-tuning job: the pretrained network, and in case 4 one from random weights that races it.

Heavy leaf: importing it loads TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from flows.features.fitting import labels_of, read_taps
from flows.features.forward import reader
from pipeline.dataset.split import sample_images
from pipeline.decision.finetuned import Gate
from pipeline.decision.schedule import MIRROR_TOLERANCE, Schedule, plan_scratch
from pipeline.delivery.model import frame
from pipeline.errors import ImageError
from pipeline.finetuning.batches import Batches, Pictures, Undecoded, decode_into
from pipeline.finetuning.devices import all_gpus, best_precision, precision
from pipeline.finetuning.gate import compare
from pipeline.finetuning.race import judge_race, plan_race
from pipeline.finetuning.scoring import Network, Validation, calibrate, measure_mirror, predict_images
from pipeline.finetuning.scratch import build_scratch, choose_size, count_multiply_adds
from pipeline.finetuning.train import build_deliverable, build_finetuned, in_float32, train
from pipeline.fingerprint import fingerprint
from pipeline.heads.fit import fit_head, head_probabilities
from pipeline.images.decode import short_side
from pipeline.images.views import ORIGINAL
from pipeline.types import Array, Head, Image, Recipe

if TYPE_CHECKING:
    from flows.finetuning.ground import Ground, Log, OnEpoch
    from storage.jobs.folder import Job

FINETUNE, SCRATCH = "fine-tune", "scratch"
WITH_RACE = "fine-tune-or-scratch"
NUM_MEASURED = 200  # pictures whose size is looked at

Curve = list[dict[str, float]]


@dataclass(frozen=True, slots=True)
class Trained:
    """The better arm, and what there is to say about all of them."""

    network: Network  # from pixels to scores, float32
    recipe: Recipe
    report: dict[str, Any]

    def delivered(self) -> Network:
        """Build the model that takes decoded pictures."""
        return frame(self.network, self.recipe)


@dataclass(frozen=True, slots=True)
class Runner:
    """What all arms of a job share."""

    ground: Ground
    job: Job
    log: Log
    on_epoch: OnEpoch
    checkpoint_seconds: float

    def pictures(self, images: Sequence[Image], recipe: Recipe, part: str) -> Pictures:
        """Decode pictures once, into a file beside the checkpoints; where there is no room, whenever they are used."""
        read = reader(self.ground.manifest)
        key = fingerprint({"recipe": asdict(recipe), "images": [image.digest.hex() for image in images]})[:16]
        shape = (len(images), recipe.size, recipe.size, 3)
        kept = self.job.pixels(f"{part}-{key}", shape, lambda pixels: decode_into(pixels, images, read, recipe))
        return Undecoded(images, read, recipe) if kept is None else kept

    def data(self, recipe: Recipe) -> tuple[Pictures, Validation]:
        """Read what an arm is trained and validated on."""
        val = self.ground.validate_on
        return self.pictures(self.ground.fit_on, recipe, "fit"), Validation(
            self.pictures(val, recipe, "val"), labels_of(val)
        )

    def batches(self, pictures: Pictures, schedule: Schedule) -> Batches:
        return Batches(pictures, labels_of(self.ground.fit_on), len(self.ground.manifest.classes), schedule)

    def train(
        self,
        arm: str,
        network: Network,
        batches: Batches,
        validation: Validation,
        schedule: Schedule,
        stop_after: int | None = None,
    ) -> Curve:
        """Train an arm from where its checkpoints leave it."""
        keeper = _Keeper(self.job, arm)

        def tell(row: dict[str, float]) -> None:
            self.job.write_status({"arm": arm, "num_epochs": schedule.epochs, **row})
            self.on_epoch({"arm": arm, "num_epochs": schedule.epochs, **row})

        return train(
            network,
            batches,
            validation,
            schedule,
            keeper,
            tell,
            stop_after=stop_after,
            checkpoint_seconds=self.checkpoint_seconds,
        )


class _Keeper:
    """Lets a training reach its job's folder."""

    def __init__(self, job: Job, arm: str) -> None:
        checkpoints = job.checkpoints(arm)
        self.read, self.write, self.is_cancelled = checkpoints.read, checkpoints.write, job.is_cancelled


# ── the head ─────────────────────────────────────────────────────────────────────────────────────


def fit_start(ground: Ground) -> Head:
    """Fit the head that training starts from: as the one that serves, without validation pictures."""
    taps = [tap for tap in ground.spec.taps if tap.name in ground.plan.taps]
    features = read_taps(ground.workspace, ground.spec, (ORIGINAL,), ground.fit_on, [tap.name for tap in taps])
    return fit_head(features, taps, labels_of(ground.fit_on), len(ground.manifest.classes))


def compare_with_head(ground: Ground, network: Network, recipe: Recipe) -> Gate:
    """Compare a trained network with the head that serves, on validation pictures.

    That head has learned from all training pictures, and where those validate, from these too: so its word on each of
    them is the one it gives when that one is left out. A head fitted without any of them is a weaker opponent: on 17
    datasets of 100 to 1,400 pictures it let two networks pass that were 3.7 and 5.5 points worse on test pictures.
    """
    found = predict_images(network, ground.validate_on, reader(ground.manifest), recipe)
    return compare(labels_of(ground.validate_on), _serving_scores(ground), found)


def _serving_scores(ground: Ground) -> Array:
    """Return the scores (n, classes) of the head that serves on pictures it must not have seen."""
    shared = [image for image in ground.validate_on if image.split == "train"]  # else the folder has a val split
    train = [*ground.fit_on, *shared]
    taps = [tap for tap in ground.spec.taps if tap.name in ground.plan.taps]
    names = [tap.name for tap in taps]
    features = read_taps(ground.workspace, ground.spec, (ORIGINAL,), train, names)
    head = fit_head(features, taps, labels_of(train), len(ground.manifest.classes))
    if shared and head.held_out is not None:
        return head.held_out[len(ground.fit_on) :]
    used = [part.tap for part in head.taps]
    return head_probabilities(head, read_taps(ground.workspace, ground.spec, (ORIGINAL,), ground.validate_on, used))


# ── the arms ─────────────────────────────────────────────────────────────────────────────────────


def train_arms(
    ground: Ground,
    head: Head,
    schedule: Schedule,
    job: Job,
    log: Log,
    on_epoch: OnEpoch,
    checkpoint_seconds: float,
) -> Trained:
    """Train what the case asks for; returns the arm that is better on validation pictures, calibrated on them."""
    runner = Runner(ground, job, log, on_epoch, checkpoint_seconds)
    scratch: dict[str, Any] | None = None
    with all_gpus():
        best = first = finetune_arm(runner, head, schedule)
        if ground.plan.strategy == WITH_RACE:
            second, scratch = _scratch(runner, first)
            if scratch["race"]["continued"] and second.best_accuracy > first.best_accuracy:
                best = second
    network = in_float32_weights(best)
    factor = calibrate(network, best.validation)
    report = {"arm": best.name, "curve": first.curve, **first.report, "scratch": scratch, "calibration": factor}
    return Trained(network, best.recipe, report)


@dataclass(frozen=True, slots=True)
class Arm:
    """A network after its training, with the weights of its best epoch."""

    name: str
    build: Callable[[], Network]
    network: Network
    recipe: Recipe
    schedule: Schedule
    validation: Validation
    curve: Curve
    report: dict[str, Any]

    @property
    def best_accuracy(self) -> float:
        return max(row["val_accuracy"] for row in self.curve[1:])


def finetune_arm(runner: Runner, head: Head, schedule: Schedule) -> Arm:
    """Fine-tune backbone and head. Pictures are mirrored if the head sees no less in a mirror."""
    spec = runner.ground.spec
    policy = best_precision()
    with precision(policy):
        network = build_finetuned(spec, head, schedule)
    pictures, validation = runner.data(spec.recipe)
    plain, mirrored = measure_mirror(network, validation)
    mirror = mirrored >= plain - MIRROR_TOLERANCE
    schedule = replace(schedule, augmentation=replace(schedule.augmentation, mirror=mirror))
    curve = runner.train(FINETUNE, network, runner.batches(pictures, schedule), validation, schedule)
    report = {
        "mirror": {"accuracy": plain, "mirrored_accuracy": mirrored, "tolerance": MIRROR_TOLERANCE, "used": mirror},
        "precision": policy,
    }

    def build() -> Network:
        return build_deliverable(spec, head)

    return Arm(FINETUNE, build, network, spec.recipe, schedule, validation, curve, report)


@dataclass(frozen=True, slots=True)
class _Scratch:
    """A network from random weights, before it is trained."""

    build: Callable[[], Network]
    network: Network
    recipe: Recipe
    schedule: Schedule
    batches: Batches
    validation: Validation
    costs: tuple[int, int]  # multiply-adds of a forward pass: fine-tuned network, this one


def _set_up_scratch(runner: Runner, first: Arm, epochs: int | None = None) -> _Scratch:
    ground = runner.ground
    size = choose_size(_short_sides(ground), ground.spec.recipe.size)
    recipe = replace(ground.spec.recipe, size=size)
    planned = plan_scratch(len(ground.fit_on), epochs)
    schedule = replace(planned, augmentation=replace(planned.augmentation, mirror=first.schedule.augmentation.mirror))

    def build() -> Network:
        return in_float32(build_scratch(size, len(ground.manifest.classes), schedule.seed))

    with precision(best_precision()):
        network = build()
    pictures, validation = runner.data(recipe)
    costs = (count_multiply_adds(first.network), count_multiply_adds(network))
    return _Scratch(build, network, recipe, schedule, runner.batches(pictures, schedule), validation, costs)


def _scratch(runner: Runner, first: Arm) -> tuple[Arm, dict[str, Any]]:
    """Train a network from random weights on a small budget, and to the end if it is ahead then."""
    new = _set_up_scratch(runner, first)
    num_epochs = min(plan_race(*new.costs), new.schedule.epochs)
    curve = runner.train(SCRATCH, new.network, new.batches, new.validation, new.schedule, stop_after=num_epochs)
    race = judge_race(
        first.curve[1]["val_accuracy"],
        max(row["val_accuracy"] for row in curve[1 : num_epochs + 1]),
        len(runner.ground.validate_on),
        num_epochs,
        num_epochs * new.costs[1] / new.costs[0],
    )
    runner.log(race.reason)
    if race.continued:
        curve = runner.train(SCRATCH, new.network, new.batches, new.validation, new.schedule)
    report = _scratch_report(new, curve) | {"race": asdict(race)}
    return Arm(SCRATCH, new.build, new.network, new.recipe, new.schedule, new.validation, curve, report), report


def scratch_arm(runner: Runner, first: Arm) -> Arm:
    """Train a network from random weights for about as many multiply-adds as fine-tuning took, with no race to win."""
    num_epochs = plan_race(*_set_up_scratch(runner, first).costs, len(first.curve) - 1)
    new = _set_up_scratch(runner, first, num_epochs)
    curve = runner.train(SCRATCH, new.network, new.batches, new.validation, new.schedule)
    report = _scratch_report(new, curve)
    return Arm(SCRATCH, new.build, new.network, new.recipe, new.schedule, new.validation, curve, report)


def _scratch_report(new: _Scratch, curve: Curve) -> dict[str, Any]:
    return {
        "network": new.network.name,
        "size": new.recipe.size,
        "num_parameters": new.network.count_params(),
        "multiply_adds": new.costs[1],
        "finetuned_multiply_adds": new.costs[0],
        "schedule": asdict(new.schedule),
        "curve": curve,
    }


def _short_sides(ground: Ground) -> list[int]:
    read, sides = reader(ground.manifest), []
    for image in sample_images(ground.fit_on, NUM_MEASURED):
        with suppress(OSError, ImageError):
            sides.append(short_side(read(image)))
    return sides


def in_float32_weights(arm: Arm) -> Network:
    """Give the trained weights to a network that computes everything in float32."""
    network = arm.build()
    network.set_weights(arm.network.get_weights())
    return network
