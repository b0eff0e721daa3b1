"""What held-out pictures change about a plan: the textbook's rule is explicit, evidence refines inside it.

Two things only, because only these were seen to pay (`python -m tests.benchmarks.study`):

- a head on the top tap gives way where other taps have earned a place beside it;
- a network is not trained where the head leaves next to nothing to gain.

A person's wish is never overruled.
"""

from __future__ import annotations

from dataclasses import replace

from pipeline.backbones import TOP
from pipeline.plan import EVIDENCE, FINETUNING, describe_change
from pipeline.types import Alternative, Change, Head, Plan, Signal, Strategy

# the largest share of a linear head's errors that fine-tuning removed on the 12 photograph sets of SimCLR's Table B.5
# (arXiv:2002.05709): Cars, from 33.3 % to 7.9 %
MOST_REMOVED = 0.76
LEAST_GAIN = 0.01  # of accuracy, that training a whole network has to promise


def reconsider(plan: Plan, head: Head) -> Plan:
    """Return the plan that holds once the head is there.

    Parameters
    ----------
    head
        Fitted on the plan's taps; `loo_error` is its error on pictures held out one at a time.
    """
    gain = MOST_REMOVED * head.loo_error
    signal = Signal("most that fine-tuning can gain", gain, LEAST_GAIN, "too little below")
    plan = replace(plan, signals=(*plan.signals, signal))
    if any(change.what == "strategy" and change.by != EVIDENCE for change in plan.changes):
        return plan
    others = [part.tap for part in head.taps if part.tap != TOP]
    if plan.strategy == "head-on-top" and others:
        why = f"by leave-one-out error {_listed(others)} earned a place in the head"
        return _changed(plan, "head-on-evidence", why)
    if plan.strategy in FINETUNING and gain < LEAST_GAIN:
        why = (
            f"the head misclassifies {head.loo_error:.1%} of held-out pictures, so that training the whole network can "
            f"gain {gain:.1%} at most, less than {LEAST_GAIN:.0%}"
        )
        return _changed(plan, "head-on-evidence" if others else "head-on-top", why)
    return plan


def _changed(plan: Plan, strategy: Strategy, why: str) -> Plan:
    change = Change("strategy", strategy, plan.strategy, EVIDENCE, why)
    kept = tuple(item for item in plan.alternatives if item.strategy != strategy)
    return replace(
        plan,
        strategy=strategy,
        reasons=(*plan.reasons, describe_change(change)),
        alternatives=(*kept, Alternative(plan.strategy, why)),
        changes=(*plan.changes, change),
    )


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
