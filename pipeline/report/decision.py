"""The sections of a report that say what was decided, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.report.labels import is_of_labels
from pipeline.report.markdown import bullets, section, table, text

Record = Mapping[str, Any]


def why(record: Record) -> str:
    reasons = [*record.get("reasons", ()), *record.get("head", {}).get("reasons", ())]
    return section("Why", *bullets(reasons)) if reasons else ""


def similarity_section(record: Record) -> str:
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
    return section(
        "Similarity",
        f"{text(similarity['verdict']).capitalize()}, measured on {similarity['num_images']:,} pictures"
        f"{_measured_with(similarity)}.{note} Early layers see blur, sensor and size; late layers see what is shown.",
        "",
        *table(("layers", "D_BN (nats)"), rows),
        *_neighbours(similarity),
    )


def _measured_with(similarity: Record) -> str:
    with_what = f" with {text(similarity['measured_with'])}" if similarity.get("measured_with") else ""
    if not similarity.get("interval"):
        return with_what
    low, high = similarity["interval"]
    return f"{with_what} (95 %: {low:.3f} to {high:.3f})"


def _neighbours(similarity: Record) -> list[str]:
    """Place the dataset among known ones, nearest to ImageNet first."""
    known = [(row["name"], row["distance"]) for row in similarity.get("references", ())]
    if not known:
        return []
    ranked = sorted([*known, ("this dataset", similarity["distance"])], key=lambda row: row[1])
    return ["", *table(("among known datasets", "D_BN (nats)"), [(name, f"{value:.3f}") for name, value in ranked])]


def backbones_section(record: Record) -> str:
    """Show how the backbones compared, where the choice was left open."""
    if not record.get("backbones"):
        return ""
    rows = [
        (
            row["backbone"],
            "" if row["error"] is None else f"{row['error']:.4f}",
            "" if row["logme"] is None else f"{row['logme']:.3f}",
            row["why_not"],
        )
        for row in record["backbones"]
    ]
    columns = ("backbone", "leave-one-out squared error", "log evidence", "not tried because")
    return section("Backbones", *table(columns, rows))


def size_section(record: Record) -> str:
    if "size" not in record:
        return ""
    size = record["size"]
    return section(
        "Size",
        f"{text(size['verdict']).capitalize()}: {size['num_train']:,} training pictures of "
        f"{size['num_classes']:,} classes, {size['smallest_class']:,} in the smallest.",
    )


def head_section(record: Record) -> str:
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
            f"{1 - row['loo_error']:.3f}" if is_of_labels(record) else f"{row['loo_error']:.1%}",
            f"{row['penalty']:.3g}",
        )
        for row in head.get("evidence") or head["taps"]
    ]
    figure = "mAP" if is_of_labels(record) else "error"
    return section(
        "Head",
        head_figures(record),
        "",
        *table(("tap", "chosen", "share", "log evidence", f"leave-one-out {figure}", "penalty"), rows),
    )


def head_figures(record: Record) -> str:
    head = record["head"]
    if is_of_labels(record):
        return f"Leave-one-out mAP {1 - head['loo_error']:.3f}, log loss {head['loo_log_loss']:.3f} nats a label."
    return (
        f"Leave-one-out error {head['loo_error']:.1%}, log loss {head['loo_log_loss']:.3f} nats, "
        f"temperature {head['temperature']:.1f}."
    )


def quadrant(record: Record) -> list[str]:
    """Draw the four cases as a table, the one that it is in bold; here only: text that is markup."""
    titles = {
        1: "1: a head on the top features",
        2: "2: a head on earlier features",
        3: "3: the whole network, from its weights",
        4: "4: the same, or from scratch",
    }
    cells = {case: f"**● {title}**" if case == record["case"] else title for case, title in titles.items()}
    similarity, size = record["similarity"], record["size"]
    limits = similarity["thresholds"]
    return [
        f"| | similar (D_BN below {limits['similar']}) | different |",
        "| --- | --- | --- |",
        f"| **small** | {cells[1]} | {cells[2]} |",
        f"| **large** | {cells[3]} | {cells[4]} |",
        "",
        f"D_BN {similarity['distance']:.3f} ({text(similarity['verdict'])}), {size['num_train']:,} training pictures "
        f"({text(size['verdict'])}). Strategy: {text(record['strategy'])}.",
    ]


def decision(record: Record) -> str:
    """Show every signal with its boundary, what was changed, and what was not taken."""
    if "signals" not in record:
        return ""
    rows = [
        (row["name"], f"{row['value']:,.4g}", f"{row['threshold']:,.4g}", f"{row['margin']:+,.4g}", row["says"])
        for row in record["signals"]
    ]
    chosen, textbook = record["strategy"], record["textbook"]
    verdict = (
        f"The textbook's table says {text(textbook)}, and so it is."
        if chosen == textbook
        else f"The textbook's table says {text(textbook)}; the strategy is {text(chosen)}."
    )
    return section(
        "Decision",
        *([*quadrant(record), ""] if "similarity" in record and "size" in record else []),
        verdict,
        "",
        *table(("signal", "measured", "boundary", "margin", "meaning"), rows),
        "",
        "Not taken:",
        "",
        *bullets(f"{item['strategy']}: {item['why_not']}." for item in record["alternatives"]),
    )


def quote_section(record: Record) -> str:
    """Show what was predicted beside what came."""
    scored = record.get("quote_scored")
    if not scored:
        return ""
    rows = [
        (what, f"{row['predicted']:.2f}", f"{row['actual']:.2f}", f"{row['ratio']:.2f}" if row["ratio"] else "")
        for what, row in scored.items()
    ]
    return section("Quote", *table(("up to the head", "predicted", "actual", "actual / predicted"), rows))
