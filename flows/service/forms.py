"""What each flow can be asked for: one model a flow, which the Prefect UI shows as a form and the server checks.

Bounds, choices and patterns are in the schema, so that a bad value is refused before a run exists.
"""

# no `from __future__ import annotations`: Prefect builds the forms from real types

import os
from dataclasses import asdict
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from flows.requests import FinetuneRequest, OnboardRequest, PredictBatchRequest, RefreshRequest
from flows.settings import workspace_root
from pipeline.backbones.table import AUTO, AUTO_MINUTES, BACKBONE_NAMES, DEFAULT_BACKBONE, SIZES
from pipeline.decision.nouns import Strategy
from pipeline.decision.schedule import CHECKPOINT_SECONDS

DATASET_NAME = "^[a-z0-9][a-z0-9._-]{0,63}$"
MODEL_NAME = "^[a-z0-9][a-z0-9._-]{0,63}(@[0-9]+)?$"
TABLE_FILE = r"^.+\.(csv|parquet)$"
SPAN = r"^[0-9]+(\.[0-9]+)? ?[smhdw]$"
FILE_SIZE = r"^[0-9]+(\.[0-9]+)? ?([kKmMgGtT]?[bB])$"


def _choices(schema: dict[str, Any]) -> None:
    """Offer what may be left open as one drop-down: pydantic's schema would make it a choice of types first."""
    for option in schema.pop("anyOf"):
        if "enum" in option:
            schema["enum"] = [None, *option["enum"]]


class Params(BaseModel):
    """What every flow has in common."""

    model_config = ConfigDict(extra="forbid")

    def fields(self) -> dict[str, Any]:
        """Flatten the cards of the form: the fields of a request, by name."""
        flat: dict[str, Any] = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            flat |= value.fields() if isinstance(value, Params) else {name: value}
        return flat


class FlowParams(Params):
    """A whole form: it knows the workspace."""

    def fields(self) -> dict[str, Any]:
        fields = super().fields()
        return fields | {"workspace": str(workspace_root(fields["workspace"]))}


WORKSPACE: Any = Field(
    default=None, title="Workspace", description="Folder for everything we write; by default the worker's own."
)
FOLDER: Any = Field(
    title="Folder or table",
    min_length=1,
    description="A folder per class, train/val/test folders of such, or a CSV table; as the worker sees it.",
)
NAME: Any = Field(
    default=None, title="Dataset name", pattern=DATASET_NAME, description="By default that of the folder."
)
REHASH: Any = Field(default=False, title="Rehash", description="Read every file again, whatever its size and time say.")


# ── cards ────────────────────────────────────────────────────────────────────────────────────────


class FeatureParams(Params):
    """How pictures become features. What is left as it is fits most datasets."""

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
        multiple_of=SIZES.step,
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
    auto_minutes: float = Field(
        default=AUTO_MINUTES,
        ge=0,
        title="Minutes for auto",
        description=f"What comparing backbones may take, about, where the backbone is {AUTO}.",
    )


class DecisionParams(Params):
    """Decide otherwise than the rule does. The plan keeps who did."""

    case: Literal[1, 2, 3, 4] | None = Field(
        default=None,
        json_schema_extra=_choices,
        title="Case",
        description="1 small and similar, 2 small and different, 3 large and similar, 4 large and different; "
        "by default as measured.",
    )
    strategy: Strategy | None = Field(
        default=None,
        json_schema_extra=_choices,
        title="Strategy",
        description="Do this, whatever the case says; by default what the case says.",
    )
    by: str = Field(default="", max_length=200, title="Asked by", description="Who overrides the rule, if anybody.")


class ScheduleParams(Params):
    """How the network is trained. What is left as it is follows a table."""

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


# ── forms ────────────────────────────────────────────────────────────────────────────────────────


class OnboardParams(FlowParams):
    """What to onboard."""

    folder: str = FOLDER
    name: str | None = NAME
    features: FeatureParams = Field(default=FeatureParams(), title="Features")
    decision: DecisionParams = Field(default=DecisionParams(), title="Decision")
    rehash: bool = REHASH
    workspace: str | None = WORKSPACE


class ExtractParams(FlowParams):
    """Whose features to compute."""

    folder: str = FOLDER
    name: str | None = NAME
    features: FeatureParams = Field(default=FeatureParams(), title="Features")
    rehash: bool = REHASH
    workspace: str | None = WORKSPACE


