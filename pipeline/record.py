"""Everything a model was made from, as one JSON document: inputs, decisions, versions, metrics, lineage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pipeline.errors import DamagedError
from pipeline.similarity import DIFFERENT_ABOVE, SIMILAR_BELOW
from pipeline.types import (
    Alternative,
    BackboneSpec,
    Change,
    Head,
    Manifest,
    Metrics,
    Plan,
    Rejected,
    Signal,
    Similarity,
    Size,
)

FORMAT = "headstart.record"
VERSION = 1


def dataset_part(manifest: Manifest, rejected: Sequence[Rejected]) -> dict[str, Any]:
    """Describe the data; `rejected` are all files left out, found by their header or on decoding."""
    return {
        "root": manifest.root,
        "fingerprint": manifest.fingerprint,
        "num_files": manifest.num_files,
        "num_duplicates": manifest.num_duplicates,
        "classes": list(manifest.classes),
        "rejected": [asdict(item) for item in rejected],
        "notes": list(manifest.notes),
    }


def plan_part(plan: Plan) -> dict[str, Any]:
    """Describe the decision, as `plan` and `onboard` print it."""
    return {
        "case": plan.case,
        "strategy": plan.strategy,
        "similarity": {
            **asdict(plan.similarity),
            "thresholds": {"similar": SIMILAR_BELOW, "different": DIFFERENT_ABOVE},
        },
        "size": asdict(plan.size),
        "reasons": list(plan.reasons),
        "textbook": plan.textbook,
        "signals": [{**asdict(signal), "margin": signal.margin} for signal in plan.signals],
        "alternatives": [asdict(alternative) for alternative in plan.alternatives],
        "changes": [asdict(change) for change in plan.changes],
        "plan": {"backbone": plan.backbone, "taps": list(plan.taps)},
    }


def parse_plan(record: Mapping[str, Any]) -> Plan:
    """Read back what `plan_part` wrote.

    Raises
    ------
    DamagedError
        When the record does not hold it.
    """
    try:
        measured = {key: value for key, value in record["similarity"].items() if key != "thresholds"}
        return Plan(
            backbone=record["plan"]["backbone"],
            case=record["case"],
            strategy=record["strategy"],
            taps=tuple(record["plan"]["taps"]),
            similarity=Similarity(**measured),
            size=Size(**record["size"]),
            reasons=tuple(record["reasons"]),
            textbook=record["textbook"],
            signals=tuple(
                Signal(**{key: value for key, value in row.items() if key != "margin"}) for row in record["signals"]
            ),
            alternatives=tuple(Alternative(**row) for row in record["alternatives"]),
            changes=tuple(Change(**row) for row in record["changes"]),
        )
    except (KeyError, TypeError) as error:
        raise DamagedError(f"The record holds no plan: {error}. Onboard the folder again.") from error


def head_part(head: Head) -> dict[str, Any]:
    """Describe a head without its weights."""
    return {
        "taps": [
            {
                "tap": part.tap,
                "kind": part.kind,
                "penalty": part.penalty,
                "logme": part.logme,
                "loo_error": part.loo_error,
            }
            for part in head.taps
        ],
        "temperature": head.temperature,
        "loo_error": head.loo_error,
        "loo_log_loss": head.loo_log_loss,
        "evidence": [dict(row) for row in head.evidence],
        "reasons": list(head.reasons),
    }


def build_record(
    manifest: Manifest,
    plan: Plan,
    spec: BackboneSpec,
    head: Head,
    metrics: Metrics,
    rejected: Sequence[Rejected],
    extra: Mapping[str, Any],
) -> dict[str, Any]:
    """Assemble the record of a model; `extra` holds what only the caller knows (clock, versions, files)."""
    return {
        "schema_version": 1,
        "dataset": manifest.dataset,
        **plan_part(plan),
        "head": head_part(head),
        "metrics": asdict(metrics),
        "data": dataset_part(manifest, rejected),
        "backbone": {"name": spec.name, "weights": spec.weights, "weights_sha256": spec.weights_sha256},
        "recipe": asdict(spec.recipe),
        **extra,
    }
