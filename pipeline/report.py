"""A model's record to one Markdown page that says what was decided, why, and how good it is."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.plan import describe_case

MAX_ROWS = 50  # of tables that grow with the data
MAX_CONFUSIONS = 10
MAX_MATRIX_CLASSES = 15

Record = Mapping[str, Any]

# what Markdown would act upon; underscores only where they could begin or end emphasis
_MARKUP = re.compile(r"[\\`*{}\[\]<>|#~&$]|(?<!\w)_|_(?!\w)")


def render_report(record: Record) -> str:
    """Return the page; a section whose key the record lacks is left out.

    Class names and paths are the user's: they are escaped, never interpreted, and the page is valid UTF-8.
    """
    sections = (
        _title(record),
        _verdict(record),
        _why(record),
        _similarity(record),
        _size(record),
        _head(record),
        _finetune(record),
        _metrics(record),
        _classes(record),
        _confusions(record),
        _matrix(record),
        _certificate(record),
        _data(record),
        _features(record),
        _seconds(record),
        _lineage(record),
        _usage(record),
    )
    return "\n\n".join(section for section in sections if section) + "\n"


def _title(record: Record) -> str:
    model = record.get("model", {})
    name = _text(record.get("dataset", model.get("name", "model")))
    lines = [f"# {name}"]
    if model:
        created = f", made {_text(record['created'])}" if "created" in record else ""
        lines.append(f"Model {_text(model['name'])}, version {model['version']}{created}.")
    return "\n\n".join(lines)


def _verdict(record: Record) -> str:
    sentences = []
    if "case" in record:
        sentences.append(
            f"Case {record['case']}: {describe_case(record['case'])}. The strategy is {_text(record['strategy'])}."
        )
    if "metrics" in record:
        metrics = record["metrics"]
        low, high = metrics["accuracy_interval"]
        sentences.append(
            f"**Accuracy {metrics['accuracy']:.1%}** (95 % interval {low:.1%} to {high:.1%}) "
            f"on {metrics['num_images']:,} {_text(metrics['split'])} pictures."
        )
    return " ".join(sentences)


def _why(record: Record) -> str:
    reasons = [*record.get("reasons", ()), *record.get("head", {}).get("reasons", ())]
    return _section("Why", *_list(reasons)) if reasons else ""


def _similarity(record: Record) -> str:
    if "similarity" not in record:
        return ""
    similarity = record["similarity"]
    depths = (
        ("distance", "all layers"),
        ("early", "early third"),
        ("middle", "middle third"),
        ("late", "late third"),
    )
    rows = [(label, f"{similarity[key]:.3f}") for key, label in depths]
    limits = similarity.get("thresholds")
    note = f" Similar below {limits['similar']}, different above {limits['different']}." if limits else ""
    return _section(
        "Similarity",
        f"{_text(similarity['verdict']).capitalize()}, measured on {similarity['num_images']:,} pictures."
        f"{note} Early layers see blur, sensor and size; late layers see what is shown.",
        "",
        *_table(("layers", "D_BN (nats)"), rows),
    )


def _size(record: Record) -> str:
    if "size" not in record:
        return ""
    size = record["size"]
    return _section(
        "Size",
        f"{_text(size['verdict']).capitalize()}: {size['num_train']:,} training pictures of "
        f"{size['num_classes']:,} classes, {size['smallest_class']:,} in the smallest.",
    )


def _head(record: Record) -> str:
    if "head" not in record:
        return ""
    head = record["head"]
    chosen = {row["tap"] for row in head["taps"]}
    rows = [
        (
            row["tap"],
            "yes" if row["tap"] in chosen else "",
            f"{row['share']:.2f}" if row.get("share") else "",
            f"{row['logme']:.3f}",
            f"{row['loo_error']:.1%}",
            f"{row['penalty']:.3g}",
        )
        for row in head.get("evidence") or head["taps"]
    ]
    return _section(
        "Head",
        f"Leave-one-out error {head['loo_error']:.1%}, log loss {head['loo_log_loss']:.3f} nats, "
        f"temperature {head['temperature']:.1f}.",
        "",
        *_table(("tap", "chosen", "share", "log evidence", "leave-one-out error", "penalty"), rows),
    )


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
        *_list(
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
        lines += ["", f"From random weights ({_text(scratch['network'])}, {scratch['size']} pixels):", ""]
        lines += _curve(scratch["curve"])
    return _section("Fine-tuning", *lines)


def _curve(curve: Sequence[Record]) -> Iterable[str]:
    best = max(curve[1:], key=lambda row: (row["val_accuracy"], -row["val_log_loss"]))["epoch"]
    rows = [
        (
            f"{row['epoch']}{' (best)' if row['epoch'] == best else ''}",
            f"{row['train_loss']:.3f}" if "train_loss" in row else "",
            f"{row['val_accuracy']:.1%}",
            f"{row['val_log_loss']:.3f}",
            f"{row['seconds']:,.0f}",
        )
        for row in curve
    ]
    return _table(("epoch", "training loss", "validation accuracy", "validation log loss", "seconds"), rows)


def _metrics(record: Record) -> str:
    if "metrics" not in record:
        return ""
    metrics = record["metrics"]
    rows = (
        ("accuracy", f"{metrics['accuracy']:.4f}"),
        ("balanced accuracy", f"{metrics['balanced_accuracy']:.4f}"),
        ("macro F1", f"{metrics['macro_f1']:.4f}"),
        ("log loss (nats)", f"{metrics['log_loss']:.4f}"),
        ("expected calibration error", f"{metrics['ece']:.4f}"),
    )
    return _section("Metrics", *_table(("metric", "value"), rows))


def _classes(record: Record) -> str:
    per_class = record.get("metrics", {}).get("per_class")
    if not per_class:
        return ""
    worst_first = sorted(per_class, key=lambda row: (row["num_images"] == 0, row["f1"], row["name"]))
    rows = [
        (row["name"], row["num_images"], *(f"{row[key]:.3f}" for key in ("precision", "recall", "f1")))
        for row in worst_first
    ]
    return _section(
        "Classes, worst first", *_capped(("class", "pictures", "precision", "recall", "F1"), rows, "classes")
    )


def _confusions(record: Record) -> str:
    names, matrix = _confusion(record)
    mistakes = [
        (-count, true, guess)
        for true, row in enumerate(matrix)
        for guess, count in enumerate(row)
        if count and true != guess
    ]
    rows = [(names[true], names[guess], -count) for count, true, guess in sorted(mistakes)[:MAX_CONFUSIONS]]
    return _section("Most frequent confusions", *_table(("is", "taken for", "pictures"), rows)) if rows else ""


def _matrix(record: Record) -> str:
    names, matrix = _confusion(record)
    if not 0 < len(names) <= MAX_MATRIX_CLASSES:
        return ""
    rows = [(name, *row) for name, row in zip(names, matrix, strict=True)]
    return _section("Confusion matrix", *_table(("is / taken for", *names), rows))


def _confusion(record: Record) -> tuple[list[str], Sequence[Sequence[int]]]:
    metrics = record.get("metrics", {})
    return [row["name"] for row in metrics.get("per_class", ())], metrics.get("confusion", ())


def _certificate(record: Record) -> str:
    if "certificate" not in record:
        return ""
    proof = record["certificate"]
    verdict = "Passed" if proof["passed"] else "**Failed**"
    return _section(
        "Certificate",
        f"{verdict}: on {proof['num_images']:,} pictures the saved model and the cached path differ by at "
        f"most {proof['max_difference']:.2g} (tolerance {proof['tolerance']:.2g}) and name the same class for "
        f"{proof['argmax_agreement']:.1%}.",
    )


def _data(record: Record) -> str:
    if "data" not in record:
        return ""
    data = record["data"]
    facts = [f"{data.get('num_files', 0):,} files, {data.get('num_duplicates', 0):,} of them duplicates"]
    facts += data.get("notes", ())
    rejected = [(row["path"], row["reason"]) for row in data.get("rejected", ())]
    table = ["", *_capped(("left out", "reason"), rejected, "files")] if rejected else []
    return _section("Data", *_list(facts), *table)


def _features(record: Record) -> str:
    if "features" not in record:
        return ""
    features = record["features"]
    return _section(
        "Features",
        f"{features['num_images']:,} pictures through {_text(features['backbone'])}: "
        f"{features['num_computed']:,} computed, {features['num_reused']:,} reused, "
        f"{features['num_rejected']:,} rejected. Taps: {_text(', '.join(features['taps']))}. "
        f"Space: {_text(features['space'])}.",
    )


def _seconds(record: Record) -> str:
    if "seconds" not in record:
        return ""
    rows = [(stage, f"{seconds:.2f}") for stage, seconds in record["seconds"].items()]
    return _section("Time", *_table(("stage", "seconds"), rows))


def _lineage(record: Record) -> str:
    rows = [(name, version) for name, version in record.get("versions", {}).items()]
    if "fingerprint" in record.get("data", {}):
        rows.append(("manifest", record["data"]["fingerprint"]))
    if "request" in record:
        rows.append(("request", record["request"]))
    rows += [(f"{name} (SHA-256)", digest) for name, digest in record.get("files", {}).items()]
    return _section("Lineage", *_table(("what", "version or digest"), rows)) if rows else ""


def _usage(record: Record) -> str:
    if "model" not in record:
        return ""
    name, path = _printable(record["model"]["name"]), _printable(record["model"]["path"])
    return _section(
        "How to use it",
        f"    headstart predict {shlex.quote(name)} PATH",
        "",
        "or, in Python,",
        "",
        f"    keras.models.load_model({path + '/model.keras'!r})",
    )


# ── Markdown ─────────────────────────────────────────────────────────────────────────────────────


def _section(title: str, *lines: str) -> str:
    return "\n".join((f"## {title}", "", *lines))


def _list(items: Iterable[object]) -> list[str]:
    return [f"- {_text(item)}" for item in items]


def _capped(header: Sequence[str], rows: Sequence[Sequence[object]], what: str) -> list[str]:
    """Make a table of at most `MAX_ROWS` rows that says how many it leaves out."""
    lines = _table(header, rows[:MAX_ROWS])
    num_hidden = len(rows) - MAX_ROWS
    return [*lines, "", f"{num_hidden:,} more {what} are not shown."] if num_hidden > 0 else lines


def _table(header: Sequence[object], rows: Iterable[Sequence[object]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(_text(cell) for cell in line) + " |" for line in lines]


def _text(value: object) -> str:
    """Show any value as itself: nothing in it is markup, a line break or an invalid character."""
    return _MARKUP.sub(r"\\\g<0>", _printable(str(value)))


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