class RefreshParams(FlowParams):
    """Which datasets to read again."""

    names: list[str] = Field(
        default=[], title="Datasets", description="Names of onboarded datasets; none: all of the workspace."
    )
    force: bool = Field(default=False, title="Force", description="Train even where too little changed to matter.")
    workspace: str | None = WORKSPACE


class FinetuneParams(FlowParams):
    """Which model to train further."""

    name: str = Field(
        title="Model",
        pattern=DATASET_NAME,
        description="Its name, which is that of its dataset; it has a head already.",
    )
    schedule: ScheduleParams = Field(default=ScheduleParams(), title="Training")
    workspace: str | None = WORKSPACE


class PredictBatchParams(FlowParams):
    """What to predict, and where to."""

    model: str = Field(
        title="Model", pattern=MODEL_NAME, description="NAME, the version that serves when it runs, or NAME@VERSION."
    )
    folder: str = Field(
        title="Folder of pictures",
        min_length=1,
        description="As the worker sees it. Pictures that are new are predicted.",
    )
    output: str = Field(
        title="Table of predictions", pattern=TABLE_FILE, description="A .csv or .parquet file, as the worker sees it."
    )
    top: int = Field(default=3, ge=1, le=1000, title="Top classes", description="How many to name per picture.")
    every: bool = Field(
        default=False,
        title="Every picture",
        description="Also predict again what another version of the model has predicted.",
    )
    workspace: str | None = WORKSPACE


class VerifyParams(FlowParams):
    """How thoroughly to check the workspace."""

    recompute: int = Field(
        default=0, ge=0, title="Rows to recompute", description="So many stored rows are computed again and compared."
    )
    workspace: str | None = WORKSPACE


class GcParams(FlowParams):
    """What may go."""

    delete: bool = Field(default=False, title="Delete", description="Remove it; without, only say what would go.")
    older_than: str = Field(default="30d", title="Older than", pattern=SPAN, description="Only what is older, as 30d.")
    max_size: str | None = Field(
        default=None,
        title="Largest size",
        pattern=FILE_SIZE,
        description="Only the oldest, until the workspace is below it, as 20GB.",
    )
    keep_versions: int | None = Field(
        default=None,
        title="Keep versions",
        ge=1,
        description="Also versions of models that do not serve, but for so many of the newest. Empty: all stay.",
    )
    grace: str = Field(default="24h", title="Grace", pattern=SPAN, description="Nothing younger is ever touched.")
    workspace: str | None = WORKSPACE


# ── from requests ────────────────────────────────────────────────────────────────────────────────


def onboard_params(request: OnboardRequest) -> dict[str, Any]:
    """Fill in the form of the onboard flow for a run elsewhere: paths become absolute."""
    is_file = request.weights is not None and os.path.isfile(request.weights)  # else a word, or nothing
    return _from_request(OnboardParams, request, "folder", "workspace", *(["weights"] if is_file else []))


def finetune_params(request: FinetuneRequest) -> dict[str, Any]:
    """Fill in the form of the fine-tune flow for a run elsewhere."""
    return _from_request(FinetuneParams, request, "workspace")


def refresh_params(request: RefreshRequest) -> dict[str, Any]:
    """Fill in the form of the refresh flow for a run elsewhere."""
    return _from_request(RefreshParams, request, "workspace") | {"names": list(request.names)}


def predict_batch_params(request: PredictBatchRequest) -> dict[str, Any]:
    """Fill in the form of the predict-batch flow for a run elsewhere."""
    return _from_request(PredictBatchParams, request, "folder", "output", "workspace")


def _from_request(form: type[Params], request: Any, *paths: str) -> dict[str, Any]:
    return _filled(form, asdict(request) | {name: os.path.abspath(getattr(request, name)) for name in paths})


def _filled(form: type[Params], flat: dict[str, Any]) -> dict[str, Any]:
    """Put fields on the cards of a form that they belong to."""
    filled: dict[str, Any] = {}
    for name, field in form.model_fields.items():
        card: Any = field.annotation
        is_card = isinstance(card, type) and issubclass(card, Params)
        filled[name] = _filled(card, flat) if is_card else flat[name]
    return filled
