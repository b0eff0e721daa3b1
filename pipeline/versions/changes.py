"""Did a dataset change enough to train its head again?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.types import Digest, Manifest

# A head's error falls like n^-b with n pictures, b about 0.3: 5 % more of them change it by 1.5 % of itself, from
# 10 % to 9.85 %, less than can be measured.
LEAST_CHANGED = 0.05  # of the pictures trained on: added, removed and relabelled together
# A wrong label is worse than a missing picture: it costs about its own share in accuracy.
LEAST_RELABELLED = 0.01  # of the pictures trained on

NUM_NAMED = 5  # classes in a reason


@dataclass(frozen=True, slots=True)
class RefreshPlan:
    """How today's training pictures differ from those that a head was trained on, and what follows."""

    retrain: bool
    reasons: tuple[str, ...]
    num_added: int | None = None  # None if there is nothing to compare with
    num_removed: int | None = None
    num_relabelled: int | None = None
    classes_added: tuple[str, ...] = ()
    classes_gone: tuple[str, ...] = ()


def plan_refresh(trained_on: Manifest, now: Manifest) -> RefreshPlan:
    """Compare manifests: a head is trained again if a class came or went, or enough training pictures changed.

    What happens in other splits changes no head. Give the manifest of the newest head and not that of the last look,
    so that small changes add up.
    """
    before, after = _labels_by_digest(trained_on), _labels_by_digest(now)
    num_added, num_removed = len(after.keys() - before.keys()), len(before.keys() - after.keys())
    num_relabelled = sum(before[digest] != after[digest] for digest in before.keys() & after.keys())
    came = tuple(name for name in now.classes if name not in set(trained_on.classes))
    gone = tuple(name for name in trained_on.classes if name not in set(now.classes))
    num_before = max(len(before), 1)
    num_changed = num_added + num_removed + num_relabelled
    reasons = [
        *([f"Classes came: {_named(came)}."] if came else []),
        *([f"Classes went: {_named(gone)}."] if gone else []),
    ]
    counts = f"{num_added:,} added, {num_removed:,} removed, {num_relabelled:,} relabelled"
    share = f"{num_changed / num_before:.1%} of the {len(before):,} training pictures ({counts})"
    if num_changed >= LEAST_CHANGED * num_before:
        reasons.append(f"{share} changed, {LEAST_CHANGED:.0%} are enough.")
    elif num_relabelled >= LEAST_RELABELLED * num_before:
        relabelled = f"{num_relabelled / num_before:.1%} of the {len(before):,} training pictures"
        reasons.append(f"{relabelled} have another label, {LEAST_RELABELLED:.0%} are enough.")
    retrain = bool(reasons)
    if not retrain:
        what = f"{share} changed, less than {LEAST_CHANGED:.0%}" if num_changed else "No training picture changed"
        reasons.append(f"{what}: the head stays.")
    return RefreshPlan(retrain, tuple(reasons), num_added, num_removed, num_relabelled, came, gone)


def _labels_by_digest(manifest: Manifest) -> dict[Digest, frozenset[str]]:
    """Name the labels of every training picture: indices move when a class comes or goes."""
    return {
        image.digest: frozenset(manifest.classes[label] for label in image.labels)
        for image in manifest.of_split("train")
    }


def _named(names: Sequence[str]) -> str:
    rest = len(names) - NUM_NAMED
    return ", ".join(names[:NUM_NAMED]) + (f" and {rest:,} more" if rest > 0 else "")
