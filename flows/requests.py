"""What runs are asked to do, each request written once.

The options of a command, the form in Prefect's UI, what `refresh` remembers and the arguments of the Python interface
are the fields of these classes, with their bounds and their words.
"""

# no `from __future__ import annotations`: a class is built at its first use, and names in text would then mean what
# they mean there, such as the Workspace or the Path of another module

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args

from pydantic import AfterValidator, Field, PlainValidator
from pydantic.dataclasses import dataclass

from flows.forms import CONFIG, Request, about, drop_down, on_worker, optional, parse_path
from flows.settings import HOME_VARIABLE, workspace_root
from pipeline.backbones.table import AUTO, AUTO_MINUTES, BACKBONE_NAMES, DEFAULT_BACKBONE, SIZES
from pipeline.decision.nouns import Strategy
from pipeline.decision.schedule import AUDIT_EPOCHS, CHECKPOINT_SECONDS
from pipeline.errors import UsageError
from pipeline.jsonable import to_json
from storage.datasets.names import NAME_PATTERN, parse_dataset_name

if TYPE_CHECKING:
    from pipeline.decision.plan import Wishes
    from storage.maintenance.garbage import Limits

MAX_VIEWS = 64
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
SPAN = r"^[0-9]+(\.[0-9]+)? ?[smhdwSMHDW]$"
FILE_SIZE = r"^[0-9]+(\.[0-9]+)? ?[kKmMgGtT]?[bB]$"


def parse_seconds(span: str) -> float:
    """Read a span of time.

    >>> parse_seconds("36h")
    129600.0
    """
    return float(span[:-1]) * SECONDS[span[-1].lower()]


