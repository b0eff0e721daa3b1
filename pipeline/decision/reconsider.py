"""How evidence from held-out pictures refines a plan.

It changes three things, because only these were seen to pay (`python -m tests.benchmarks.study`):

- a head on the top tap gives way if other taps have earned a place beside it;
- a network is not trained if the head leaves next to nothing to gain;
- it is trained on small data if the head leaves much to gain, and there are enough pictures to do it at all.

A person's wish is never overruled.
"""

from __future__ import annotations

from dataclasses import replace

from pipeline.backbones.table import TOP
from pipeline.decision.nouns import Alternative, Change, Plan, Signal, Size, Strategy
from pipeline.decision.plan import ALWAYS_SMALL_BELOW, EVIDENCE, FINETUNING, SMALLEST_CLASS, describe_change, get_case
from pipeline.types import Head

# The share of a head's errors that fine-tuning is expected to remove. Large data: the median of the 12 photograph sets
# of SimCLR's Table B.5 (arXiv:2002.05709). Small data: in the study's 9 cells of 800 to 1,400 pictures the median was
# 0.14, and 0.10 had the least regret and compute together; in its cells below 800 fine-tuning added errors (-0.13).
REMOVED_OF_LARGE = 0.43
REMOVED_OF_SMALL = 0.10
LEAST_GAIN = 0.01  # of accuracy: what training a whole network has to promise


def reconsider(plan: Plan, head: Head) -> Plan:
    """Return the plan that holds once the head is there.

    Parameters
    ----------
    head
        Fitted on the plan's taps; `loo_error` is its error on pictures held out one at a time.
    """
    wished = any(_is_wish(change, plan.strategy) for change in plan.changes)
    others = [part.tap for part in head.taps if part.tap != TOP]
    if head.activation == "softmax":  # else no network is trained
        gain = _expected_gain(plan.size, head.loo_error)
        signal = Signal("gain expected of fine-tuning", gain, LEAST_GAIN, "too little below")
        plan = replace(plan, signals=(*plan.signals, signal))
        facts = f"the head gets {head.loo_error:.1%} of the held-out pictures wrong; training the whole network"
        if plan.strategy in FINETUNING and gain < LEAST_GAIN and not wished:
            why = f"{facts} is expected to mend only {gain:.1%} of all pictures, less than {LEAST_GAIN:.0%}"
            return _changed(plan, "head-on-evidence" if others else "head-on-top", why)
        if plan.strategy not in FINETUNING and gain >= LEAST_GAIN and not wished:
            return _changed(
                plan, "fine-tune", f"{facts} is expected to mend {gain:.1%} of all pictures, even with this little data"
            )
    if plan.strategy == "head-on-top" and others and not wished:
        return _changed(
            plan,
            "head-on-evidence",
            f"with {_listed(others)} beside the last layer, the head makes fewer mistakes on held-out pictures",
        )
    return plan


def _is_wish(change: Change, strategy: Strategy) -> bool:
    """Tell whether a person chose this strategy, by its name or by its case. A case may stand for one that is not
    offered for the labels of the dataset.
    """
    return change.what == "strategy" or (change.what == "case" and get_case(int(change.value)).strategy == strategy)


def _expected_gain(size: Size, error: float) -> float:
    """Return the accuracy that fine-tuning is expected to gain over a head with this error, 0-1."""
    if size.verdict == "large":
        return REMOVED_OF_LARGE * error
    if size.num_train < ALWAYS_SMALL_BELOW or size.smallest_class < SMALLEST_CLASS:
        return 0.0
    return REMOVED_OF_SMALL * error


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
