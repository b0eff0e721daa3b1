"""The inputs of fine-tuning: a plan, the pictures to train, validate and test on, and how to read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.decision.nouns import Plan
from pipeline.types import Array, BackboneSpec, Image, Manifest, Split, Tap


@dataclass(frozen=True, slots=True)
class FinetuneInputs:
    """What every part of a fine-tuning job or an audit starts from."""

    manifest: Manifest
    spec: BackboneSpec
    plan: Plan
    fit_on: Sequence[Image]
    validate_on: Sequence[Image]
    test_on: Sequence[Image]
    test_split: Split
    read: Callable[[Image], bytes]  # a picture's file
    read_taps: Callable[[Sequence[Image], Sequence[str]], Mapping[str, Array]]  # stored features, tap -> (n, dim)

    @property
    def train_on(self) -> list[Image]:
        """Return what a head learns from: all training pictures, those that validate too."""
        return [*self.fit_on, *(image for image in self.validate_on if image.split == "train")]

    @property
    def taps(self) -> list[Tap]:
        """Return the candidates of the plan."""
        return [tap for tap in self.spec.taps if tap.name in self.plan.taps]


def labels_of(images: Sequence[Image]) -> list[int]:
    return [image.label for image in images]
