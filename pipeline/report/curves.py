"""The sections of a report that show the taps by depth, and how the error falls with more pictures."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.report.markdown import section, table, text
from pipeline.report.record import ModelRecord
from pipeline.types import TapEvidence

BAR = 20  # letters that a rate of 1 takes


def layers_section(record: ModelRecord) -> str:
    """Show every tap by depth, as Yosinski et al. 2014 (arXiv:1411.1792) show where features turn specific."""
    rows = record.head.evidence
    if len(rows) < 2:
        return ""
    lines = []
    for kind, title in (("gap", "averages"), ("grid", "3x3 grids")):
        lines += [(title, *_layer(row)) for row in rows if row.kind == kind]
    figure = "mAP" if record.head.activation == "sigmoid" else "accuracy"
    return section(
        "Layers",
        f"Every tap alone, shallow to deep: {figure} on training pictures held out in turn; log evidence (LogME).",
        "",
        *table(("pooled as", "tap", figure, "", "log evidence"), lines),
    )


def _layer(row: TapEvidence) -> Sequence[object]:
    rate = 1 - row.loo_error
    return row.tap, f"{rate:.1%}", _bar(rate), f"{row.logme:.3f}"


def learning_curve_section(record: ModelRecord) -> str:
    """Show the held-out error by training pictures, measured and expected."""
    curve = record.learning_curve
    if not curve:
        return ""
    most = max(curve.errors, default=0.0)
    rows = [
        (f"{size:,}", f"{error:.1%}", _bar(error / most) if most else "", "measured")
        for size, error in zip(curve.sizes, curve.errors, strict=True)
    ]
    if curve.verdict:
        num = 2 * record.plan.size.num_train
        # by the law: of many pictures a sample is measured, whose error is that of fewer pictures
        rows.append((f"{num:,}", f"{curve.floor + curve.slope / num**0.5:.1%}", "", "expected"))
    shown = ["", *table(("training pictures", "held-out error", "", ""), rows)] if rows else []
    return section("Learning curve", text(curve.reason), *shown)


def _bar(share: float) -> str:
    return "█" * round(BAR * share)