def _check(pattern: str, wanted: str) -> AfterValidator:
    """Accept text of a pattern, without the space around it."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text.strip()):
            raise UsageError(f"{text!r} is not {wanted}.")
        return text.strip()

    return AfterValidator(check)


Span = Annotated[
    str,
    _check(SPAN, "a span of time such as 30d or 36h. Units: s, m, h, d, w"),
    Field(json_schema_extra={"pattern": SPAN}),
]
OlderThan = Annotated[Span, about("Older than", "Only what is older than this, such as 30d.")]
FileSize = Annotated[
    str,
    _check(FILE_SIZE, "a size such as 20GB or 500MB. Units: B, KB, MB, GB, TB"),
    Field(json_schema_extra={"pattern": FILE_SIZE}),
]
Path = Annotated[str, PlainValidator(parse_path, json_schema_input_type=str)]
WorkspaceFolder = Annotated[
    str,
    PlainValidator(lambda given: str(workspace_root(given)), json_schema_input_type=str | None),
    about(
        "Workspace",
        f"Folder for everything that headstart writes. Default: {HOME_VARIABLE}, or your data folder.",
        validate_default=True,
    ),
]
OWN: Any = None  # the workspace that the environment names, looked up when the request is made
Folder = Annotated[
    Path,
    about(
        "Folder or table",
        "One folder per class, train/val/test folders of these, or a CSV table.",
        form=on_worker(minLength=1),
    ),
]
Model = Annotated[Path, about("Model", "NAME, NAME@VERSION or a model's folder.")]
ModelName = Annotated[str, about("Model", "Name of the model, which is that of its dataset.", pattern=NAME_PATTERN)]
Top = Annotated[int, about("Top classes", "How many classes to name for each picture.", ge=1, le=1000)]
Checkpoint = Annotated[
    float,
    about(
        "Seconds between checkpoints",
        "Seconds between checkpoints. At most this much work is lost if the process is killed.",
        ge=0,
    ),
]


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class FeatureOptions:
    """How pictures become features. The defaults fit most datasets."""

    TITLE: ClassVar[str] = "Features"

    backbone: Annotated[
        str,
        about(
            "Backbone",
            f"Pretrained network: {DEFAULT_BACKBONE}, one of keras.applications such as resnet50, or "
            f"{AUTO} to try the installed ones on a sample and take the best.",
            form={"enum": [*BACKBONE_NAMES, AUTO]},
        ),
    ] = DEFAULT_BACKBONE
    auto_minutes: Annotated[
        float, about("Minutes for auto", f"Approximate time limit for backbone {AUTO}, in minutes.", ge=0)
    ] = AUTO_MINUTES
    weights: Annotated[
        str | None,
        PlainValidator(lambda given: given and parse_path(given), json_schema_input_type=str | None),
        about(
            "Weights",
            "For a network of keras.applications: imagenet (Keras downloads them), none, or a file. Default: imagenet.",
        ),
    ] = None
    recipe: Annotated[
        Literal["exact", "scaled"],
        about("Recipe", "scaled decodes large JPEGs at a smaller size: faster, with slightly different features."),
    ] = "exact"
    size: Annotated[
        int | None,
        about(
            "Size",
            f"Side in pixels of the square that the network sees: a multiple of {SIZES.step} from "
            f"{SIZES[0]} to {SIZES[-1]}. Default: the network's own.",
            form=optional(minimum=SIZES[0], maximum=SIZES[-1], multipleOf=SIZES.step),
        ),
    ] = None
    views: Annotated[
        int,
        about(
            "Augmented views", "Augmented views of each training picture to compute and train on.", ge=0, le=MAX_VIEWS
        ),
    ] = 0


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class DecisionOptions:
    """Decide differently from the rule. The plan records who did."""

    TITLE: ClassVar[str] = "Decision"

    case: Annotated[
        int | None,
        about(
            "Case",
            "Use this case instead of the measured one: 1 small and similar, 2 small and different, "
            "3 large and similar, 4 large and different.",
            ge=1,
            le=4,
            form=drop_down(1, 2, 3, 4),
        ),
    ] = None
    strategy: Annotated[
        Strategy | None,
        about("Strategy", "Use this strategy instead of the case's.", form=drop_down(*get_args(Strategy))),
    ] = None
    by: Annotated[str, about("Asked by", "Who overrides the rule, if someone does.", max_length=200)] = ""

    def wishes(self) -> "Wishes":
        """Return what is wanted instead of what the rule says."""
        from pipeline.decision.plan import Wishes  # NumPy: not for the help of a command

        return Wishes(self.case, self.strategy, self.by)


@dataclass(frozen=True, config=CONFIG)
class ExtractRequest(FeatureOptions, Request):
    """Compute the features of a dataset."""

    CARDS: ClassVar[Mapping[str, type[Any]]] = {"features": FeatureOptions}
    PATHS: ClassVar[tuple[str, ...]] = ("folder", "workspace", "weights")

    folder: Folder
    workspace: WorkspaceFolder = OWN
    name: Annotated[
        str | None,
        AfterValidator(lambda name: name and parse_dataset_name(name)),
        about(
            "Dataset name",
            "Name of the dataset. Default: that of the folder or table.",
            form=optional(pattern=NAME_PATTERN),
        ),
    ] = None
    rehash: Annotated[
        bool, about("Rehash", "Re-read every file, even if its size and modification time are unchanged.")
    ] = False


@dataclass(frozen=True, config=CONFIG)
class OnboardRequest(DecisionOptions, ExtractRequest):
    """Bring a dataset to a trained model."""

    CARDS: ClassVar[Mapping[str, type[Any]]] = {"features": FeatureOptions, "decision": DecisionOptions}

    def to_remember(self) -> dict[str, object]:
        """Return what must be known to ask the same again, from any folder."""
        here = ("workspace", "name", "rehash")  # the workspace may move, and the name is that of the dataset
        return {name: value for name, value in to_json(self.anywhere()).items() if name not in here}


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class TrainingOptions:
    """How the network is trained. The defaults follow a table."""

    TITLE: ClassVar[str] = "Training"

    epochs: Annotated[
        int | None, about("Epochs", "Maximum number of epochs. Default: depends on the size of the dataset.", ge=1)
    ] = None
    layer_decay: Annotated[
        float,
        about(
            "Layer-wise decay", "Learning rate of each stage, as a fraction of the next deeper stage's.", ge=0.1, le=1.0
        ),
    ] = 1.0
    unfreeze_epochs: Annotated[
        float, about("Unfreezing", "Train only the head for this many epochs, then add stage after stage.", ge=0)
    ] = 0.0
    checkpoint_seconds: Checkpoint = CHECKPOINT_SECONDS


@dataclass(frozen=True, config=CONFIG)
class FinetuneRequest(TrainingOptions, Request):
    """Train the whole network of a model that has a head."""

    CARDS: ClassVar[Mapping[str, type[Any]]] = {"schedule": TrainingOptions}

    name: ModelName
    workspace: WorkspaceFolder = OWN


@dataclass(frozen=True, config=CONFIG)
class AuditRequest(Request):
    """Run the strategies that a plan rejected."""

    name: ModelName
    workspace: WorkspaceFolder = OWN
    epochs: Annotated[
        int,
        about(
            "Epochs",
            "Budget of every strategy that trains a whole network: this many epochs of fine-tuning, and "
            "as many multiply-adds for a network from scratch.",
            ge=1,
        ),
    ] = AUDIT_EPOCHS
    checkpoint_seconds: Checkpoint = CHECKPOINT_SECONDS


@dataclass(frozen=True, config=CONFIG)
class RefreshRequest(Request):
    """Read datasets again."""

    workspace: WorkspaceFolder = OWN
    names: Annotated[tuple[str, ...], about("Datasets", "Names of onboarded datasets. Default: all of them.")] = ()
    force: Annotated[bool, about("Force", "Train even if too little has changed to matter.")] = False


@dataclass(frozen=True, config=CONFIG)
class PredictRequest(Request):
    """Predict pictures."""

    PATHS: ClassVar[tuple[str, ...]] = ()

    model: Model
    paths: Annotated[tuple[Path, ...], about("Pictures", "Pictures, or folders of pictures.", min_length=1)]
    workspace: WorkspaceFolder = OWN
    top: Top = 3


@dataclass(frozen=True, config=CONFIG)
class PredictBatchRequest(Request):
    """Predict the new pictures of a folder, into one table."""

    PATHS: ClassVar[tuple[str, ...]] = ("folder", "output", "workspace")

    model: Annotated[
        Model,
        Field(
            description="NAME (the version that serves when it runs), NAME@VERSION or a model's folder.",
            json_schema_extra={"pattern": NAME_PATTERN.replace("$", "(@[0-9]+)?$")},
        ),
    ]
    folder: Annotated[
        Path,
        about("Folder of pictures", "Folder of pictures; those below it are included.", form=on_worker(minLength=1)),
    ]
    output: Annotated[
        Path,
        about(
            "Table of predictions",
            "The table to write, outside the folder: a .csv or .parquet file.",
            form=on_worker(pattern=r"^.+\.(csv|parquet)$"),
        ),
    ]
    workspace: WorkspaceFolder = OWN
    top: Top = 3
    every: Annotated[
        bool, about("Every picture", "Also predict again what another version of the model has predicted.")
    ] = False


@dataclass(frozen=True, config=CONFIG)
class VerifyRequest(Request):
    """Check a workspace."""

    workspace: WorkspaceFolder = OWN
    recompute: Annotated[
        int, about("Rows to recompute", "Also compute this many stored rows again and compare them.", ge=0)
    ] = 0
    seed: Annotated[int | None, about("Seed", "Chooses the rows to recompute. Default: others each time.")] = None


@dataclass(frozen=True, config=CONFIG)
class GcRequest(Request):
    """Find what no dataset and no model needs."""

    workspace: WorkspaceFolder = OWN
    delete: Annotated[bool, about("Delete", "Remove it. Without this, it is only listed.")] = False
    older_than: OlderThan = "0d"
    max_size: Annotated[
        FileSize | None, about("Largest size", "Only the oldest, until the workspace is smaller than this, as 20GB.")
    ] = None
    keep_versions: Annotated[
        int | None,
        about("Keep versions", "Also remove old versions of models, but keep this many. Default: keep all.", ge=1),
    ] = None
    grace: Annotated[Span, about("Grace", "Never touch what is younger than this.")] = "24h"

    def limits(self) -> "Limits":
        """Return the bounds as numbers."""
        from pydantic import ByteSize, TypeAdapter

        from storage.maintenance.garbage import Limits

        size = TypeAdapter(ByteSize).validate_python(self.max_size) if self.max_size else None
        return Limits(parse_seconds(self.grace), parse_seconds(self.older_than), size)


@dataclass(frozen=True, config=CONFIG)
class ScheduledGcRequest(GcRequest):
    """Find what no dataset and no model has needed for a month, unless the form says otherwise."""

    older_than: OlderThan = "30d"
