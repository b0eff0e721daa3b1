"""Everything a model was made from, as one JSON document: inputs, decisions, versions, metrics, lineage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pipeline.decision.nouns import (
    Alternative,
    Change,
    Drift,
    Plan,
    Quote,
    QuoteItem,
    RankedBackbone,
    Reference,
    Signal,
    Similarity,
    Size,
)
from pipeline.errors import DamagedError
from pipeline.types import BackboneSpec, Head, LabelMetrics, Manifest, Metrics, Rejected

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
        "exclusive": manifest.exclusive,
        "rejected": [asdict(item) for item in rejected],
        "notes": list(manifest.notes),
    }


def plan_part(plan: Plan) -> dict[str, Any]:
    """Describe the decision, as `plan` and `onboard` print it."""
    return {
        "case": plan.case,
        "strategy": plan.strategy,
        "similarity": {
            **_listed(asdict(plan.similarity)),
            "thresholds": dict(zip(("similar", "different"), plan.similarity.limits, strict=True)),
        },
        "size": asdict(plan.size),
        "reasons": list(plan.reasons),
        "textbook": plan.textbook,
        "signals": [{**asdict(signal), "margin": signal.margin} for signal in plan.signals],
        "alternatives": [asdict(alternative) for alternative in plan.alternatives],
        "changes": [asdict(change) for change in plan.changes],
        "backbones": [asdict(row) for row in plan.backbones],
        "quote": {**asdict(plan.quote), "minutes": plan.quote.minutes} if plan.quote else None,
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
        return Plan(
            backbone=record["plan"]["backbone"],
            case=record["case"],
            strategy=record["strategy"],
            taps=tuple(record["plan"]["taps"]),
            similarity=parse_similarity(record["similarity"]),
            size=Size(**record["size"]),
            reasons=tuple(record["reasons"]),
            textbook=record["textbook"],
            signals=tuple(
                Signal(**{key: value for key, value in row.items() if key != "margin"}) for row in record["signals"]
            ),
            alternatives=tuple(Alternative(**row) for row in record["alternatives"]),
            changes=tuple(Change(**row) for row in record["changes"]),
            quote=parse_quote(record["quote"]) if record.get("quote") else None,
            backbones=tuple(RankedBackbone(**row) for row in record.get("backbones", ())),
        )
    except (KeyError, TypeError) as error:
        raise DamagedError(f"The record holds no plan: {error}. Onboard the folder again.") from error


def parse_quote(part: Mapping[str, Any]) -> Quote:
    """Read back what `plan_part` wrote of a quote."""
    items = tuple(QuoteItem(**row) for row in part["items"])
    rest = {name: value for name, value in part.items() if name not in ("items", "finetuning", "minutes")}
    return Quote(items=items, finetuning=QuoteItem(**part["finetuning"]), **rest)


def _listed(value: Any) -> Any:
    """Write tuples as the lists that JSON would make of them, so that a document is the same fresh and read back."""
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, tuple | list) else value


def parse_similarity(part: Mapping[str, Any]) -> Similarity:
    """Read back what `dataclasses.asdict` made of a similarity, by way of JSON.

    Raises
    ------
    DamagedError
        When fields are missing or unknown.
    """
    fields = {key: value for key, value in part.items() if key != "thresholds"}
    try:
        for name in ("interval", "limits"):
            if fields.get(name):
                fields[name] = tuple(fields[name])
        fields["references"] = tuple(Reference(**row) for row in fields.get("references", ()))
        if own := fields.get("own"):
            fields["own"] = Drift(**{**own, "interval": tuple(own["interval"])})
        return Similarity(**fields)
    except (KeyError, TypeError) as error:
        raise DamagedError(f"The record holds no similarity: {error}. Measure the folder again.") from error


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
        "kind": head.kind,
        "activation": head.activation,
        "thresholds": list(head.thresholds),
    }


def build_record(
    manifest: Manifest,
    plan: Plan,
    spec: BackboneSpec,
    head: Head,
    metrics: Metrics | LabelMetrics,
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
