"""`headstart verify`: every file and checksum of a workspace, and a sample of stored rows computed again."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from random import Random
from typing import NamedTuple

from flows.features.backbone import backbone_files, list_backbones, load_engine
from flows.requests import VerifyRequest
from pipeline.engine.canary import TOLERANCE, row_differences
from pipeline.engine.files import MOMENTS_FILE, TAPS_FILE
from pipeline.fingerprint import digest
from pipeline.types import BackboneSpec, Digest, Image, Progress, Space
from storage.datasets.manifests import read_manifest
from storage.features.store import open_features
from storage.maintenance.verification import LEFT, Finding, Verification
from storage.workspace import Workspace


@dataclass(frozen=True, slots=True)
class TapDifference:
    """How far the recomputed rows of a tap are from the stored ones."""

    space: str
    backbone: str
    view: str
    tap: str
    num_rows: int
    largest_difference: float  # relative


@dataclass(frozen=True, slots=True)
class Recomputed:
    """A random sample of stored rows, computed again."""

    seed: int
    tolerance: float  # of a relative difference
    num_rows: int
    num_stored: int  # rows to choose from: those whose pictures datasets know
    taps: tuple[TapDifference, ...]


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """What was checked in a workspace, and what was found."""

    workspace: str
    checked: Mapping[str, int]  # how many, by what they are
    findings: tuple[Finding, ...]
    recomputed: Recomputed | None = None


class _Family(NamedTuple):
    """A space whose network can be loaded here, and the pictures in it that datasets know."""

    space: Space
    spec: BackboneSpec
    network: str  # file name
    images: tuple[Image, ...]  # stored; paths are absolute


def verify(request: VerifyRequest, progress: Progress) -> VerifyResult:
    """Check a workspace; without a seed, other rows are recomputed each time."""
    verification = Verification(request.workspace, progress)
    verification.run()
    findings, recomputed = tuple(verification.findings), None
    if request.recompute:
        seed = secrets.randbelow(2**32) if request.seed is None else request.seed
        recomputed, differing = _recompute(verification, request.recompute, seed, progress)
        findings += differing
    return VerifyResult(request.workspace, dict(verification.checked), findings, recomputed)


def _recompute(
    verified: Verification, num_wanted: int, seed: int, progress: Progress
) -> tuple[Recomputed, tuple[Finding, ...]]:
    """Compute a random sample of the stored rows again and compare them with what is stored."""
    families = list(_families(verified))
    stored = [(number, image) for number, family in enumerate(families) for image in family.images]
    Random(seed).shuffle(stored)
    sample = list(islice((pair for pair in stored if _holds(pair[1])), num_wanted))
    taps: list[TapDifference] = []
    findings: list[Finding] = []
    progress.start("recompute", len(sample))
    try:
        for number, family in enumerate(families):
            if images := [image for of, image in sample if of == number]:
                largest: dict[str, float] = {}
                for image, differences in _compare(verified.workspace, family, images, progress):
                    largest = {tap: max(value, largest.get(tap, 0.0)) for tap, value in differences.items()}
                    findings += _judge(family.space, image, differences)
                space = family.space
                taps += [
                    TapDifference(space.id, space.backbone, space.recipe.view, tap, len(images), value)
                    for tap, value in largest.items()
                ]
    finally:
        progress.finish()
    return Recomputed(seed, TOLERANCE, len(sample), len(stored), tuple(taps)), tuple(findings)


def _families(verified: Verification) -> Iterator[_Family]:
    workspace = verified.workspace
    known: dict[Digest, Image] = {}
    for ref in verified.datasets:
        for image in read_manifest(workspace, ref.name, ref.fingerprint).images:
            known.setdefault(image.digest, replace(image, path=str(Path(ref.root, image.path))))
    backbones = list_backbones(workspace)
    for space in verified.spaces.values():
        for spec in backbones:
            own = replace(spec, recipe=replace(spec.recipe, decoder=space.recipe.decoder))
            network = {own.space(space.recipe.view): TAPS_FILE}
            if own.moments:
                network[own.moment_space()] = MOMENTS_FILE
            if space in network:
                with open_features(workspace, space) as store:
                    absent = {*store.missing(list(known)), *store.rejects(list(known))}
                yield _Family(space, spec, network[space], tuple(i for i in known.values() if i.digest not in absent))


def _holds(image: Image) -> bool:
    try:
        return digest(_read(image)) == image.digest
    except OSError:
        return False


def _read(image: Image) -> bytes:
    return Path(image.path).read_bytes()


def _compare(
    workspace: Workspace, family: _Family, images: list[Image], progress: Progress
) -> Iterator[tuple[Image, Mapping[str, float]]]:
    """Yield each image with its relative difference by tap."""
    from pipeline.engine.extract import extract_features

    engine = load_engine(backbone_files(workspace, family.spec) / family.network)
    image_of = {image.digest: image for image in images}
    with open_features(workspace, family.space) as store:
        for block in extract_features(images, _read, family.space.recipe, engine):
            stored = {tap.name: store.read(block.digests, tap.name) for tap in family.space.taps}
            for key, differences in zip(block.digests, row_differences(block, stored), strict=True):
                yield image_of[key], differences
            progress.advance(len(block.digests))


def _judge(space: Space, image: Image, differences: Mapping[str, float]) -> list[Finding]:
    tap = max(differences, key=differences.__getitem__)
    if differences[tap] <= TOLERANCE:
        return []
    problem = (
        f"Tap '{tap}' of {space.backbone} differs by {differences[tap]:.1e} from what this machine computes, wanted at "
        f"most {TOLERANCE:.0e}."
    )
    advice = f"If this machine is right, remove the folder spaces/{space.id} and run `headstart onboard` again."
    return [Finding("row", image.path, problem, LEFT, advice)]
