"""The functions of `import headstart`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from flows.api.data import parse_data
from flows.api.model import Model
from flows.api.plan import Plan
from flows.progress import Quiet, terminal_progress
from pipeline.backbones.table import check_choice
from storage.workspace import Workspace

if TYPE_CHECKING:
    from flows.api.bottleneck import Features
    from flows.api.data import Data
    from flows.onboarding.story import Steps
    from flows.requests import OnboardRequest
    from pipeline.types import Split


def plan(
    data: Data, *, name: str | None = None, workspace: str | os.PathLike[str] | None = None, **options: Any
) -> Plan:
    """Measure a dataset and decide what would be done; trains nothing.

    Parameters
    ----------
    data
        A folder with a folder for each class, a CSV table, a DataFrame with the columns `path` and `label` (or
        `labels`, and perhaps `split`), or pairs (path, label).
    name
        Of the dataset; by default that of the folder or table.
    workspace
        The folder that everything is written to; by default HEADSTART_HOME, or a folder in your home.
    options
        As `headstart plan` has them: `backbone`, `weights`, `size`, `recipe`, `views`, `case`, `strategy`,
        `auto_minutes`, `rehash`.

    Returns
    -------
    Plan
        Its case, strategy, reasons, measurements and quote. In a notebook it shows its quadrant and reasons.

    Raises
    ------
    UsageError
        An option is unknown or cannot be used.
    DataError, NotFoundError
        The data cannot be used, or are not there.
    """
    from flows.onboarding.story import plan_only

    request, steps, _ = _parsed(data, name, workspace, options)
    return Plan.of(plan_only(request, steps).plan)


def onboard(
    data: Data,
    *,
    name: str | None = None,
    workspace: str | os.PathLike[str] | None = None,
    progress: bool = True,
    **options: Any,
) -> Model:
    """Bring a dataset to a trained model. What was done before is found, not done again.

    Parameters
    ----------
    data, name, workspace, options
        As for `plan`.
    progress
        Show on stderr how far it is.

    Returns
    -------
    Model
        The version with this dataset's head; it serves unless it is worse than the one before.

    Raises
    ------
    UsageError, DataError, NotFoundError
        As for `plan`.
    ConflictError
        The workspace or the name is in use for something else, or cannot be written.
    """
    from flows.onboarding.story import onboard as run

    request, steps, is_rows = _parsed(data, name, workspace, options)
    result = run(request, terminal_progress() if progress else Quiet(), steps, remember=not is_rows)
    return Model(Workspace.open(request.workspace), result.model)


def features(
    data: Data,
    *,
    taps: Sequence[str] = ("top",),
    split: Split | None = None,
    name: str | None = None,
    workspace: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Features:
    """Return the bottleneck features of a dataset as arrays; what is missing from the store is computed once.

    Parameters
    ----------
    data, name, workspace, options
        As for `plan`; of the options `backbone`, `weights`, `size`, `recipe`, `rehash` matter.
    taps
        Names of layers, as `headstart inspect` lists them; their features stand side by side.
    split
        "train", "val" or "test"; by default all pictures.

    Raises
    ------
    UnknownNameError
        The backbone has no such tap.
    UsageError, DataError, NotFoundError, ConflictError
        As for `onboard`.
    """
    from flows.api.bottleneck import read_features
    from flows.onboarding.story import extract_only

    request, steps, _ = _parsed(data, name, workspace, options)
    return read_features(Workspace.open(request.workspace), extract_only(request, Quiet(), None, steps), taps, split)


def load(model: str | os.PathLike[str], *, workspace: str | os.PathLike[str] | None = None) -> Model:
    """Find a saved model.

    Parameters
    ----------
    model
        "flowers" (the version that serves), "flowers@3", or the folder of a version.

    Raises
    ------
    NotFoundError
        There is none; the message offers the nearest names.
    """
    from storage.models.serving import get_model

    opened = Workspace.open(_path(workspace))
    return Model(opened, get_model(opened, os.fspath(model)))


def models(*, workspace: str | os.PathLike[str] | None = None) -> list[Model]:
    """List every saved version in a workspace, by name and number."""
    from storage.models.versions import list_models

    opened = Workspace.open(_path(workspace))
    return [Model(opened, ref) for ref in list_models(opened)]


def _parsed(
    data: Data, name: str | None, workspace: str | os.PathLike[str] | None, options: dict[str, Any]
) -> tuple[OnboardRequest, Steps, bool]:
    """Turn arguments into a request, the steps that read the data as they were given, and whether they are rows."""
    from flows.forms import parse_request
    from flows.onboarding.scan import scan
    from flows.onboarding.story import PLAIN
    from flows.requests import OnboardRequest
    from flows.settings import user_name

    place, listing = parse_data(data)
    if options.get("case") or options.get("strategy"):
        options = {"by": user_name(), **options}
    request = parse_request(OnboardRequest, {**options, "folder": place, "name": name, "workspace": _path(workspace)})
    check_choice(request.backbone, request.weights, request.size)
    if listing is None:
        return request, PLAIN, False
    return request, replace(PLAIN, scan=partial(scan, listing=listing)), True


def _path(workspace: str | os.PathLike[str] | None) -> str:
    from flows.settings import workspace_root

    return str(workspace_root(None if workspace is None else os.fspath(workspace)))
