"""The arms of a fine-tuning job: the pretrained network, and in case 4 one from random weights that races it.

Heavy leaf: importing it loads TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace

from pipeline.dataset.split import sample_images
from pipeline.decision.finetuned import (
    ArmName,
    Curve,
    FinetuneReport,
    Gate,
    JobStatus,
    MirrorTest,
    ScratchReport,
    StartedFrom,
    best_epoch,
)
from pipeline.decision.schedule import MIRROR_TOLERANCE, Schedule, plan_scratch
from pipeline.errors import ImageError
from pipeline.finetuning.batches import Batches, Bytes, Pictures, Undecoded, decode_into
from pipeline.finetuning.checkpoint import Keeper
from pipeline.finetuning.devices import all_gpus, best_precision, precision
from pipeline.finetuning.gate import compare
from pipeline.finetuning.inputs import FinetuneInputs, labels_of
from pipeline.finetuning.networks import build_deliverable, build_finetuned, in_float32
from pipeline.finetuning.race import judge_race, plan_race
from pipeline.finetuning.scoring import Validation, measure_mirror, predict_images, scale_scores
from pipeline.finetuning.scratch import build_scratch, choose_size, count_multiply_adds
from pipeline.finetuning.train import train
from pipeline.fingerprint import fingerprint
from pipeline.heads.fit import fit_head, head_probabilities
from pipeline.heads.labels import truth_of
from pipeline.images.decode import probe
from pipeline.quiet_keras import keras
from pipeline.types import Array, Head, Image, Recipe, Tap

WITH_RACE = "fine-tune-or-scratch"
NUM_MEASURED = 200  # pictures whose size is looked at


@dataclass(frozen=True, slots=True)
class Arm:
    """A network and what it is trained with; `curve` once it is trained, to the weights of its best epoch."""

    name: ArmName
    build: Callable[[], keras.Model]  # the same network, all in float32
    network: keras.Model
    recipe: Recipe
    schedule: Schedule
    validation: Validation
    curve: Curve = ()

    @property
    def best_accuracy(self) -> float:
        return best_epoch(self.curve).val_accuracy

    def in_float32(self) -> keras.Model:
        """Return a network with the trained weights that computes everything in float32."""
        network = self.build()
        network.set_weights(self.network.get_weights())
        return network


@dataclass(frozen=True, slots=True)
class ArmContext:
    """What all arms of a job share."""

    inputs: FinetuneInputs
    get_keeper: Callable[[ArmName], Keeper]
    # key, shape and how to fill it -> an array on disk, filled once; None if the disk has no room
    find_pixels: Callable[[str, tuple[int, ...], Callable[[Bytes], None]], Bytes | None]
    log: Callable[[str], None]
    on_epoch: Callable[[JobStatus], None]

    def pictures(self, images: Sequence[Image], recipe: Recipe, part: str) -> Pictures:
        """Decode pictures once, onto the disk; if it has no room, whenever they are used."""
        key = fingerprint({"recipe": asdict(recipe), "images": [image.digest.hex() for image in images]})[:16]
        shape = (len(images), recipe.size, recipe.size, 3)
        read = self.inputs.read
        kept = self.find_pixels(f"{part}-{key}", shape, lambda pixels: decode_into(pixels, images, read, recipe))
        return Undecoded(images, read, recipe) if kept is None else kept

    def validation(self, recipe: Recipe) -> Validation:
        images = self.inputs.validate_on
        return Validation(self.pictures(images, recipe, "val"), labels_of(images))

    def train(self, arm: Arm, stop_after: int | None = None) -> Arm:
        """Train an arm from its newest checkpoint on."""
        images, num_classes = self.inputs.fit_on, len(self.inputs.manifest.classes)
        curve = train(
            arm.network,
            Batches(self.pictures(images, arm.recipe, "fit"), labels_of(images), num_classes, arm.schedule),
            arm.validation,
            arm.schedule,
            self.get_keeper(arm.name),
            lambda row: self.on_epoch(JobStatus(**asdict(row), arm=arm.name, num_epochs=arm.schedule.epochs)),
            stop_after,
        )
        return replace(arm, curve=curve)


@dataclass(frozen=True, slots=True)
class BestArm:
    """The better arm after training, and the report on all of them."""

    network: keras.Model  # from pixels to scores, float32
    recipe: Recipe
    head: Head  # that training started from
    report: FinetuneReport


def train_arms(context: ArmContext, schedule: Schedule, head_version: int) -> BestArm:
    """Train what the plan asks for; returns the arm that is better on validation pictures, calibrated on them."""
    inputs = context.inputs
    head = fit_stored(inputs, inputs.fit_on, inputs.taps)  # like the one that serves, without validation pictures
    scratch = None
    with all_gpus():
        tuned, mirror = finetune_arm(context, head, schedule)
        best = tuned
        if inputs.plan.strategy == WITH_RACE:
            fresh, scratch = _race(context, tuned)
            if scratch.race.continued and fresh.best_accuracy > tuned.best_accuracy:
                best = fresh
    network = best.in_float32()
    factor = scale_scores(network, best.validation)
    report = FinetuneReport(
        started_from=StartedFrom(head_version, tuple(part.tap for part in head.taps)),
        num_fit=len(inputs.fit_on),
        num_validation=len(inputs.validate_on),
        schedule=schedule,
        gate=compare_with_head(inputs, network, best.recipe),
        arm=best.name,
        curve=tuned.curve,
        mirror=mirror,
        precision=best_precision(),
        calibration=factor,
        scratch=scratch,
    )
    return BestArm(network, best.recipe, head, report)


def fit_stored(inputs: FinetuneInputs, images: Sequence[Image], taps: Sequence[Tap]) -> Head:
    """Fit a head on stored features."""
    features = inputs.read_taps(images, [tap.name for tap in taps])
    return fit_head(features, taps, truth_of(inputs.manifest, images))


def predict_stored(inputs: FinetuneInputs, head: Head, images: Sequence[Image]) -> Array:
    """Return a head's probabilities (n, classes) of pictures with stored features."""
    return head_probabilities(head, inputs.read_taps(images, [part.tap for part in head.taps]))


