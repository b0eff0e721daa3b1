"""The report of a model: one Markdown page that says how good it is, what was decided and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pipeline.decision.finetuned import Curve, FinetuneReport, best_epoch
from pipeline.decision.plan import describe_case
from pipeline.report.decision import backbones_section, decision, quote_section, similarity_section, why
from pipeline.report.head import head_section, learning_curve_section
from pipeline.report.markdown import bullets, capped, section, table, text
from pipeline.report.record import DataSummary, FeatureSummary, HeadSummary, ModelRecord
from pipeline.types import ClassMetrics, LabelMetrics, Metrics, OneLabelMetrics

MAX_CONFUSIONS = 10
MAX_MATRIX_CLASSES = 15


def render_report(record: ModelRecord) -> str:
    """Return the page. Class names and paths are the user's: they are escaped, and the page is valid UTF-8."""
    plan, metrics = record.plan, record.metrics
    sections = (
        _summary(record),
        _usage(record),
        *_results(metrics, record.head),
        why(record),
        decision(plan),
        similarity_section(plan.similarity),
        backbones_section(plan.backbones),
        head_section(record.head),
        learning_curve_section(record),
        _finetune(record.finetune) if record.finetune else "",
        _certificate(record),
        _data(record.data),
        _features(record.features),
        quote_section(record),
        _seconds(record.seconds),
        _versions(record),
    )
    return "\n\n".join(section for section in sections if section) + "\n"


def _summary(record: ModelRecord) -> str:
    plan, metrics = record.plan, record.metrics
    if isinstance(metrics, LabelMetrics):
        low, high = metrics.map_interval
        figure = f"mAP {metrics.mean_average_precision:.3f}** (95 % interval {low:.3f} to {high:.3f})"
    else:
        low, high = metrics.accuracy_interval
        figure = f"Accuracy {metrics.accuracy:.1%}** (95 % interval {low:.1%} to {high:.1%})"
    backbone = text(record.backbone.name)
    named = {"head": f"a head on frozen features of {backbone}", "fine-tuned network": f"{backbone}, fine-tuned"}
    what = named.get(record.kind, f"a {record.kind}")
    return "\n\n".join(
        (
            f"# {text(record.name)}@{record.model_version}",
            f"**{figure} on {metrics.num_images:,} {text(metrics.split)} pictures.",
            f"It is {what}, made from {plan.size.num_train:,} training pictures of "
            f"{plan.size.num_classes:,} classes on {text(record.created)}. Case {plan.case}: "
            f"{describe_case(plan.case)}. The strategy is {text(plan.strategy)}.",
        )
    )


def _usage(record: ModelRecord) -> str:
    return section(
        "How to use it",
        f"    headstart predict {record.name}@{record.model_version} PICTURE...",
        "",
        "or, in Python, in the folder of this report:",
        "",
        '    model = keras.models.load_model("model.keras")',
        "",
        "The model takes decoded RGB pictures of any size, values 0 to 255, and returns a probability for each of "
        f"the {len(record.data.classes):,} names in classes.json.",
    )


def _finetune(tuned: FinetuneReport) -> str:
    schedule, scratch, mirror = tuned.schedule, tuned.scratch, tuned.mirror
    mirrored = "are also mirrored" if mirror.used else "are not mirrored"
    lines = [
        f"It started from the head of version {tuned.started_from.version}, fitted again without the validation "
        f"pictures: {tuned.num_fit:,} pictures to train on, {tuned.num_validation:,} to validate on.",
        "",
        *bullets(
            [
                tuned.gate.reason,
                f"Training pictures {mirrored}: before training, {mirror.accuracy:.1%} of the validation pictures were "
                f"right, and {mirror.mirrored_accuracy:.1%} of their mirror images.",
                f"AdamW, learning rate up to {schedule.learning_rate:g}, batches of {schedule.batch_size}, "
                f"{schedule.epochs} epochs at most, {tuned.precision}.",
                *([scratch.race.reason] if scratch else []),
            ]
        ),
        "",
        *_curve(tuned.curve),
    ]
    if scratch:
        lines += ["", f"From random weights ({text(scratch.network)}, {scratch.size} pixels):", ""]
        lines += _curve(scratch.curve)
    return section("Fine-tuning", *lines)


def _curve(curve: Curve) -> Iterable[str]:
    best = best_epoch(curve)
    rows = [
        (
            f"{row.epoch}{' (best)' if row == best else ''}",
            "" if row.train_loss is None else f"{row.train_loss:.3f}",
            f"{row.val_accuracy:.1%}",
            f"{row.val_log_loss:.3f}",
            f"{row.seconds:,.0f}",
        )
        for row in curve
    ]
    return table(("epoch", "training loss", "validation accuracy", "validation log loss", "seconds"), rows)


def _results(metrics: Metrics | LabelMetrics, head: HeadSummary) -> Iterable[str]:
    if isinstance(metrics, LabelMetrics):
        return _label_metrics(metrics), _classes(metrics)
    return _metrics(metrics, head), _classes(metrics), _confusions(metrics), _matrix(metrics)


