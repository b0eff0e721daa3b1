"""Predictions of a delivered model for pictures: the same decoder, the same recipe, the same weights.

Heavy leaf: importing it loads OpenVINO (0.3 s), never TensorFlow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from pipeline.engine.files import PROBABILITIES
from pipeline.engine.openvino_engine import Engine
from pipeline.images.ahead import Unusable, batched, or_unusable, work_ahead
from pipeline.images.decode import decode, prepare, read_picture
from pipeline.types import Array, Pixels, Prediction, Recipe


def predict_files(
    paths: Iterable[str],
    engine: Engine,
    recipe: Recipe,
    classes: Sequence[str],
    top: int,
    thresholds: Sequence[float] = (),
) -> Iterator[Prediction]:
    """Predict one row per path, in order; a file that is no picture gives a row with its error.

    Parameters
    ----------
    top
        How many classes a row names, best first.
    thresholds
        Of the labels, if a picture may have several: a row then also has the labels that reach theirs.
    """
    work = work_ahead(paths, lambda path: (path, _read(path, recipe)))
    batches = ((batch, _pixels([item for _, item in batch], recipe)) for batch in batched(work, engine.batch))
    for batch, outputs in engine.stream(batches):
        for (path, item), row in zip(batch, outputs[PROBABILITIES], strict=True):
            if isinstance(item, Unusable):
                yield Prediction(path, error=item.reason, labels=() if thresholds else None, unread=not item.final)
            else:
                yield Prediction(path, _best(row, classes, top), labels=_given(row, classes, thresholds))


@or_unusable
def _read(path: str, recipe: Recipe) -> Pixels:
    return prepare(decode(read_picture(path), recipe), recipe)


def _pixels(items: Sequence[Pixels | Unusable], recipe: Recipe) -> Pixels:
    """Stack a batch; a row without a picture is black, and its output is not used."""
    black = np.zeros((recipe.size, recipe.size, 3), np.float32)
    return np.stack([black if isinstance(item, Unusable) else item for item in items])


def _best(row: Array, classes: Sequence[str], top: int) -> tuple[tuple[str, float], ...]:
    order = np.argsort(-row, kind="stable")[:top]
    return tuple((classes[index], float(row[index])) for index in order)


def _given(row: Array, classes: Sequence[str], thresholds: Sequence[float]) -> tuple[tuple[str, float], ...] | None:
    if not thresholds:
        return None
    limits = dict(zip(classes, thresholds, strict=True))
    return tuple((name, value) for name, value in _best(row, classes, len(classes)) if value >= limits[name])
