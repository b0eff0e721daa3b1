"""The true labels that a head is fitted to, of either kind."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.heads.classes import ClassLabels
from pipeline.heads.label_sets import LabelSets, label_matrix
from pipeline.types import Image, Manifest

Truth = ClassLabels | LabelSets


def truth_of(manifest: Manifest, images: Sequence[Image]) -> Truth:
    """Return the true labels of some of a dataset's images."""
    return to_truth([image.labels for image in images], len(manifest.classes), manifest.exclusive)


def to_truth(labels: Sequence[Sequence[int]], num_classes: int, exclusive: bool) -> Truth:
    """Return the true labels of pictures, each a number below `num_classes`; exactly one a picture if exclusive.

    >>> to_truth([(1,), (0,)], 2, exclusive=True).targets.tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    >>> to_truth([(0, 1), ()], 2, exclusive=False).targets.tolist()
    [[1.0, 1.0], [0.0, 0.0]]
    """
    if exclusive:
        return ClassLabels(np.array([label for (label,) in labels], dtype=np.intp), num_classes)
    return LabelSets(label_matrix(labels, num_classes))
