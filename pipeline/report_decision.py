"""The sections of a report that say what was decided, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.markdown import bullets, section, table, text

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
        f"{text(similarity['verdict']).capitalize()}, measured on {similarity['num_images']:,} pictures."
        f"{note} Early layers see blur, sensor and size; late layers see what is shown.",
        "",
        *table(("layers", "D_BN (nats)"), rows),
    )


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
            f"{row['loo_error']:.1%}",
            f"{row['penalty']:.3g}",
        )
        for row in head.get("evidence") or head["taps"]
    ]
    return section(
        "Head",
        f"Leave-one-out error {head['loo_error']:.1%}, log loss {head['loo_log_loss']:.3f} nats, "
        f"temperature {head['temperature']:.1f}.",
        "",
        *table(("tap", "chosen", "share", "log evidence", "leave-one-out error", "penalty"), rows),
    )


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
        verdict,
        "",
        *table(("signal", "measured", "boundary", "margin", "meaning"), rows),
        "",
        "Not taken:",
        "",
        *bullets(f"{item['strategy']}: {item['why_not']}." for item in record["alternatives"]),
    )
