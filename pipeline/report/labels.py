"""The sections of a report on a model whose labels do not exclude each other."""

from __future__ import annotations

from pipeline.report.markdown import capped, section, table
from pipeline.types import LabelMetrics


def label_metrics(metrics: LabelMetrics) -> str:
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


def label_table(metrics: LabelMetrics) -> str:
    worst_first = sorted(metrics.per_class, key=lambda row: (row.num_images == 0, row.average_precision, row.name))
    figures = ("average_precision", "threshold", "precision", "recall", "f1")
    rows = [(row.name, row.num_images, *(f"{getattr(row, key):.3f}" for key in figures)) for row in worst_first]
    header = ("label", "pictures", "average precision", "threshold", "precision", "recall", "F1")
    return section("Labels, worst first", *capped(header, rows, "labels"))
