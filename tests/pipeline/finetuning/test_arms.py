"""Arms on pictures and features in memory: no folder, no job, no store."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.backbones.table import get_backbone
from pipeline.decision.schedule import plan_finetuning
from pipeline.finetuning.inputs import FinetuneInputs
from pipeline.fingerprint import digest
from pipeline.types import Image
from tests.factories import COLOURS, a_manifest, a_photo, a_plan, encoded
from tests.pipeline.finetuning.test_train import Kept

pytestmark = pytest.mark.heavy

SIZE = 32


def inputs_in_memory(keras, strategy="fine-tune"):
    files, images = {}, []
    for number in range(40):
        label = number % 2
        path = f"{number}.png"
        files[path] = encoded(a_photo(number, (SIZE, SIZE), COLOURS[label]))
        images.append(Image(digest(files[path]), path, (label,), "test" if number < 8 else "train"))
    rng = np.random.default_rng(0)
    top = {image.path: rng.normal(3.0 * image.label, 1.0, 16).astype(np.float32) for image in images}
    spec = get_backbone("efficientnet_lite0")
    tap = replace(next(tap for tap in spec.taps if tap.name == "top"), dim=16)
    return FinetuneInputs(
        manifest=a_manifest(images=tuple(images)),
        spec=replace(spec, recipe=replace(spec.recipe, size=SIZE), taps=(tap,)),
        plan=a_plan(strategy=strategy, taps=("top",)),
        fit_on=images[8:32],
        validate_on=images[32:],
        test_on=images[:8],
        test_split="test",
        read=lambda image: files[image.path],
        read_taps=lambda chosen, names: {name: np.stack([top[image.path] for image in chosen]) for name in names},
    )


@pytest.fixture
def context(keras, monkeypatch):
    """Makes a context whose disk has no room, with a small network in place of the backbone."""
    from pipeline.finetuning import arms
    from pipeline.finetuning.scratch import build_scratch

    monkeypatch.setattr(arms, "build_finetuned", lambda spec, head, schedule: build_scratch(SIZE, 2))
    monkeypatch.setattr(arms, "build_deliverable", lambda spec, head: build_scratch(SIZE, 2))
    rows, lines, keepers = [], [], {}

    def make(inputs, find_pixels=lambda key, shape, fill: None):
        get_keeper = lambda arm: keepers.setdefault(arm, Kept())  # noqa: E731
        return arms.ArmContext(inputs, get_keeper, find_pixels, lines.append, rows.append), rows, lines, keepers

    return make


def test_the_better_arm_comes_with_a_report_of_everything(context, keras):
    from pipeline.finetuning.arms import train_arms

    inputs = inputs_in_memory(keras, "fine-tune-or-scratch")
    context, rows, lines, keepers = context(inputs)
    best = train_arms(context, replace(plan_finetuning(24, epochs=1), batch_size=8), head_version=3)
    report = best.report
    assert (report.started_from.version, report.started_from.taps) == (3, ("top",))
    assert (report.num_fit, report.num_validation, report.gate.num_images) == (24, 8, 8)
    assert [row.epoch for row in rows if row.arm == "fine-tune"] == [0, 1]
    assert next(row.num_epochs for row in rows if row.arm == "scratch") == report.scratch.schedule.epochs
    assert report.scratch.curve[: report.scratch.race.epochs + 1][-1].epoch == report.scratch.race.epochs
    assert lines == [report.scratch.race.reason]
    assert set(keepers) == {"fine-tune", "scratch"}
    assert best.network.output.dtype == "float32"
    assert report.scratch.schedule.augmentation.mirror is report.mirror.used


def test_pictures_are_decoded_once_if_there_is_room(context, keras):
    from pipeline.finetuning.arms import finetune_arm, fit_stored

    inputs, filled = inputs_in_memory(keras), {}

    def find_pixels(key, shape, fill):
        if key not in filled:
            filled[key] = np.zeros(shape, np.uint8)
            fill(filled[key])
        return filled[key]

    context, *_ = context(inputs, find_pixels)
    schedule = replace(plan_finetuning(24, epochs=1), batch_size=8)
    arm, mirror = finetune_arm(context, fit_stored(inputs, inputs.fit_on, inputs.taps), schedule)
    assert sorted((key.split("-")[0], len(pixels)) for key, pixels in filled.items()) == [("fit", 24), ("val", 8)]
    assert all(pixels.any() for pixels in filled.values())
    assert arm.schedule.augmentation.mirror is mirror.used
    assert len(arm.curve) == 2
