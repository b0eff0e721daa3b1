"""Prefect: the plain steps as tasks of a flow. Nothing is decided or computed here; `flows.serve` runs it."""

# no `from __future__ import annotations`: Prefect builds the parameter form from real types

from collections.abc import Callable
from typing import Any, Literal

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from pydantic import BaseModel, ConfigDict, Field

from flows import extraction, steps, training
from flows.progress import Lines
from flows.settings import workspace_root
from pipeline.backbones import BACKBONE_NAMES, DEFAULT_BACKBONE


class OnboardParams(BaseModel):
    """What to onboard."""

    model_config = ConfigDict(extra="forbid")

    folder: str = Field(
        title="Folder",
        min_length=1,
        description="A folder per class, or train/val/test folders of such, as the worker sees it.",
    )
    name: str | None = Field(
        default=None,
        title="Dataset name",
        pattern="^[a-z0-9][a-z0-9._-]{0,63}$",
        description="By default that of the folder.",
    )
    backbone: str = Field(
        default=DEFAULT_BACKBONE,
        title="Backbone",
        json_schema_extra={"enum": [*BACKBONE_NAMES]},
        description="The pretrained network that features come from.",
    )
    weights: str | None = Field(
        default=None,
        title="Weights",
        description="Of a backbone that is not embedded: imagenet (downloaded by Keras), none, or a file.",
    )
    recipe: Literal["exact", "scaled"] = Field(
        default="exact",
        title="Recipe",
        description="scaled: decode large JPEGs smaller; faster, slightly other numbers.",
    )
    views: int = Field(
        default=0,
        ge=0,
        le=64,
        title="Augmented views",
        description="Of each training picture, to cache and to train on.",
    )
    workspace: str | None = Field(
        default=None, title="Workspace", description="Folder for everything we write; by default the worker's own."
    )
    rehash: bool = Field(
        default=False, title="Rehash", description="Read every file again, whatever its size and time say."
    )


# The feature store is the cache. Prefect's own would be a second one, and two disagree sooner or later.
_TASKS: dict[Callable[..., Any], Callable[..., Any]] = {
    step: task(name=step.__name__, cache_policy=NO_CACHE)(step)
    for step in (steps.scan, steps.plan_dataset, extraction.extract, training.train)
}


def _as_task(step: Callable[..., Any], *args: Any) -> Any:
    return _TASKS[step](*args)


@flow(name="onboard", flow_run_name="onboard-{params.folder}")
def onboard(params: OnboardParams) -> dict[str, Any]:
    """Bring a folder of pictures to a trained model; what was done before is found, not done again."""
    fields = params.model_dump() | {"workspace": str(workspace_root(params.workspace))}
    request = steps.Request(**fields)
    logger = get_run_logger()
    document = steps.onboard(request, Lines(logger.info), call=_as_task)
    for reason in document["reasons"]:
        logger.info("%s", reason)
    return document
