"""Thresholds of D_BN for each backbone: where similar ends and different begins, and how far known datasets are.

The constants are in `thresholds.json`, made by `python -m tests.benchmarks.thresholds`, which states the rule.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pipeline.decision.nouns import Reference
from pipeline.errors import DamagedError
from pipeline.types import BackboneSpec

FILE = Path(__file__).with_name("thresholds.json")
FORMAT = "headstart.thresholds"
VERSION = 1
NUM_NEIGHBOURS = 2  # known datasets named on either side of one


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Boundaries of D_BN with one backbone, in nats."""

    weights_sha256: str  # that they were measured with: other weights remember other data
    similar_below: float
    different_above: float
    references: tuple[Reference, ...]  # by distance


def find_thresholds(spec: BackboneSpec) -> Thresholds | None:
    """Look up the thresholds of a backbone as it is: None with other weights than they were measured with."""
    found = read_thresholds().get(spec.name)
    return found if found and found.weights_sha256 == spec.weights_sha256 else None


def nearest_references(thresholds: Thresholds, distance: float) -> tuple[Reference, ...]:
    """List the known datasets that are next to a distance, below it and above it, by distance."""
    below = [reference for reference in thresholds.references if reference.distance <= distance]
    above = [reference for reference in thresholds.references if reference.distance > distance]
    return (*below[-NUM_NEIGHBOURS:], *above[:NUM_NEIGHBOURS])


@cache
def read_thresholds() -> dict[str, Thresholds]:
    """Read the thresholds of every backbone that has some, by its name.

    Raises
    ------
    DamagedError
        When the file is not what this version reads.
    """
    try:
        document = json.loads(FILE.read_text())
        if (document["format"], document["version"]) != (FORMAT, VERSION):
            raise DamagedError(f"{FILE} is {document['format']} {document['version']}, wanted {FORMAT} {VERSION}.")
        found = {}
        for name, part in document["backbones"].items():
            references = sorted((row["mean"], known) for known, row in part["references"].items())
            found[name] = Thresholds(
                weights_sha256=part["weights_sha256"],
                similar_below=part["similar_below"],
                different_above=part["different_above"],
                references=tuple(Reference(known, distance) for distance, known in references),
            )
        return found
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{FILE} holds no thresholds: {error}. Install headstart again.") from error
