"""Doctor's checks of a workspace: write access and locks, the space on its disk, and the pictures of its datasets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from shutil import disk_usage

from flows.doctor.check import Check, of_error, or_ok
from flows.settings import workspace_option
from pipeline.errors import HeadstartError, NotFoundError
from storage.datasets.manifests import list_datasets
from storage.maintenance.health import locks_after_writing
from storage.workspace import Workspace

GB = 1_000_000_000
# free space: less than either of a pair is a finding, unless ENOUGH_BYTES are free
PROBLEM_BYTES, PROBLEM_SHARE = 1 * GB, 0.02
WARNING_BYTES, WARNING_SHARE = 5 * GB, 0.10
ENOUGH_BYTES = 50 * GB
MEND = "headstart verify says what is damaged, and repairs what can be repaired."


def check_workspace(root: str) -> list[Check]:
    """Check the workspace; if there is none yet, only the disk that it would be on."""
    disk = _check_disk(Path(root).absolute())
    try:
        workspace = Workspace.open(root, create=False)
        return [_check_writing(workspace), disk, *_check_datasets(workspace)]
    except NotFoundError:
        advice = "It is made on first use: headstart onboard DIR. Or name another with --workspace or HEADSTART_HOME."
        return [Check("workspace", "warning", f"There is no workspace at {root} yet.", advice), disk]
    except HeadstartError as error:
        return [of_error("workspace", error, MEND), disk]
    except OSError as error:
        found = f"Cannot read {error.filename}: {error.strerror}."
        return [Check("workspace", "problem", found, "Let the user that runs headstart read and write it."), disk]


def _check_writing(workspace: Workspace) -> Check:
    if locks_after_writing(workspace):
        return Check("workspace", "ok", f"{workspace.root} can be written, and has locks.")
    advice = "Move it to a file system with locks (flock): without them, gc cannot know what is in use."
    return Check("workspace", "problem", f"The file system of {workspace.root} has no locks.", advice)


def _check_disk(folder: Path) -> Check:
    usage = disk_usage(next(place for place in (folder, *folder.parents) if place.exists()))
    share = usage.free / max(1, usage.total)
    found = f"{usage.free / GB:,.1f} GB free, {share:.0%} of the disk."
    advice = "headstart gc --delete removes what nothing needs; --max-size SIZE keeps to a size."
    if usage.free < ENOUGH_BYTES and (usage.free < PROBLEM_BYTES or share < PROBLEM_SHARE):
        return Check("disk", "problem", found, advice)
    if usage.free < ENOUGH_BYTES and (usage.free < WARNING_BYTES or share < WARNING_SHARE):
        return Check("disk", "warning", found, advice)
    return Check("disk", "ok", found)


def _check_datasets(workspace: Workspace) -> list[Check]:
    known = list_datasets(workspace)
    found = f"{len(known)} known; their folders are there." if known else "No dataset is known yet."
    return or_ok(_find_gone(workspace), "datasets", found)


def _find_gone(workspace: Workspace) -> Iterator[Check]:
    where = workspace_option(workspace.root)
    for ref in list_datasets(workspace):
        if not Path(ref.root).exists():
            advice = f"Mount it again, or say where it is now: headstart onboard DIR --name {ref.name}{where}"
            yield Check("datasets", "warning", f"The pictures of {ref.name} are missing: {ref.root}", advice)
