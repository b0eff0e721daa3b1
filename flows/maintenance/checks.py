"""Look after a workspace: check it against damage and against this machine, and remove what nothing needs."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from itertools import groupby, islice
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from flows.features.backbone import backbone_files, engine_id, list_backbones, load_engine
from flows.prediction.files import classifier_engine_id
from flows.versions.promote import list_heads
from pipeline.engine.canary import TOLERANCE, row_differences
from pipeline.engine.files import MOMENTS_FILE, TAPS_FILE
from pipeline.errors import NotFoundError, UsageError
from pipeline.fingerprint import digest
from pipeline.types import BackboneSpec, Digest, Image, Progress, Space
from storage.datasets.manifests import read_manifest
from storage.features.store import FeatureStore
from storage.jobs.folder import list_folders, read_document
from storage.maintenance.garbage import Limits, collect
from storage.maintenance.verification import LEFT, Finding, Verification
from storage.models.versions import find_serving, list_models, serving_version
from storage.workspace import Workspace

# ── verify ───────────────────────────────────────────────────────────────────────────────────────


class _Family(NamedTuple):
    """A space whose network can be had here, and the pictures of it that datasets know."""

    space: Space
    spec: BackboneSpec
    network: str  # file name
    images: tuple[Image, ...]  # stored; paths are absolute


def verify(workspace_root: str, progress: Progress, num_recomputed: int = 0, seed: int | None = None) -> dict[str, Any]:
    """Check a workspace; returns the document that `headstart verify --json` prints.

    Parameters
    ----------
    num_recomputed
        How many stored rows to compute again, of pictures that still are where a dataset has them.
    seed
        Decides which ones; by default others each time.
    """
    verification = Verification(workspace_root, progress)
    verification.run()
    document: dict[str, Any] = {"workspace": workspace_root, "checked": dict(verification.checked)}
    findings = list(verification.findings)
    if num_recomputed:
        seed = secrets.randbelow(2**32) if seed is None else seed
        recomputed, differing = _recompute(verification, num_recomputed, seed, progress)
        document["recomputed"] = {"seed": seed, "tolerance": TOLERANCE, **recomputed}
        findings += differing
    return {**document, "findings": [asdict(finding) for finding in findings]}


def _recompute(
    verified: Verification, num_wanted: int, seed: int, progress: Progress
) -> tuple[dict[str, Any], list[Finding]]:
    """Compute a random sample of the stored rows again and compare them with what is stored."""
    families = list(_families(verified))
    stored = [(number, image) for number, family in enumerate(families) for image in family.images]
    Random(seed).shuffle(stored)
    sample = list(islice((pair for pair in stored if _holds(pair[1])), num_wanted))
    taps: list[dict[str, Any]] = []
    findings: list[Finding] = []
    progress.start("recompute", len(sample))
    try:
        for number, family in enumerate(families):
            if images := [image for of, image in sample if of == number]:
                largest: dict[str, float] = {}
                for image, differences in _compare(verified.workspace, family, images, progress):
                    largest = {tap: max(value, largest.get(tap, 0.0)) for tap, value in differences.items()}
                    findings += _judge(family.space, image, differences)
                taps += [_tap_row(family.space, tap, len(images), value) for tap, value in largest.items()]
    finally:
        progress.finish()
    return {"num_rows": len(sample), "num_stored": len(stored), "taps": taps}, findings


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
                store = FeatureStore(workspace, space)
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

    store = FeatureStore(workspace, family.space)
    engine = load_engine(backbone_files(workspace, family.spec) / family.network)
    image_of = {image.digest: image for image in images}
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


def _tap_row(space: Space, tap: str, num_rows: int, largest: float) -> dict[str, Any]:
    return {
        "space": space.id,
        "backbone": space.backbone,
        "view": space.recipe.view,
        "tap": tap,
        "num_rows": num_rows,
        "largest_difference": largest,
    }


# ── gc ───────────────────────────────────────────────────────────────────────────────────────────

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def parse_seconds(text: str) -> float:
    """Read a span of time.

    >>> parse_seconds("36h")
    129600.0
    """
    return _parse_quantity(text, SECONDS, "a span of time such as 30d or 36h")


def parse_bytes(text: str) -> int:
    """Read a size.

    >>> parse_bytes("1.5GB")
    1500000000
    """
    return int(_parse_quantity(text, BYTES, "a size such as 20GB or 500MB"))


def _parse_quantity(text: str, units: Mapping[str, int], wanted: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([a-zA-Z]+)", text.strip())
    factor = match and next((units[unit] for unit in units if unit.lower() == match[2].lower()), None)
    if not match or factor is None:
        raise UsageError(f"{text!r} is not {wanted}. Units: {', '.join(units)}.")
    return float(match[1]) * factor


def parse_limits(older_than: str, max_size: str | None, grace: str) -> Limits:
    """Read the options of `headstart gc`."""
    return Limits(parse_seconds(grace), parse_seconds(older_than), parse_bytes(max_size) if max_size else None)


def gc(workspace_root: str, limits: Limits, delete: bool, keep_versions: int | None = None) -> dict[str, Any]:
    """Find, and with `delete` remove, what no dataset or model needs; returns what `headstart gc --json` prints.

    Parameters
    ----------
    keep_versions
        How many of the newest heads and networks of each model stay, beside those that serve; None: all.
    """
    workspace = Workspace.open(workspace_root, create=False)
    engines = {engine_id(spec) for spec in list_backbones(workspace)}
    engines |= {classifier_engine_id(ref) for ref in list_models(workspace) if ref.record.files}
    superseded = _find_superseded(workspace, keep_versions) if keep_versions else []
    collected = collect(workspace, engines, limits, delete, superseded)
    return {
        "workspace": workspace_root,
        "deleted": delete,
        "num_rows": sum(item.num_rows for item in collected.garbage),
        "num_bytes": sum(item.num_bytes for item in collected.garbage),
        "garbage": [
            {
                "kind": item.kind,
                "path": str(item.path.relative_to(workspace.root)),
                "num_rows": item.num_rows,
                "num_bytes": item.num_bytes,
                "written": datetime.fromtimestamp(item.written, UTC).isoformat(timespec="seconds"),
                "reason": item.reason,
            }
            for item in collected.garbage
        ],
        "left_alone": list(collected.left_alone),
    }


def _find_superseded(workspace: Workspace, num_kept: int) -> list[Path]:
    """Find the versions of all models that have `num_kept` newer ones of their kind, head or fine-tuned network.

    Not one that serves or served before it, nor one that a job starts from.
    """
    found = []
    wanted = _find_started_from(workspace)
    for name, refs in groupby(list_models(workspace), lambda ref: ref.name):
        heads = list_heads(workspace, name)
        networks = [ref for ref in refs if ref not in heads]
        serving = find_serving(workspace, name)
        wanted |= {(name, serving_version(workspace, name)), (name, serving.previous if serving else None)}
        found += [*heads[:-num_kept], *networks[:-num_kept]]
    return [Path(ref.path) for ref in found if (ref.name, ref.version) not in wanted]


def _find_started_from(workspace: Workspace) -> set[tuple[str, int | None]]:
    """Name and version of the heads that jobs start from."""
    wanted: set[tuple[str, int | None]] = set()
    for folder in list_folders(workspace):
        with suppress(NotFoundError):  # it ended before it had begun
            asked = read_document(folder / "job.json")
            wanted.add((asked["dataset"], asked["head_version"]))
    return wanted