def _label_metrics(metrics: LabelMetrics) -> str:
    rows = (
        ("mean average precision (mAP)", f"{metrics.mean_average_precision:.4f}"),
        ("all labels of a picture right", f"{metrics.subset_accuracy:.4f}"),
        ("macro F1", f"{metrics.macro_f1:.4f}"),
        ("micro F1", f"{metrics.micro_f1:.4f}"),
        ("log loss (nats a label)", f"{metrics.log_loss:.4f}"),
        ("expected calibration error", f"{metrics.ece:.4f}"),
    )
    note = (
        "mAP says how well the probability of each label ranks the pictures. A label is given if its probability "
        "reaches the label's threshold."
    )
    return section("Metrics", note, "", *table(("metric", "value"), rows))


def _metrics(metrics: Metrics, head: HeadSummary) -> str:
    names = {
        "accuracy": "accuracy",
        "balanced_accuracy": "balanced accuracy",
        "macro_f1": "macro F1",
        "log_loss": "log loss (nats)",
        "ece": "expected calibration error",
    }
    intervals = {**metrics.intervals, "accuracy": metrics.accuracy_interval}
    rows = [
        (label, f"{getattr(metrics, key):.4f}", "{:.4f} to {:.4f}".format(*intervals[key]) if key in intervals else "")
        for key, label in names.items()
    ]
    return section("Metrics", *table(("metric", "value", "95 % interval"), rows), *_calibration(metrics, head))


def _calibration(metrics: Metrics, head: HeadSummary) -> Iterable[str]:
    """Say how much of the calibration error is chance, and where the rest may come from."""
    mean, highest = metrics.ece_by_chance
    if not highest:
        return []
    said = (
        f"Even a perfectly calibrated model would show a calibration error of {mean:.4f} on {metrics.num_images:,} "
        f"pictures; 5 % of the time, more than {highest:.4f}."
    )
    if metrics.ece > highest:
        said += (
            f" The error here is larger. The probabilities were fitted on held-out training pictures; the log loss is "
            f"{head.loo_log_loss:.3f} nats there and {metrics.log_loss:.3f} here."
        )
        if metrics.log_loss > head.loo_log_loss:
            said += " The pictures scored are harder than the training pictures; no figure of the training shows that."
    return ["", said]


def _classes(metrics: Metrics | LabelMetrics) -> str:
    columns = {"precision": "precision", "recall": "recall", "f1": "F1"}
    one, many, worst = "class", "classes", "f1"
    if isinstance(metrics, LabelMetrics):
        columns = {"average_precision": "average precision", "threshold": "threshold", **columns}
        one, many, worst = "label", "labels", "average_precision"
    per_class: Sequence[ClassMetrics | OneLabelMetrics] = metrics.per_class
    worst_first = sorted(per_class, key=lambda row: (row.num_images == 0, getattr(row, worst), row.name))
    rows = [(row.name, row.num_images, *(f"{getattr(row, key):.3f}" for key in columns)) for row in worst_first]
    return section(f"{many.capitalize()}, worst first", *capped((one, "pictures", *columns.values()), rows, many))


def _confusions(metrics: Metrics) -> str:
    names = [row.name for row in metrics.per_class]
    mistakes = [
        (-count, true, guess)
        for true, row in enumerate(metrics.confusion)
        for guess, count in enumerate(row)
        if count and true != guess
    ]
    rows = [(names[true], names[guess], -count) for count, true, guess in sorted(mistakes)[:MAX_CONFUSIONS]]
    return section("Most frequent confusions", *table(("is", "taken for", "pictures"), rows)) if rows else ""


def _matrix(metrics: Metrics) -> str:
    names = [row.name for row in metrics.per_class]
    if len(names) > MAX_MATRIX_CLASSES:
        return ""
    rows = [(name, *row) for name, row in zip(names, metrics.confusion, strict=True)]
    return section("Confusion matrix", *table(("is / taken for", *names), rows))


def _certificate(record: ModelRecord) -> str:
    proof = record.certificate
    verdict = "Passed" if proof.passed else "**Failed**"
    same = "class" if record.data.exclusive else "set of labels"
    return section(
        "Certificate",
        f"{verdict}: on {proof.num_images:,} pictures the saved model was compared with what was evaluated. "
        f"Probabilities differ by at most {proof.max_difference:.2g} (tolerance {proof.tolerance:.2g}); the {same} is "
        f"the same for {proof.argmax_agreement:.1%}.",
    )


def _data(data: DataSummary) -> str:
    facts = [f"{data.num_files:,} files in {data.root}, {data.num_duplicates:,} of them duplicates.", *data.notes]
    rejected = [(item.path, item.reason) for item in data.rejected]
    table = ["", *capped(("left out", "reason"), rejected, "files")] if rejected else []
    return section("Data", *bullets(facts), *table)


def _features(features: FeatureSummary) -> str:
    return section(
        "Features",
        f"{features.num_images:,} pictures through {text(features.backbone)}: {features.num_computed:,} rows computed, "
        f"{features.num_reused:,} reused; {features.num_rejected:,} files left out. "
        f"Taps: {text(', '.join(features.taps))}. Feature space: {text(features.space)}.",
    )


def _seconds(seconds: Mapping[str, float]) -> str:
    return section("Time", *table(("stage", "seconds"), [(name, f"{value:.2f}") for name, value in seconds.items()]))


def _versions(record: ModelRecord) -> str:
    rows = [
        *record.versions.items(),
        ("manifest", record.data.fingerprint),
        ("request", record.request),
        *((f"{name} (SHA-256)", digest) for name, digest in record.files.items()),
    ]
    return section("Versions and files", *table(("what", "version or digest"), rows))
