"""Which version of a model serves: a new one takes over unless it is worse, picture by picture.

Versions are asked about today's training pictures, each as if it had not seen them: a head is fitted again from its own
manifest, for its leave-one-out scores; a fine-tuned network cannot be, and is only asked about pictures that it was
not trained on. Test pictures are no part of this: choosing by them would make them training pictures.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from flows.features.backbone import find_recorded_backbone
from flows.features.extraction import extract
from flows.features.fitting import fit, held_out, read_taps
from flows.prediction.files import predict_with
from flows.stopwatch import stage
from pipeline.dataset.split import split_validation
from pipeline.errors import ConflictError, HeadstartError, UsageError
from pipeline.finetuning.gate import MARGIN, Names, Promotion, judge_challenger, name_labels
from pipeline.images.views import ORIGINAL, view_names
from pipeline.report.record import ModelRef
from pipeline.types import BackboneSpec, Digest, Head, Image, Manifest
from storage.datasets.manifests import DatasetRef, read_manifest
from storage.models.versions import (
    Declined,
    Serving,
    check_bundle,
    decline,
    find_serving,
    get_model,
    list_models,
    promote,
    serving_version,
)
from storage.workspace import Workspace

Answers = dict[Digest, Names]  # what a version says of pictures that it has not learned from


@dataclass(frozen=True, slots=True)
class Verdict:
    """Which version serves now, and why."""

    version: int
    promoted: bool  # just now
    reason: str
    gate: dict[str, Any] | None  # the comparison, if there was one


class _IncomparableError(ConflictError):
    """Two versions cannot be compared; the message says why."""


def list_heads(workspace: Workspace, name: str) -> list[ModelRef]:
    """Every version of a model that is a head on frozen features, oldest first."""
    return [ref for ref in list_models(workspace) if ref.name == name and not ref.record.is_network]


def promote_by_hand(workspace_root: str, model: str) -> dict[str, Any]:
    """Let a version serve because a person says so; returns what `headstart promote --json` prints.

    It was preferred to all others that there are: none of them takes over again before something new is trained.
    """
    name, _, number = model.partition("@")
    if not number or os.sep in model:
        raise UsageError(f"{model!r} names no version. Wanted: NAME@VERSION, for example flowers@2.")
    workspace = Workspace.open(workspace_root)
    ref = get_model(workspace, model)
    check_bundle(ref)
    others = [other.version for other in list_models(workspace) if other.name == name]
    serving = promote(workspace, name, ref.version, "A person chose it.", over=others)
    return {"model": name, "version": ref.version, "previous": serving.previous, "path": ref.path}


# ── deciding ─────────────────────────────────────────────────────────────────────────────────────


def pin_serving(workspace: Workspace, name: str) -> None:
    """Write down which version serves before there is a newer one: without that, the newest does."""
    version = serving_version(workspace, name)
    if version is not None and find_serving(workspace, name) is None:
        promote(workspace, name, version, "It was the newest version when this was first asked.")


def settle(workspace: Workspace, challenger: ModelRef, head: Head | None = None) -> Verdict:
    """Let a version serve unless it is worse than the one that does; what was decided before is not decided again.

    Parameters
    ----------
    head
        The challenger's, where it was fitted just now.

    Raises
    ------
    DamagedError
        Which version serves cannot be known.
    """
    name, version = challenger.name, challenger.version
    serving = find_serving(workspace, name)
    if serving is None and serving_version(workspace, name) == version:
        return _promoted(promote(workspace, name, version, "No other version served before it."))
    pin_serving(workspace, name)
    serving = serving or find_serving(workspace, name)
    if serving is None:
        raise RuntimeError("a version cannot serve before it is there")
    if serving.version == version:
        return _stays(serving, serving.reason, serving.gate)
    why = serving.declined.get(version)
    if why and why.data in (None, _data_of(challenger)):
        return _stays(serving, why.reason, why.gate)
    return _decide(workspace, challenger, serving, head)


def _decide(workspace: Workspace, challenger: ModelRef, serving: Serving, head: Head | None) -> Verdict:
    name, version, data = challenger.name, challenger.version, _data_of(challenger)
    compared = f"Version {version} was compared with version {serving.version}."
    try:
        opponent = _readable(workspace, name, serving.version)
        theirs, ours = opponent.record.finetune, challenger.record.finetune
        if theirs and theirs.started_from.version == version:
            reason = f"Version {serving.version} was trained from version {version}. {theirs.gate.reason}"
            return _stays(serving, reason)
        if ours and ours.started_from.version == serving.version:  # its own gate has compared them
            reason = f"{compared} {ours.gate.reason}"
            return _promoted(promote(workspace, name, version, reason, asdict(ours.gate), data))
        with stage("compare"):
            outcome = compare_versions(workspace, challenger, opponent, head)
    except _IncomparableError as error:
        reason = f"Version {version} serves; it cannot be compared with version {serving.version}. {error}"
        return _promoted(promote(workspace, name, version, reason, None, data))
    if serving_version(workspace, name) != serving.version:  # a person has chosen meanwhile, and waits for nobody
        return settle(workspace, challenger, head)
    reason, gate = f"{compared} {outcome.reason}", asdict(outcome)
    if outcome.passed:
        return _promoted(promote(workspace, name, version, reason, gate, data))
    decline(workspace, name, version, Declined(reason, gate, data))
    return _stays(serving, reason, gate)


def _promoted(serving: Serving) -> Verdict:
    return Verdict(serving.version, True, serving.reason, dict(serving.gate) if serving.gate else None)


def _stays(serving: Serving, reason: str, gate: Any = None) -> Verdict:
    return Verdict(serving.version, False, reason, dict(gate) if gate else None)


def _data_of(ref: ModelRef) -> str:
    return ref.record.data.fingerprint


# ── comparing ────────────────────────────────────────────────────────────────────────────────────


def compare_versions(
    workspace: Workspace, challenger: ModelRef, serving: ModelRef, head: Head | None = None
) -> Promotion:
    """Compare two versions on the challenger's pictures that neither has learned from, as they are labelled there.

    The challenger has to pass on all of them, and on those whose label did not change (`_same_label`). Between heads
    it may be worse within the error; where a network takes part it may not, because training one, or giving one up,
    is expensive.
    """
    today = _manifest_of(workspace, challenger)
    images = _usable(today, challenger)
    asked = [image for image in images if image.split == "train"]
    margin = MARGIN
    if challenger.record.is_network or serving.record.is_network:
        margin = 0.0
        test_on, _ = held_out(images)
        tested = {image.digest for image in test_on}
        asked += [image for image in images if image.split == "val" and image.digest not in tested]
    theirs = _answer(workspace, serving, today, asked)
    ours = _answer(workspace, challenger, today, asked, head)
    shared = [image for image in _countable(today, asked) if image.digest in ours and image.digest in theirs]
    if not shared:
        raise _IncomparableError("There is no picture that neither of them has learned from.")
    outcome = _judge(today, shared, theirs, ours, margin)
    settled = _same_label(today, _manifest_of(workspace, serving), shared)
    if outcome.passed and 0 < len(settled) < len(shared):
        unchanged = _judge(today, settled, theirs, ours, margin)
        if not unchanged.passed:
            return replace(unchanged, reason=f"On pictures whose label did not change: {unchanged.reason}")
    return outcome


def _judge(today: Manifest, images: Sequence[Image], theirs: Answers, ours: Answers, margin: float) -> Promotion:
    truth = [_names(today, image) for image in images]
    digests = [image.digest for image in images]
    return judge_challenger(truth, [theirs[one] for one in digests], [ours[one] for one in digests], margin)


def _same_label(today: Manifest, then: Manifest, images: Sequence[Image]) -> list[Image]:
    """Keep the pictures that have the label they had; none where classes came or went, and so changed their meaning.

    Where labels became garbage nobody can predict them, and both versions are equally wrong there: what tells them
    apart is what garbage has done to the answers about all other pictures.
    """
    if today.classes != then.classes:
        return []
    before = {image.digest: image.labels for image in then.images}
    return [image for image in images if before.get(image.digest) == image.labels]


def _names(manifest: Manifest, image: Image) -> Names:
    return frozenset(manifest.classes[label] for label in image.labels)


def _answer(
    workspace: Workspace, ref: ModelRef, today: Manifest, asked: Sequence[Image], head: Head | None = None
) -> Answers:
    if ref.record.is_network:
        return _network_answers(workspace, ref, today, asked)
    return _head_answers(workspace, ref, today, asked, head)


def _head_answers(
    workspace: Workspace, ref: ModelRef, today: Manifest, asked: Sequence[Image], head: Head | None
) -> Answers:
    """Ask a head: about what it has learned from by leaving that one out, about the rest as it is."""
    learned_from = _manifest_of(workspace, ref)
    spec = _backbone_of(workspace, ref)
    learned = [image for image in _usable(learned_from, ref) if image.split == "train"]
    taps = [tap for tap in spec.taps if tap.name in ref.record.plan.taps]
    if head is None:
        num_views = ref.record.features.num_views
        if lost := {image.path for image in learned} & _without_features(workspace, learned_from, spec, num_views):
            raise _IncomparableError(
                f"The features of {len(lost):,} pictures that version {ref.version} was trained on are gone, "
                "and so are the pictures."
            )
        views = (ORIGINAL, *view_names(num_views))
        features = read_taps(workspace, spec, views, learned, [tap.name for tap in taps])
        head = fit(learned_from, features, taps, learned, num_views)
    if head.held_out is None:
        raise RuntimeError("a head that was fitted has leave-one-out scores")
    names = name_labels(head.held_out, learned_from.classes, head.thresholds)
    answers = dict(zip((image.digest for image in learned), names, strict=True))
    left_out = _without_features(workspace, today, spec, 0)
    if others := [image for image in asked if image.digest not in answers and image.path not in left_out]:
        from pipeline.heads.fit import head_probabilities

        read = read_taps(workspace, spec, (ORIGINAL,), others, [part.tap for part in head.taps])
        names = name_labels(head_probabilities(head, read), learned_from.classes, head.thresholds)
        answers |= zip((image.digest for image in others), names, strict=True)
    return answers


def _network_answers(workspace: Workspace, ref: ModelRef, today: Manifest, asked: Sequence[Image]) -> Answers:
    """Ask a fine-tuned network about what it was not trained on."""
    images = _usable(_manifest_of(workspace, ref), ref)
    fit_on, _ = split_validation(images, held_out(images)[1])
    seen = {image.digest for image in fit_on}
    others = [image for image in asked if image.digest not in seen]
    if not others:
        return {}
    rows = predict_with(workspace, ref, [os.path.join(today.root, image.path) for image in others], top=1)
    return {
        image.digest: frozenset(name for name, _ in (row.top if row.labels is None else row.labels))
        for image, row in zip(others, rows, strict=True)
        if row.error is None
    }


def _without_features(workspace: Workspace, manifest: Manifest, spec: BackboneSpec, num_views: int) -> set[str]:
    """Compute what the store does not have; returns the paths of pictures whose features cannot be had."""
    dataset = DatasetRef(manifest.dataset, manifest.root, manifest.fingerprint)
    return {item.path for item in extract(workspace, dataset, spec, num_views).rejected}


def _usable(manifest: Manifest, ref: ModelRef) -> list[Image]:
    """Return the pictures that a version was made from: those that could be decoded then."""
    left_out = {item.path for item in ref.record.data.rejected}
    return [image for image in manifest.images if image.path not in left_out]


def _countable(manifest: Manifest, images: Iterable[Image]) -> list[Image]:
    """Keep pictures whose class has another one: no head can know a class whose only picture is left out."""
    images = list(images)
    if not manifest.exclusive:
        return images
    sizes = Counter(image.label for image in images if image.split == "train")
    return [image for image in images if image.split != "train" or sizes[image.label] > 1]


def _manifest_of(workspace: Workspace, ref: ModelRef) -> Manifest:
    try:
        return read_manifest(workspace, ref.name, _data_of(ref))
    except HeadstartError as error:
        raise _IncomparableError(f"What version {ref.version} was trained on is not known any more. {error}") from error


def _backbone_of(workspace: Workspace, ref: ModelRef) -> BackboneSpec:
    try:
        return find_recorded_backbone(workspace, ref.record)
    except HeadstartError as error:
        raise _IncomparableError(str(error)) from error


def _readable(workspace: Workspace, name: str, version: int) -> ModelRef:
    """Find the version that serves; one that is gone or damaged cannot even predict."""
    try:
        ref = get_model(workspace, f"{name}@{version}")
        check_bundle(ref)
    except HeadstartError as error:
        raise _IncomparableError(str(error)) from error
    return ref
