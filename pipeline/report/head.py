"""The sections of a report on the head: its taps by depth, and how its error falls with more pictures."""

from __future__ import annotations

from pipeline.report.markdown import section, table, text
from pipeline.report.record import HeadSummary, ModelRecord
from pipeline.types import TapEvidence

BAR = 20  # letters that a rate of 1 takes


def head_section(head: HeadSummary) -> str:
    """Show every tap by depth, as Yosinski et al. 2014 (arXiv:1411.1792) show where features turn specific."""
    if head.activation == "sigmoid":
        rate, figures = "mAP", f"mAP {1 - head.loo_error:.3f}, log loss {head.loo_log_loss:.3f} nats a label"
    else:
        rate = "accuracy"
        figures = (
            f"accuracy {1 - head.loo_error:.1%}, log loss {head.loo_log_loss:.3f} nats; "
            f"scores are multiplied by a temperature of {head.temperature:.1f}"
        )
    chosen = {row.tap for row in head.taps}
    rows = [_tap(row, row.tap in chosen) for kind in ("gap", "grid") for row in head.evidence if row.kind == kind]
    columns = ("tap", "pooled as", f"{rate} alone", "", "log evidence", "penalty", "share of the head")
    return section(
        "Head",
        f"On training pictures, each held out once: {figures}.",
        "",
        "Each tap alone, from shallow to deep, on the same pictures (log evidence: LogME):",
        "",
        *table(columns, rows),
    )


def _tap(row: TapEvidence, chosen: bool) -> tuple[str, ...]:
    rate = 1 - row.loo_error
    pooled = {"gap": "average", "grid": "3x3 grid"}[row.kind]
    share = f"{row.share:.2f}" if row.share else "yes" if chosen else ""
    return row.tap, pooled, f"{rate:.1%}", _bar(rate), f"{row.logme:.3f}", f"{row.penalty:.3g}", share


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
