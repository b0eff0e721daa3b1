"""Which version of a model serves: a new one takes over unless it is worse, picture by picture."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from flows.stopwatch import stage
from flows.versions.compare import compare_saved, incomparable
from pipeline.errors import IncomparableError, UsageError
from pipeline.report.record import ModelRef
from pipeline.types import Head
from storage.models.serving import Declined, Serving, decline, find_serving, get_model, promote, serving_version
from storage.models.versions import check_bundle, list_models
from storage.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Verdict:
    """Which version serves now, and why."""

    version: int
    promoted: bool  # just now
    reason: str
    gate: Mapping[str, Any] | None = None  # the comparison, if there was one


@dataclass(frozen=True, slots=True)
class Promoted:
    """A version that a person has chosen; what `headstart promote --json` prints."""

    model: str
    version: int
    previous: int | None  # that served before
    path: str


def list_heads(workspace: Workspace, name: str) -> list[ModelRef]:
    """Every version of a model that is a head on frozen features, oldest first."""
    return [ref for ref in list_models(workspace) if ref.name == name and not ref.record.is_network]


def promote_by_hand(workspace_root: str, model: str) -> Promoted:
    """Let a version serve because a person says so.

    It is preferred to all other versions: none of them takes over again before something new is trained.
    """
    name, _, number = model.partition("@")
    if not number or os.sep in model:
        raise UsageError(f"{model!r} names no version. Wanted: NAME@VERSION, for example flowers@2.")
    workspace = Workspace.open(workspace_root)
    ref = get_model(workspace, model)
    check_bundle(ref)
    others = [other.version for other in list_models(workspace) if other.name == name]
    serving = promote(workspace, name, ref.version, "A person chose it.", over=others)
    return Promoted(name, ref.version, serving.previous, ref.path)


def pin_serving(workspace: Workspace, name: str) -> Serving | None:
    """Write down which version serves before there is a newer one. If nothing is written down, the newest serves."""
    serving, version = find_serving(workspace, name), serving_version(workspace, name)
    if serving or version is None:
        return serving
    reason = "It was the newest version when headstart first recorded which version serves."
    return promote(workspace, name, version, reason)


def settle(workspace: Workspace, challenger: ModelRef, head: Head | None = None) -> Verdict:
    """Let a version serve unless it is worse than the one that does; a decision is not made twice on the same data.

    Parameters
    ----------
    head
        The challenger's, if it was fitted just now.

    Raises
    ------
    DamagedError
        The file that says which version serves is damaged.
    """
    name, version = challenger.name, challenger.version
    if find_serving(workspace, name) is None and serving_version(workspace, name) == version:
        return _promoted(promote(workspace, name, version, "No other version served before it."))
    serving = pin_serving(workspace, name)
    if serving is None:
        raise RuntimeError("a version cannot serve before it is there")
    if serving.version == version:
        return Verdict(version, False, serving.reason, serving.gate)
    why = serving.declined.get(version)
    if why and why.data in (None, challenger.record.data.fingerprint):
        return Verdict(serving.version, False, why.reason, why.gate)
    return _decide(workspace, challenger, serving, head)


def _decide(workspace: Workspace, challenger: ModelRef, serving: Serving, head: Head | None) -> Verdict:
    name, version, data = challenger.name, challenger.version, challenger.record.data.fingerprint
    compared = f"Version {version} was compared with version {serving.version}."
    try:
        with incomparable():  # a version that is gone or damaged cannot even predict
            opponent = get_model(workspace, f"{name}@{serving.version}")
            check_bundle(opponent)
        theirs, ours = opponent.record.finetune, challenger.record.finetune
        if theirs and theirs.started_from.version == version:
            reason = f"Version {serving.version} was trained from version {version}. {theirs.gate.reason}"
            return Verdict(serving.version, False, reason)
        if ours and ours.started_from.version == serving.version:  # its own gate has compared them
            reason = f"{compared} {ours.gate.reason}"
            return _promoted(promote(workspace, name, version, reason, asdict(ours.gate), data))
        with stage("compare"):
            outcome = compare_saved(workspace, challenger, opponent, head)
    except IncomparableError as error:
        reason = f"Version {version} serves; it cannot be compared with version {serving.version}. {error}"
        return _promoted(promote(workspace, name, version, reason, None, data))
    if serving_version(workspace, name) != serving.version:  # a person has chosen meanwhile
        return settle(workspace, challenger, head)
    reason, gate = f"{compared} {outcome.reason}", asdict(outcome)
    if outcome.passed:
        return _promoted(promote(workspace, name, version, reason, gate, data))
    decline(workspace, name, version, Declined(reason, gate, data))
    return Verdict(serving.version, False, reason, gate)


def _promoted(serving: Serving) -> Verdict:
    return Verdict(serving.version, True, serving.reason, serving.gate)
