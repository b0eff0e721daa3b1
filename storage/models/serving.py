"""The version that serves, which is what a model's name means.

It is in a small file beside the versions. It cannot be derived from anything, so if the file is damaged, the error says
how to choose again: the newest version may be one that was found worse.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pipeline.errors import DamagedError, NotFoundError
from pipeline.jsonable import from_json, to_json
from pipeline.report.record import ModelRef
from storage.disk.atomic import explained
from storage.disk.documents import read_json, write_json
from storage.disk.locks import alone
from storage.disk.staging import remove_at_once
from storage.models.versions import RECORD, list_names, read_ref, version_numbers
from storage.workspace import Workspace

log = logging.getLogger(__name__)

FORMAT = "headstart.serving"
VERSION = 1


@dataclass(frozen=True, slots=True)
class Serving:
    """Which version of a model its name means, and why."""

    version: int
    reason: str
    gate: Mapping[str, Any] | None  # the comparison that it won, if it had one
    previous: int | None  # that served before
    since: str  # ISO 8601, UTC
    declined: Mapping[int, Declined] = field(default_factory=dict)  # versions that it was preferred to


@dataclass(frozen=True, slots=True)
class Declined:
    """Why a version does not replace the one that serves. On the same data that is not decided again."""

    reason: str
    gate: Mapping[str, Any] | None
    data: str | None  # fingerprint of the manifest they were compared on; None: a person decided, for all data


def find_serving(workspace: Workspace, name: str) -> Serving | None:
    """Read which version was chosen to serve; None if none was: then it is the newest.

    Raises
    ------
    DamagedError
        The file is not as it was written.
    """
    try:
        document = read_json(workspace.serving(name), FORMAT, VERSION)
        return from_json(Serving, document.get("serving", {}))
    except NotFoundError:
        return None
    except DamagedError as error:
        raise DamagedError(f"{error} {_advice(name)}") from error


def serving_version(workspace: Workspace, name: str) -> int | None:
    """Return the version that a name means; None if the model has none."""
    if serving := find_serving(workspace, name):
        return serving.version
    return max(version_numbers(workspace, name), default=None)


def promote(
    workspace: Workspace,
    name: str,
    version: int,
    reason: str,
    gate: Mapping[str, Any] | None = None,
    data: str | None = None,
    over: Iterable[int] = (),
) -> Serving:
    """Let a version serve from now on.

    Parameters
    ----------
    data
        Fingerprint of the manifest on which it was preferred to the version that served, if that decided.
    over
        Versions that it is preferred to for all data, because a person says so.

    Raises
    ------
    NotFoundError
        There is no such version.
    """
    get_model(workspace, f"{name}@{version}")
    try:
        previous = serving_version(workspace, name)
    except DamagedError as error:
        log.warning("%s It moved to %s.", error, workspace.set_aside(workspace.serving(name)))
        previous = None
    before = previous if previous != version else None
    why = f"Version {version} was preferred to it."
    declined = {before: Declined(why, gate, data)} if before and data else {}
    declined |= {other: Declined(why, None, None) for other in over if other != version}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    serving = Serving(version, reason, gate, before, now, declined)
    _write_serving(workspace, name, serving)
    return serving


def decline(workspace: Workspace, name: str, version: int, why: Declined) -> None:
    """Remember that a version was compared with the one that serves, and does not replace it."""
    serving = find_serving(workspace, name)
    if serving is None:
        raise RuntimeError("nothing was chosen to serve yet")
    _write_serving(workspace, name, replace(serving, declined={**serving.declined, version: why}))


def remove_version(workspace: Workspace, folder: Path) -> None:
    """Remove a version; not while another is being made or promoted, nor the one that serves."""
    with explained(folder), alone(folder.parent) as free:
        if free and folder != workspace.model(folder.parent.name, serving_version(workspace, folder.parent.name) or 0):
            remove_at_once(folder, workspace.staging)


def _write_serving(workspace: Workspace, name: str, serving: Serving) -> None:
    path, document = workspace.serving(name), {"serving": to_json(serving)}
    write_json(path, document, FORMAT, VERSION, workspace.staging)


def _advice(name: str) -> str:
    return f"Say which version serves: headstart promote {name}@VERSION"


def get_model(workspace: Workspace, text: str) -> ModelRef:
    """Find a bundle by "name" (the version that serves), "name@3", or a path (anything with a "/").

    Raises
    ------
    NotFoundError
        There is no such model; the message offers the nearest names.
    DamagedError
        Which version serves cannot be known.
    """
    if os.sep in text:
        folder = Path(os.path.abspath(text))
        if not (folder / RECORD).is_file():
            raise NotFoundError(f"{folder} is no model: it has no {RECORD}.")
        return read_ref(folder)
    name, _, number = text.partition("@")
    versions = version_numbers(workspace, name)
    if not versions:
        raise NotFoundError(f"There is no model '{name}'. {_nearest(workspace, name)}")
    wanted = number or str(serving_version(workspace, name))
    if wanted not in map(str, versions):
        known = ", ".join(map(str, versions))
        advice = "" if number else f" It served; choose another: headstart promote {name}@VERSION"
        raise NotFoundError(f"Model '{name}' has no version '{wanted}'. There are: {known}.{advice}")
    return read_ref(workspace.model(name, int(wanted)))


def _nearest(workspace: Workspace, name: str) -> str:
    known = list_names(workspace)
    if not known:
        return "There are no models yet: run `headstart onboard`."
    close = get_close_matches(name, known, n=1)
    hint = f"Did you mean '{close[0]}'? " if close else ""
    return f"{hint}Known: {', '.join(known)}."
