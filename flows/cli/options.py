"""Options and arguments that commands share, with their help."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from flows.settings import HOME_VARIABLE
from pipeline.backbones.table import AUTO, DEFAULT_BACKBONE, SIZES

WorkspaceOption = Annotated[
    str | None,
    typer.Option("--workspace", "-w", help=f"Folder for everything we write (default: {HOME_VARIABLE}, or your own)."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
NameOption = Annotated[str | None, typer.Option("--name", "-n", help="Name of the dataset (default: the folder's).")]
ANY_BACKBONE = f"{DEFAULT_BACKBONE}, or a network of keras.applications such as resnet50."
BackboneOption = Annotated[
    str,
    typer.Option(
        "--backbone",
        "-b",
        help=f"{ANY_BACKBONE} {AUTO}: compare those that are here on a sample and take the best.",
    ),
]
AutoMinutesOption = Annotated[
    float, typer.Option("--auto-minutes", metavar="M", min=0, help=f"What --backbone {AUTO} may take, about.")
]
RehashOption = Annotated[bool, typer.Option("--rehash", help="Read every file again, whatever its size and time say.")]
WeightsOption = Annotated[
    str | None,
    typer.Option(
        "--weights", help="Of a backbone that is not embedded: imagenet (downloaded by Keras), none, or a file."
    ),
]
RecipeOption = Annotated[
    Literal["exact", "scaled"],
    typer.Option("--recipe", help="scaled: decode large JPEGs smaller; faster, slightly other numbers."),
]
SizeOption = Annotated[
    int | None,
    typer.Option(
        "--size",
        metavar="PIXELS",
        help=f"Side of the square given to the network, a multiple of {SIZES.step} from {SIZES[0]} to {SIZES[-1]} "
        "(default: its own).",
    ),
]
ViewsOption = Annotated[
    int, typer.Option("--views", min=0, max=64, help="Augmented views of each training picture to cache and train on.")
]
RunnerOption = Annotated[
    str | None,
    typer.Option(
        "--runner",
        metavar="dask[=ADDRESS]",
        help="Extract on a Dask cluster, or without ADDRESS on processes of this machine. "
        "Workspace and pictures must be on storage that all workers share.",
    ),
]
CaseOption = Annotated[
    int | None,
    typer.Option("--case", min=1, max=4, help="Treat the data as this case, whatever was measured. Kept in the plan."),
]
StrategyOption = Annotated[
    Literal["head-on-top", "head-on-evidence", "fine-tune", "fine-tune-or-scratch"] | None,
    typer.Option("--strategy", help="Do this, whatever the case says. Kept in the plan."),
]
SubmitOption = Annotated[bool, typer.Option("--submit", help="Hand the job to a Prefect server instead.")]
WaitOption = Annotated[
    bool, typer.Option("--wait", help="With --submit: return when the run has ended, with the exit code of its end.")
]
FolderArgument = Annotated[
    str, typer.Argument(metavar="DIR", help="A folder per class, train/val/test folders of such, or a CSV table.")
]
BackboneArgument = Annotated[str, typer.Argument(help=ANY_BACKBONE)]
