"""Valid nouns with one thing changed: `an_image(split="test")`, and generated pictures to go with them."""

from __future__ import annotations

import hashlib
import io
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image as Pillow

from flows.documents import SavedModel, to_document
from flows.finetuning.results import FinetuneResult
from pipeline.backbones.table import DEFAULT_BACKBONE, get_backbone
from pipeline.dataset.manifest import Picture
from pipeline.decision.finetuned import EpochRow, FinetuneReport, JobAsked, MirrorTest, ScratchReport, StartedFrom
from pipeline.decision.nouns import Plan, Similarity, Size
from pipeline.decision.schedule import plan_finetuning, plan_scratch
from pipeline.finetuning.gate import compare
from pipeline.finetuning.race import judge_race
from pipeline.report.page import render_report
from pipeline.report.record import FeatureSummary, ModelRef, Provenance, build_record
from pipeline.types import (
    BackboneSpec,
    Certificate,
    ClassMetrics,
    FeatureBlock,
    FileEntry,
    Head,
    HeadTap,
    Image,
    Manifest,
    Metrics,
    Recipe,
    Rejected,
    Space,
    Tap,
    TapEvidence,
)
from storage.disk.documents import sealed
from storage.models.versions import save_version
from storage.workspace import Workspace

PATCHES = {"blue": (30, 30, 220), "green": (30, 200, 30), "red": (220, 30, 30)}
COLOURS = ((200, 60, 60), (60, 200, 60), (60, 60, 200), (200, 200, 60), (60, 200, 200))


def a_digest(number=0):
    return hashlib.sha256(f"picture {number}".encode()).digest()


def a_file(path="cats/0.png", **changed):
    """A file of a dataset folder; its label is its folder unless told otherwise."""
    parts = ("", *path.split("/"))
    labels = (changed.pop("label", parts[-2]),)
    return replace(FileEntry(path, size_bytes=1000, mtime_ns=1, split=None, labels=labels), **changed)


def a_picture(path="cats/0.png", content=None, **changed):
    """A readable file; equal `content`, equal bytes. By default every path has a content of its own."""
    return Picture(a_file(path, **changed), a_digest(path if content is None else content))


def an_image(number=0, **changed):
    labels = (changed.pop("label", 0),)
    return replace(Image(a_digest(number), f"cats/{number}.png", labels, split="train"), **changed)


def a_manifest(**changed):
    """Two classes of five pictures, one of each in test."""
    images = tuple(
        Image(a_digest(5 * label + place), f"{name}/{place}.png", (label,), "test" if place == 0 else "train")
        for label, name in enumerate(("cats", "dogs"))
        for place in range(5)
    )
    known = Manifest("pets", "/pictures/pets", ("cats", "dogs"), images, num_files=len(images))
    return replace(known, **changed)


def a_rejected(path="cats/broken.png", reason="empty file (0 bytes)"):
    return Rejected(path, reason)


def a_recipe(**changed):
    return replace(Recipe(size=32), **changed)


def a_tap(name="top", **changed):
    return replace(Tap(name, "top_activation", "gap", dim=8, depth=1), **changed)


def a_space(**changed):
    taps = (a_tap("stage5_grid", layer="stage5", kind="grid", dim=18, depth=0), a_tap())
    return replace(Space("a_backbone", "ab" * 32, a_recipe(), taps), **changed)


def a_similarity(**changed):
    known = Similarity(0.03, early=0.02, middle=0.03, late=0.04, num_images=128, verdict="similar")
    return replace(known, **changed)


def a_size(**changed):
    return replace(Size(num_train=8, num_classes=2, smallest_class=4, verdict="small"), **changed)


def a_plan(**changed):
    known = Plan("a_backbone", 1, "head-on-top", ("top",), a_similarity(), a_size(), ("few and familiar pictures",))
    return replace(known, **changed)


def a_gate(passed=False):
    head, model = np.eye(2)[[0, 0, 0, 0]], np.eye(2)[[0, 0, 1, 1] if passed else [0, 0, 0, 0]]
    return compare([0, 0, 1, 1], head, model)


def a_curve(num_epochs=1):
    return tuple(EpochRow(n, 8 * n, 0.5 + 0.1 * n, 1.0, 2.0 * n, 0.5 if n else None) for n in range(num_epochs + 1))


def a_scratch_report():
    race = judge_race(0.5, 0.4, num_images=100, epochs=1, cost=0.3)
    return ScratchReport("course", 32, 1000, 30, 100, plan_scratch(1000), a_curve(), race)


