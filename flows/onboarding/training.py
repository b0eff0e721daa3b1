"""The train step: a head on stored features, evaluated, certified and saved; it serves unless it is worse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flows.features.extraction import Extracted, read_taps
from flows.onboarding import planning
from flows.stopwatch import stage
from flows.versions.promote import Verdict, pin_serving, settle
from flows.versions.save import NewModel, save_model
from pipeline.dataset.split import held_out
from pipeline.decision.nouns import Plan
from pipeline.decision.reconsider import reconsider
from pipeline.fingerprint import fingerprint
from pipeline.images.views import ORIGINAL, view_names
from pipeline.report.record import ModelRef
from pipeline.types import BackboneSpec, Head, Image, Manifest
from storage.datasets.manifests import DatasetRef, read_manifest
from storage.models.versions import find_by_request, one_at_a_time
from storage.workspace import Workspace

# by `manifest.exclusive`; raised when a change of the code gives another model for the same features
HEAD_VERSIONS = {True: 3, False: 4}


@dataclass(frozen=True, slots=True)
class Trained:
    """The head that a plan asked for."""

    model: ModelRef
    is_new: bool  # else an earlier run had made it
    verdict: Verdict  # whether it serves


def train(workspace: Workspace, dataset: DatasetRef, spec: BackboneSpec, plan: Plan, extracted: Extracted) -> Trained:
    """Train, evaluate, certify and save the head that a plan asks for; the same request finds its model.

    Only one process at a time does this for a model: a second one that was asked the same finds it.
    """
    manifest = read_manifest(workspace, dataset.name, dataset.fingerprint)
    left_out = {item.path for item in extracted.rejected}
    images = [image for image in manifest.images if image.path not in left_out]
    request = _model_request(manifest, images, spec, plan, extracted.num_views)
    with one_at_a_time(workspace, dataset.name):
        if found := find_by_request(workspace, dataset.name, request):
            return Trained(found, False, settle(workspace, found))
        pin_serving(workspace, dataset.name)
        model, head = _make(workspace, manifest, images, spec, plan, extracted, request)
        return Trained(model, True, settle(workspace, model, head))


def _make(
    workspace: Workspace,
    manifest: Manifest,
    images: Sequence[Image],
    spec: BackboneSpec,
    plan: Plan,
    extracted: Extracted,
    request: str,
) -> tuple[ModelRef, Head]:
    fit_on = [image for image in images if image.split == "train"]
    test_on, test_split = held_out(images)
    with stage("imports"):
        from pipeline.delivery.model import build_model
        from pipeline.heads.fit import fit_head, head_probabilities
        from pipeline.heads.labels import truth_of
    views = (ORIGINAL, *view_names(extracted.num_views))
    with stage("train"):
        taps = [tap for tap in spec.taps if tap.name in plan.taps]
        features = read_taps(workspace, spec, views, fit_on, [tap.name for tap in taps])
        truth = truth_of(manifest, fit_on)
        head = fit_head(features, taps, truth, extracted.num_views)
        plan = reconsider(plan, head)
        curve = truth.learning_curve(features, head)
    with stage("evaluate"):
        tested = read_taps(workspace, spec, (ORIGINAL,), test_on, [part.tap for part in head.taps])
        probabilities = head_probabilities(head, tested)
        metrics = truth_of(manifest, test_on).evaluate(probabilities, manifest.classes, head.thresholds, test_split)
    made = NewModel(
        request=request,
        manifest=manifest,
        plan=plan,
        spec=spec,
        recipe=spec.recipe,
        extracted=extracted,
        head=head,
        build=lambda: build_model(spec, head),
        test_on=test_on,
        probabilities=probabilities,
        metrics=metrics,
        learning_curve=curve,
        score_quote=lambda: planning.score(workspace, spec, plan, extracted),
    )
    return save_model(workspace, made), head


def _model_request(manifest: Manifest, images: Sequence[Image], spec: BackboneSpec, plan: Plan, num_views: int) -> str:
    """Name everything that determines a model."""
    exclusive = manifest.exclusive
    return fingerprint(
        {
            "classes": list(manifest.classes),
            "images": sorted((i.digest.hex(), i.label if exclusive else i.labels, i.split) for i in images),
            **({} if exclusive else {"exclusive": False}),
            "space": spec.space().id,
            "views": num_views,
            "taps": list(plan.taps),
            "case": plan.case,
            "strategy": plan.strategy,
            "wished": [[change.what, change.value] for change in plan.changes],
            # of older models evidence may have overruled the case
            **({"case_kept": True} if any(change.what == "case" for change in plan.changes) else {}),
            **({"compared": [row.backbone for row in plan.backbones]} if plan.backbones else {}),
            "version": HEAD_VERSIONS[exclusive],
        }
    )
