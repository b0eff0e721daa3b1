"""A model's record to one Markdown page that says what was decided, why, and how good it is."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.decision.plan import describe_case
from pipeline.report.curves import layers_section, learning_curve_section
from pipeline.report.decision import (
    backbones_section,
    decision,
    head_section,
    quote_section,
    similarity_section,
    size_section,
    why,
)
from pipeline.report.labels import is_of_labels, label_metrics, label_table
from pipeline.report.markdown import bullets, capped, printable, section, table, text

MAX_CONFUSIONS = 10
MAX_MATRIX_CLASSES = 15

Record = Mapping[str, Any]


def render_report(record: Record) -> str:
    """Return the page; a section whose key the record lacks is left out.

    Class names and paths are the user's: they are escaped, never interpreted, and the page is valid UTF-8.
    """
    sections = (
        _title(record),
        _verdict(record),
        why(record),
        decision(record),
        similarity_section(record),
        size_section(record),
        backbones_section(record),
        head_section(record),
        layers_section(record),
        learning_curve_section(record),
        _finetune(record),
        _metrics(record),
        _classes(record),
        _confusions(record),
        _matrix(record),
        _certificate(record),
        _data(record),
        _features(record),
        quote_section(record),
        _seconds(record),
        _lineage(record),
        _usage(record),
    )
    return "\n\n".join(section for section in sections if section) + "\n"


def _title(record: Record) -> str:
    model = record.get("model", {})
    name = text(record.get("dataset", model.get("name", "model")))
    lines = [f"# {name}"]
    if model:
        created = f", made {text(record['created'])}" if "created" in record else ""
        lines.append(f"Model {text(model['name'])}, version {model['version']}{created}.")
    return "\n\n".join(lines)


def _verdict(record: Record) -> str:
    sentences = []
    if "case" in record:
        sentences.append(
            f"Case {record['case']}: {describe_case(record['case'])}. The strategy is {text(record['strategy'])}."
        )
    if "metrics" in record:
        metrics = record["metrics"]
        if is_of_labels(record):
            low, high = metrics["map_interval"]
            figure = f"mAP {metrics['mean_average_precision']:.3f}** (95 % interval {low:.3f} to {high:.3f})"
        else:
            low, high = metrics["accuracy_interval"]
            figure = f"Accuracy {metrics['accuracy']:.1%}** (95 % interval {low:.1%} to {high:.1%})"
        sentences.append(f"**{figure} on {metrics['num_images']:,} {text(metrics['split'])} pictures.")
    return " ".join(sentences)


def _finetune(record: Record) -> str:
    if "finetune" not in record:
        return ""
    tuned = record["finetune"]
    schedule, scratch, mirror = tuned["schedule"], tuned.get("scratch"), tuned["mirror"]
    mirrored = "are mirrored too" if mirror["used"] else "are not mirrored"
    lines = [
        f"Started from the head of version {tuned['started_from']['version']}, fitted again without the validation "
        f"pictures: {tuned['num_fit']:,} to train on, {tuned['num_validation']:,} to validate on.",
        "",
        *bullets(
            [
                tuned["gate"]["reason"],
                f"Pictures {mirrored}: the head gets {mirror['mirrored_accuracy']:.1%} right in a mirror, "
                f"{mirror['accuracy']:.1%} without.",
                f"AdamW, learning rate up to {schedule['learning_rate']:g}, batches of {schedule['batch_size']}, "
                f"{schedule['epochs']} epochs at most, {tuned['precision']}.",
                *([scratch["race"]["reason"]] if scratch else []),
            ]
        ),
        "",
        *_curve(tuned["curve"]),
    ]
    if scratch:
        lines += ["", f"From random weights ({text(scratch['network'])}, {scratch['size']} pixels):", ""]
        lines += _curve(scratch["curve"])
    return section("Fine-tuning", *lines)


def _curve(curve: Sequence[Record]) -> Iterable[str]:
    best = max(curve[1:], key=lambda row: (row["val_accuracy"], -row["val_log_loss"]))["epoch"]
    rows = [
        (
            f"{row['epoch']}{' (best)' if row['epoch'] == best else ''}",
            "" if row.get("train_loss") is None else f"{row['train_loss']:.3f}",
            f"{row['val_accuracy']:.1%}",
            f"{row['val_log_loss']:.3f}",
            f"{row['seconds']:,.0f}",
        )
        for row in curve
    ]
    return table(("epoch", "training loss", "validation accuracy", "validation log loss", "seconds"), rows)


def _metrics(record: Record) -> str:
    if "metrics" not in record:
        return ""
    if is_of_labels(record):
        return label_metrics(record)
    metrics = record["metrics"]
    names = {
        "accuracy": "accuracy",
        "balanced_accuracy": "balanced accuracy",
        "macro_f1": "macro F1",
        "log_loss": "log loss (nats)",
        "ece": "expected calibration error",
    }
    intervals = metrics.get("intervals", {})
    rows = [
        (label, f"{metrics[key]:.4f}", "{:.4f} to {:.4f}".format(*intervals[key]) if key in intervals else "")
        for key, label in names.items()
    ]
    return section("Metrics", *table(("metric", "value", "95 % interval"), rows), *_calibration(record))


def _calibration(record: Record) -> Iterable[str]:
    """Say how much of the calibration error is chance, and where the rest may come from."""
    metrics, head = record["metrics"], record.get("head", {})
    mean, highest = metrics.get("ece_by_chance", (0.0, 0.0))
    if not highest:
        return []
    said = (
        f"Were every probability exactly right, chance alone would make a calibration error of {mean:.4f} on "
        f"{metrics['num_images']:,} pictures, and above {highest:.4f} once in twenty times."
    )
    if metrics["ece"] > highest and "loo_log_loss" in head:
        said += (
            f" The error here is more: the probabilities were fitted on held-out training pictures, with a log loss of "
            f"{head['loo_log_loss']:.3f} nats there and {metrics['log_loss']:.3f} here."
        )
        if metrics["log_loss"] > head["loo_log_loss"]:
            said += " The pictures scored are harder than those trained on, and no figure of the latter can tell."
    return ["", said]


def _classes(record: Record) -> str:
    per_class = record.get("metrics", {}).get("per_class")
    if not per_class:
        return ""
    if is_of_labels(record):
        return label_table(record)
    worst_first = sorted(per_class, key=lambda row: (row["num_images"] == 0, row["f1"], row["name"]))
    rows = [
        (row["name"], row["num_images"], *(f"{row[key]:.3f}" for key in ("precision", "recall", "f1")))
        for row in worst_first
    ]
    return section("Classes, worst first", *capped(("class", "pictures", "precision", "recall", "F1"), rows, "classes"))


def _confusions(record: Record) -> str:
    names, matrix = _confusion(record)
    mistakes = [
        (-count, true, guess)
        for true, row in enumerate(matrix)
        for guess, count in enumerate(row)
        if count and true != guess
    ]
    rows = [(names[true], names[guess], -count) for count, true, guess in sorted(mistakes)[:MAX_CONFUSIONS]]
    return section("Most frequent confusions", *table(("is", "taken for", "pictures"), rows)) if rows else ""


def _matrix(record: Record) -> str:
    names, matrix = _confusion(record)
    if not matrix or len(names) > MAX_MATRIX_CLASSES:
        return ""
    rows = [(name, *row) for name, row in zip(names, matrix, strict=True)]
    return section("Confusion matrix", *table(("is / taken for", *names), rows))


def _confusion(record: Record) -> tuple[list[str], Sequence[Sequence[int]]]:
    metrics = record.get("metrics", {})
    return [row["name"] for row in metrics.get("per_class", ())], metrics.get("confusion", ())


def _certificate(record: Record) -> str:
    if "certificate" not in record:
        return ""
    proof = record["certificate"]
    verdict = "Passed" if proof["passed"] else "**Failed**"
    same = "labels" if is_of_labels(record) else "class"
    return section(
        "Certificate",
        f"{verdict}: on {proof['num_images']:,} pictures the saved model and the cached path differ by at "
        f"most {proof['max_difference']:.2g} (tolerance {proof['tolerance']:.2g}) and name the same {same} for "
        f"{proof['argmax_agreement']:.1%}.",
    )


def _data(record: Record) -> str:
    if "data" not in record:
        return ""
    data = record["data"]
    facts = [f"{data.get('num_files', 0):,} files, {data.get('num_duplicates', 0):,} of them duplicates"]
    facts += data.get("notes", ())
    rejected = [(row["path"], row["reason"]) for row in data.get("rejected", ())]
    table = ["", *capped(("left out", "reason"), rejected, "files")] if rejected else []
    return section("Data", *bullets(facts), *table)


def _features(record: Record) -> str:
    if "features" not in record:
        return ""
    features = record["features"]
    return section(
        "Features",
        f"{features['num_images']:,} pictures through {text(features['backbone'])}: "
        f"{features['num_computed']:,} computed, {features['num_reused']:,} reused, "
        f"{features['num_rejected']:,} rejected. Taps: {text(', '.join(features['taps']))}. "
        f"Space: {text(features['space'])}.",
    )


def _seconds(record: Record) -> str:
    if "seconds" not in record:
        return ""
    rows = [(stage, f"{seconds:.2f}") for stage, seconds in record["seconds"].items()]
    return section("Time", *table(("stage", "seconds"), rows))


def _lineage(record: Record) -> str:
    rows = [(name, version) for name, version in record.get("versions", {}).items()]
    if "fingerprint" in record.get("data", {}):
        rows.append(("manifest", record["data"]["fingerprint"]))
    if "request" in record:
        rows.append(("request", record["request"]))
    rows += [(f"{name} (SHA-256)", digest) for name, digest in record.get("files", {}).items()]
    return section("Lineage", *table(("what", "version or digest"), rows)) if rows else ""


def _usage(record: Record) -> str:
    if "model" not in record:
        return ""
    name, path = printable(record["model"]["name"]), printable(record["model"]["path"])
    return section(
        "How to use it",
        f"    headstart predict {shlex.quote(name)} PATH",
        "",
        "or, in Python,",
        "",
        f"    keras.models.load_model({path + '/model.keras'!r})",
    )