def a_job_asked(dataset="shapes", **changed):
    asked = JobAsked(dataset=dataset, fingerprint="ab", case=3, head_version=1, epochs=4, num_train=100)
    return replace(asked, **changed)


def a_finetune_result(passed=False, num_epochs=1, **changed):
    """How a job ended, for the dataset and model "shapes"."""
    result = FinetuneResult(
        job="a" * 16,
        dataset="shapes",
        case=3,
        started_from=StartedFrom(1, ("top",)),
        num_fit=100,
        num_validation=4,
        schedule=plan_finetuning(100, num_epochs),
        gate=a_gate(passed),
        arm="fine-tune",
        curve=a_curve(num_epochs),
        mirror=MirrorTest(0.5, 0.5, 0.02, True),
        precision="float32",
        calibration=1.2,
        model=SavedModel("shapes", 2, "/models/shapes/2") if passed else None,
    )
    return replace(result, **changed)


def a_block(num_rows=2, first=0, **changed):
    rng = np.random.default_rng(first)
    taps = {tap.name: rng.random((num_rows, tap.dim), np.float32) for tap in a_space().taps}
    digests = tuple(a_digest(first + row) for row in range(num_rows))
    return replace(FeatureBlock(digests, taps), **changed)


def a_head(taps=None, num_classes=3, temperature=2.0):
    """A head of random weights that is sure of some pictures and unsure of others."""
    rng = np.random.default_rng(7)
    parts = tuple(
        HeadTap(
            tap=tap.name,
            kind=tap.kind,
            weight=rng.normal(0, 3, (tap.dim, num_classes)).astype(np.float32),
            bias=rng.normal(0, 0.1, num_classes).astype(np.float32),
            penalty=0.1,
            logme=0.0,
            loo_error=0.1,
        )
        for tap in taps or a_space().taps
    )
    evidence = tuple(TapEvidence(part.tap, part.kind, 0.0, 0.1, 0.1, share=0.5) for part in parts)
    return Head(parts, temperature=temperature, loo_error=0.1, loo_log_loss=0.3, evidence=evidence)


def a_backbone(**changed):
    known = BackboneSpec("a_backbone", "none", "random", "ab" * 32, a_recipe(), a_space().taps, moments=None)
    return replace(known, **changed)


def some_metrics(**changed):
    rows = tuple(ClassMetrics(name, 1, precision=1.0, recall=1.0, f1=1.0) for name in a_manifest().classes)
    known = Metrics("test", 2, 1.0, (0.34, 1.0), 1.0, 1.0, 0.1, 0.1, per_class=rows, confusion=((1, 0), (0, 1)))
    return replace(known, **changed)


def a_provenance(**changed):
    taps = tuple(tap.name for tap in a_space().taps)
    known = Provenance(
        request="a1b2c3d4e5f60718",
        created="2026-11-22T10:00:00+00:00",
        certificate=Certificate(8, 1.2e-6, 1.0, 1e-3, passed=True),
        features=FeatureSummary(
            num_images=10,
            num_computed=3,
            num_reused=7,
            num_rejected=0,
            backbone="a_backbone",
            space=a_space().id,
            taps=taps,
        ),
        seconds={"total": 12.5, "extract": 9.0},
        versions={"headstart": "0.1.0", "keras": "3.15.0"},
    )
    return replace(known, **changed)


def a_finetuning(**changed):
    """A network that was trained from the head of version 1, and is better."""
    known = FinetuneReport(
        started_from=StartedFrom(1, ("top",)),
        num_fit=4,
        num_validation=4,
        schedule=plan_finetuning(8, 1),
        gate=a_gate(passed=True),
        arm="fine-tune",
        curve=a_curve(),
        mirror=MirrorTest(0.5, 0.5, 0.02, used=True),
        precision="float32",
        calibration=1.0,
    )
    return replace(known, **changed)


def a_record(manifest=None, plan=None, head=None, metrics=None, rejected=(), **provenance):
    """What is known of a model before it is saved, assembled as a training does it."""
    return build_record(
        manifest or a_manifest(),
        plan or a_plan(),
        a_backbone(),
        head or a_head(num_classes=2),
        metrics or some_metrics(),
        rejected,
        a_provenance(**provenance),
    )


def save_model(workspace, record=None, name="pets", content=b"weights"):
    """Save a version of a model whose network is `content`."""

    def fill(folder):
        (folder / "model.keras").write_bytes(content)
        return record or a_record()

    return save_version(workspace, name, fill, render_report)


