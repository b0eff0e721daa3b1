"""The sections of a report that say what was decided, and why."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.decision.nouns import Plan, RankedBackbone, Similarity
from pipeline.report.markdown import bullets, section, table, text
from pipeline.report.record import ModelRecord


def why(record: ModelRecord) -> str:
    reasons = [*record.plan.reasons, *record.head.reasons]
    return section("Why", *bullets(reasons)) if reasons else ""


def similarity_section(similarity: Similarity) -> str:
    depths = (
        ("all layers", similarity.distance),
        ("early third", similarity.early),
        ("middle third", similarity.middle),
        ("late third", similarity.late),
    )
    similar, different = similarity.limits
    interval = " (95 % interval {:.3f} to {:.3f})".format(*similarity.interval) if similarity.interval else ""
    return section(
        "Similarity",
        f"{text(similarity.verdict).capitalize()}: D_BN is {similarity.distance:.3f}{interval}, measured "
        f"on {similarity.num_images:,} pictures with {text(similarity.measured_with)}. Data are similar "
        f"below {similar} and different above {different}. Early layers see blur, sensor and size; "
        "late layers see what is shown.",
        "",
        *table(("layers", "D_BN (nats)"), [(label, f"{value:.3f}") for label, value in depths]),
        *_neighbours(similarity),
    )


def _neighbours(similarity: Similarity) -> list[str]:
    """Place the dataset among known ones, nearest to ImageNet first."""
    known = [(row.name, row.distance) for row in similarity.references]
    if not known:
        return []
    ranked = sorted([*known, ("this dataset", similarity.distance)], key=lambda row: row[1])
    return ["", *table(("among known datasets", "D_BN (nats)"), [(name, f"{value:.3f}") for name, value in ranked])]


def backbones_section(backbones: Sequence[RankedBackbone]) -> str:
    """Show how the backbones compared, if the choice was left open."""
    if not backbones:
        return ""
    rows = [
        (
            row.backbone,
            "" if row.error is None else f"{row.error:.4f}",
            "" if row.logme is None else f"{row.logme:.3f}",
            row.why_not,
        )
        for row in backbones
    ]
    columns = ("backbone", "leave-one-out squared error", "log evidence", "why it was not tried")
    return section("Backbones", *table(columns, rows))


def quadrant(plan: Plan) -> list[str]:
    """Draw the four cases as a table, with the plan's case in bold. Only this text is markup."""
    titles = {
        1: "1: a head on the top features",
        2: "2: a head on earlier features",
        3: "3: the whole network, from its weights",
        4: "4: the same, or from scratch",
    }
    cells = {case: f"**● {title}**" if case == plan.case else title for case, title in titles.items()}
    similarity, size = plan.similarity, plan.size
    return [
        f"| | similar (D_BN below {similarity.limits[0]}) | different |",
        "| --- | --- | --- |",
        f"| **small** | {cells[1]} | {cells[2]} |",
        f"| **large** | {cells[3]} | {cells[4]} |",
        "",
        f"D_BN {similarity.distance:.3f} ({text(similarity.verdict)}), {size.num_train:,} training pictures "
        f"({text(size.verdict)}). Strategy: {text(plan.strategy)}.",
    ]


def decision(plan: Plan) -> str:
    """Show every signal with its boundary, and why the other strategies were not chosen."""
    rows = [
        (row.name, f"{row.value:,.4g}", f"{row.threshold:,.4g}", f"{row.margin:+,.4g}", row.says)
        for row in plan.signals
    ]
    verdict = (
        f"The table of the four cases says {text(plan.textbook)}, and that is the strategy."
        if plan.strategy == plan.textbook
        else f"The table of the four cases says {text(plan.textbook)}; the strategy is {text(plan.strategy)}."
    )
    return section(
        "Decision",
        *quadrant(plan),
        "",
        verdict,
        "",
        *table(("signal", "measured", "boundary", "margin", "meaning"), rows),
        "",
        "Not chosen:",
        "",
        *bullets(f"{item.strategy}: {item.why_not}." for item in plan.alternatives),
    )


def quote_section(record: ModelRecord) -> str:
    """Show the predicted cost beside the actual one."""
    if not record.quote_scored:
        return ""
    rows = [
        (what, f"{row['predicted']:.2f}", f"{row['actual']:.2f}", f"{row['ratio']:.2f}" if row["ratio"] else "")
        for what, row in record.quote_scored.items()
    ]
    return section(
        "Predicted and actual cost", *table(("up to the head", "predicted", "actual", "actual / predicted"), rows)
    )
