"""Thresholds refitted from audits: from how many training pictures on fine-tuning would have paid.

An audit has what a head and what a fine-tuned network behind its gate reached on the same pictures, and what both cost.
The refitted threshold has the least mean regret plus price of compute. Leaving out one dataset after the other shows
what it would have been worth on a new dataset.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.decision.audited import AuditResult, Refit
from pipeline.decision.plan import LARGE_FROM_DIFFERENT, LARGE_FROM_SIMILAR
from pipeline.decision.regret import delivered_strategy, measure_regret, unpack_correct

PRICE = 1.0  # points of accuracy that one fine-tuning has to gain
FEWEST_DATASETS = 3  # to refit from


@dataclass(frozen=True, slots=True)
class _Cell:
    dataset: str
    num_train: int
    head_cost: float
    finetuning_cost: float


def refit_thresholds(audits: Sequence[AuditResult]) -> tuple[Refit, Refit]:
    """Refit from how many pictures on data are large, for similar and for different data."""
    similar = [_cell(audit) for audit in audits if audit.signals.similar]
    different = [_cell(audit) for audit in audits if not audit.signals.similar]
    return _refit("similar", LARGE_FROM_SIMILAR, similar), _refit("different", LARGE_FROM_DIFFERENT, different)


def _cell(audit: AuditResult) -> _Cell:
    correct = {row.strategy: unpack_correct(row.correct, audit.num_test) for row in audit.strategies}
    tuned = measure_regret(correct, delivered_strategy("fine-tune", audit.gate.passed)).points
    head = measure_regret(correct, "head-on-evidence").points
    return _Cell(audit.dataset, audit.signals.num_train, head, tuned + PRICE)


def _refit(what: str, current: int, cells: Sequence[_Cell]) -> Refit:
    names = sorted({cell.dataset for cell in cells})
    enough = len(names) >= FEWEST_DATASETS
    best = _best_threshold(cells, current) if enough else current
    held_out = None
    if enough:
        parts = [([c for c in cells if c.dataset != name], [c for c in cells if c.dataset == name]) for name in names]
        costs = [_cost(part, _best_threshold(rest, current)) * len(part) for rest, part in parts]
        held_out = sum(costs) / len(cells)
    return Refit(
        what=what,
        current=current,
        refitted=int(best) if enough and math.isfinite(best) else None,
        num_audits=len(cells),
        num_datasets=len(names),
        current_cost=_cost(cells, current),
        refitted_cost=_cost(cells, best),
        held_out_cost=held_out,
    )


def _best_threshold(cells: Sequence[_Cell], current: int) -> float:
    """Try every number of pictures that was audited; the current threshold stays unless another is better."""
    candidates = [current, *sorted({cell.num_train for cell in cells}), math.inf]
    return min(candidates, key=lambda threshold: _cost(cells, threshold))


def _cost(cells: Sequence[_Cell], threshold: float) -> float:
    costs = [cell.finetuning_cost if cell.num_train >= threshold else cell.head_cost for cell in cells]
    return sum(costs) / len(costs) if costs else 0.0