def a_photo(number=0, size=(40, 32), colour=None):
    """A smooth RGB picture with a texture of its own: equal arguments, equal pixels."""
    width, height = size
    rng = np.random.default_rng([number, width, height])
    y, x = np.mgrid[:height, :width] / max(width, height)
    phase = rng.random(6) * 6.28
    waves = [np.sin(phase[2 * c] + (6 + c) * x + 9 * phase[2 * c + 1] * y) for c in range(3)]
    base = rng.integers(60, 200, 3) if colour is None else np.asarray(colour)
    pixels = base + 40 * np.stack(waves, axis=-1) + rng.normal(0, 4, (height, width, 3))
    return Pillow.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def encoded(image, kind="PNG", **options):
    """The bytes of a picture's file."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def write_photo(path: Path, number=0, size=(40, 32), colour=None):
    """Write one generated picture, PNG or JPEG by its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = "PNG" if path.suffix == ".png" else "JPEG"
    path.write_bytes(encoded(a_photo(number, size, colour), kind))
    return path


def write_dataset(root: Path, num_classes=3, per_class=8, size=(40, 32), first=0):
    """Write a folder a class of generated pictures, PNG and JPEG in turn; `first` makes other pictures."""
    for label in range(num_classes):
        for place in range(per_class):
            number = first + label * per_class + place
            path = root / f"class{label}" / f"{first + place:03d}.{'png' if place % 2 else 'jpg'}"
            write_photo(path, number, size, COLOURS[label % len(COLOURS)])
    return root


def write_table(path: Path, num_pictures=60, size=(64, 64)):
    """Write generated pictures with up to three coloured patches each, and the table of what is on them."""
    rows = ["path,labels"]
    for number in range(num_pictures):
        rng = np.random.default_rng(number)
        names = [name for name in PATCHES if rng.random() < 0.4]
        picture = a_photo(number, size, colour=(120, 120, 120))
        for place, name in zip(rng.permutation(4), names, strict=False):
            corner = (int(place % 2) * size[0] // 2 + 2, int(place // 2) * size[1] // 2 + 2)
            picture.paste(PATCHES[name], (*corner, corner[0] + size[0] // 2 - 4, corner[1] + size[1] // 2 - 4))
        path.parent.joinpath("pictures").mkdir(parents=True, exist_ok=True)
        picture.save(path.parent / "pictures" / f"{number:03d}.png")
        rows.append(f"pictures/{number:03d}.png,{'|'.join(names)}")
    path.write_text("\n".join(rows) + "\n")
    return path


def age(root: Path, seconds=60):
    """Let files have been written a while ago: what was written within the last two seconds is read twice."""
    for path in root.rglob("*"):
        if path.is_file():
            status = path.stat()
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns - seconds * 10**9))


def rewrite_document(path: Path, **changes):
    """Change fields of a document of ours as another version of headstart would have written it, checksum and all."""
    data = path.read_bytes()
    head, newline, body = data.partition(b"\n") if path.suffix == ".jsonl" else (data, b"", b"")
    document = {key: value for key, value in json.loads(head).items() if key != "checksum"} | changes
    format, version = document.pop("format"), document.pop("version")
    path.write_bytes(json.dumps(sealed(document, format, version)).encode() + newline + body)


def scan(request):
    """Scan a dataset in the workspace that the request names."""
    from flows.onboarding.scan import scan

    return scan(Workspace.open(request.workspace), request)


def an_onboard_result(name, workspace, strategy):
    """The answer of a run that has trained a head and decided on a strategy."""
    from flows.features.extraction import Extracted
    from flows.onboarding.results import OnboardResult
    from flows.versions.promote import Verdict

    plan = a_plan(strategy=strategy)
    return OnboardResult(
        dataset=name,
        workspace=str(workspace),
        spec=get_backbone(DEFAULT_BACKBONE),
        extracted=Extracted(24, 0, 24, 24, ()),
        model=ModelRef(name, 1, f"/models/{name}/1", a_record(plan=plan)),
        trained=True,
        serving=Verdict(1, True, "No other version served before it.", None),
        seconds={"total": 1.0},
    )


def onboard(request):
    """Onboard a dataset; returns what `headstart onboard --json` prints."""
    from flows.onboarding.story import onboard

    return to_document(onboard(request))


def extract_only(request, **options):
    """Extract the features of a dataset; returns what `headstart extract --json` prints."""
    from flows.onboarding.story import extract_only

    return to_document(extract_only(request, **options))


def plan_only(request):
    """Plan a dataset; returns what `headstart plan --json` prints."""
    from flows.onboarding.story import plan_only

    return to_document(plan_only(request))