def compare_with_head(inputs: FinetuneInputs, network: keras.Model, recipe: Recipe) -> Gate:
    """Compare a trained network with the head that serves, on validation pictures.

    That head has learned from all training pictures. If those validate, each of them is predicted by the head without
    it. A head fitted without any of them is a weaker opponent: on 17 datasets of 100 to 1,400 pictures, two networks
    that were 3.7 and 5.5 points worse on test pictures passed against it.
    """
    found = predict_images(network, inputs.validate_on, inputs.read, recipe)
    return compare(labels_of(inputs.validate_on), _serving_scores(inputs), found)


def _serving_scores(inputs: FinetuneInputs) -> Array:
    """Return the scores (n, classes) of the head that serves, on validation pictures that it has not seen."""
    head = fit_stored(inputs, inputs.train_on, inputs.taps)
    if len(inputs.train_on) > len(inputs.fit_on) and head.held_out is not None:
        return head.held_out[len(inputs.fit_on) :]
    return predict_stored(inputs, head, inputs.validate_on)  # the folder has a val split


def finetune_arm(context: ArmContext, head: Head, schedule: Schedule) -> tuple[Arm, MirrorTest]:
    """Fine-tune backbone and head. Pictures are mirrored if the head predicts mirrored ones about as well."""
    spec = context.inputs.spec
    with precision(best_precision()):
        network = build_finetuned(spec, head, schedule)
    validation = context.validation(spec.recipe)
    plain, mirrored = measure_mirror(network, validation)
    mirror = MirrorTest(plain, mirrored, MIRROR_TOLERANCE, used=mirrored >= plain - MIRROR_TOLERANCE)
    schedule = replace(schedule, augmentation=replace(schedule.augmentation, mirror=mirror.used))

    def build() -> keras.Model:
        return build_deliverable(spec, head)

    return context.train(Arm("fine-tune", build, network, spec.recipe, schedule, validation)), mirror


def scratch_arm(context: ArmContext, tuned: Arm) -> Arm:
    """Train a network from random weights for about as many multiply-adds as fine-tuning took, without a race."""
    arm = _untrained_scratch(context, tuned)
    num_epochs = plan_race(*_costs(tuned, arm), len(tuned.curve) - 1)
    return context.train(replace(arm, schedule=replace(arm.schedule, epochs=num_epochs)))


def _race(context: ArmContext, tuned: Arm) -> tuple[Arm, ScratchReport]:
    """Train a network from random weights on a small budget, and to the end if it is ahead then."""
    arm = _untrained_scratch(context, tuned)
    costs = _costs(tuned, arm)
    num_epochs = min(plan_race(*costs), arm.schedule.epochs)
    arm = context.train(arm, num_epochs)
    race = judge_race(
        tuned.curve[1].val_accuracy,
        max(row.val_accuracy for row in arm.curve[1 : num_epochs + 1]),
        len(context.inputs.validate_on),
        num_epochs,
        num_epochs * costs[1] / costs[0],
    )
    context.log(race.reason)
    if race.continued:
        arm = context.train(arm)
    size, num_parameters = arm.recipe.size, arm.network.count_params()
    report = ScratchReport(arm.network.name, size, num_parameters, costs[1], costs[0], arm.schedule, arm.curve, race)
    return arm, report


def _untrained_scratch(context: ArmContext, tuned: Arm) -> Arm:
    inputs = context.inputs
    size = choose_size(_short_sides(inputs), inputs.spec.recipe.size)
    recipe = replace(inputs.spec.recipe, size=size)
    planned = plan_scratch(len(inputs.fit_on))
    schedule = replace(planned, augmentation=replace(planned.augmentation, mirror=tuned.schedule.augmentation.mirror))

    def build() -> keras.Model:
        return in_float32(build_scratch(size, len(inputs.manifest.classes), schedule.seed))

    with precision(best_precision()):
        network = build()
    return Arm("scratch", build, network, recipe, schedule, context.validation(recipe))


def _costs(tuned: Arm, scratch: Arm) -> tuple[int, int]:
    """Return the multiply-adds of a forward pass of both networks."""
    return count_multiply_adds(tuned.network), count_multiply_adds(scratch.network)


def _short_sides(inputs: FinetuneInputs) -> list[int]:
    sides = []
    for image in sample_images(inputs.fit_on, NUM_MEASURED):
        with suppress(OSError, ImageError):
            sides.append(min(probe(inputs.read(image))))
    return sides
