"""Prefect: the flows. Nothing is decided or computed here; workers run them, or `flows.serve`."""

# no `from __future__ import annotations`: Prefect builds the parameter form from real types

import logging
from collections.abc import Callable
from typing import Any, Literal

from prefect import State, flow, task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.states import Cancelled, Completed
from pydantic import BaseModel, ConfigDict, Field

from flows import extraction, finetuning, steps, submission, training
from flows.artifacts import CurveArtifacts
from flows.curve import describe_epoch, rows_of
from flows.progress import Lines
from flows.settings import workspace_root
from pipeline.backbones import AUTO, AUTO_MINUTES, BACKBONE_NAMES, DEFAULT_BACKBONE, SIZES
from pipeline.decision import Strategy
from pipeline.errors import CancelledError
from pipeline.schedule import CHECKPOINT_SECONDS

DATASET_NAME = "^[a-z0-9][a-z0-9._-]{0,63}$"


class OnboardParams(BaseModel):
    """What to onboard."""

    model_config = ConfigDict(extra="forbid")

    folder: str = Field(
        title="Folder or table",
        min_length=1,
        description="A folder per class, train/val/test folders of such, or a CSV table; as the worker sees it.",
    )
    name: str | None = Field(
        default=None,
        title="Dataset name",
        pattern=DATASET_NAME,
        description="By default that of the folder.",
    )
    backbone: str = Field(
        default=DEFAULT_BACKBONE,
        title="Backbone",
        json_schema_extra={"enum": [*BACKBONE_NAMES, AUTO]},
        description=f"The pretrained network that features come from; {AUTO}: the best of those that are here.",
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
    size: int | None = Field(
        default=None,
        ge=SIZES[0],
        le=SIZES[-1],
        title="Size",
        description=f"Pixels, side of the square given to the network: a multiple of {SIZES.step}; by default its own.",
    )
    views: int = Field(
        default=0,
        ge=0,
        le=64,
        title="Augmented views",
        description="Of each training picture, to cache and to train on.",
    )
    case: int | None = Field(
        default=None,
        ge=1,
        le=4,
        title="Case",
        description="Treat the data as this case, whatever was measured: 1 small and similar, 2 small and different, "
        "3 large and similar, 4 large and different.",
    )
    strategy: Strategy | None = Field(
        default=None, title="Strategy", description="Do this, whatever the case says. Kept in the plan."
    )
    auto_minutes: float = Field(
        default=AUTO_MINUTES,
        ge=0,
        title="Minutes for auto",
        description=f"What comparing backbones may take, about, where the backbone is {AUTO}.",
    )
    by: str = Field(
        default="", title="Asked by", description="Who overrides the rule, if anybody does; kept in the plan."
    )
    workspace: str | None = Field(
        default=None, title="Workspace", description="Folder for everything we write; by default the worker's own."
    )
    rehash: bool = Field(
        default=False, title="Rehash", description="Read every file again, whatever its size and time say."
    )


class FinetuneParams(BaseModel):
    """Which model to train further."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(
        title="Model",
        pattern=DATASET_NAME,
        description="Its name, which is that of its dataset; it has a head already.",
    )
    workspace: str | None = Field(
        default=None, title="Workspace", description="Folder for everything we write; by default the worker's own."
    )
    epochs: int | None = Field(
        default=None,
        ge=1,
        title="Epochs",
        description="At most so many passes over the pictures; by default by a table.",
    )
    layer_decay: float = Field(
        default=1.0,
        ge=0.1,
        le=1.0,
        title="Layer-wise decay",
        description="Learning rate of each stage over that of the stage behind it.",
    )
    unfreeze_epochs: float = Field(
        default=0.0,
        ge=0,
        title="Unfreezing",
        description="The head learns alone for so many epochs, then stage after stage joins.",
    )
    checkpoint_seconds: float = Field(
        default=CHECKPOINT_SECONDS, ge=0, title="Seconds between checkpoints", description="What a kill costs at most."
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
    _hear_info()
    document = steps.onboard(request, Lines(logger.info), call=_as_task)
    for reason in document["reasons"]:
        logger.info("%s", reason)
    return submission.schedule_finetuning(document)


# No task and no retries. Prefect stops a run with SIGTERM, which Python hears in the main thread only, and a job that
# is run again goes on by itself.
@flow(name="finetune", flow_run_name="finetune-{params.name}", retries=0)
def finetune(params: FinetuneParams) -> State[Any]:
    """Train the whole network of a model further; a new version is saved only if it beats the head it started from."""
    fields = params.model_dump() | {"workspace": str(workspace_root(params.workspace))}
    request = finetuning.FinetuneRequest(**fields)
    logger = get_run_logger()
    _hear_info()
    curve = CurveArtifacts(params.name, logger.warning)

    def on_epoch(row: dict[str, Any]) -> None:
        logger.info("%s", describe_epoch(row))
        curve.add(row)

    try:
        document = finetuning.finetune(request, Lines(logger.info), log=logger.info, on_epoch=on_epoch)
    except CancelledError as error:
        return Cancelled(message=str(error))
    curve.finish(rows_of(document))
    gate, model = document["gate"], document["model"]
    verdict = f"Saved {model['name']}@{model['version']}." if model else "The head stays the model."
    return Completed(message=f"{gate['reason']} {verdict}", data=document)


def _hear_info() -> None:
    """Let what our modules tell reach the run's log; Prefect forwards their loggers, which say warnings only."""
    for name in ("pipeline", "storage", "flows"):
        logging.getLogger(name).setLevel(logging.INFO)
