"""The files beside the record in a model's folder: class names, thresholds, recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pipeline.errors import DamagedError
from pipeline.types import DECODERS, Recipe
from storage.disk.documents import read_json, write_json

MODEL_FILE = "model.keras"
CLASSES_FILE = "classes.json"
RECIPE_FILE = "recipe.json"
REPORT_FILE = "report.md"

CLASSES_FORMAT = "headstart.classes"
RECIPE_FORMAT = "headstart.recipe"
VERSION = 1


def write_bundle_files(folder: Path, classes: Sequence[str], recipe: Recipe, thresholds: Sequence[float] = ()) -> None:
    """Write what is needed to predict with a model; classes with thresholds do not exclude each other."""
    document = {"classes": list(classes), **({"thresholds": list(thresholds)} if thresholds else {})}
    write_json(folder / CLASSES_FILE, document, CLASSES_FORMAT, VERSION)
    write_json(folder / RECIPE_FILE, {"recipe": asdict(recipe)}, RECIPE_FORMAT, VERSION)


def read_classes(folder: Path) -> tuple[str, ...]:
    """Read the class names, in the order of the model's outputs."""
    return tuple(read_json(folder / CLASSES_FILE, CLASSES_FORMAT, VERSION)["classes"])


def read_thresholds(folder: Path) -> tuple[float, ...]:
    """Read the probability from which each label is given; empty if classes exclude each other."""
    return tuple(read_json(folder / CLASSES_FILE, CLASSES_FORMAT, VERSION).get("thresholds", ()))


def read_recipe(folder: Path) -> Recipe:
    """Read how files become pixels.

    Raises
    ------
    DamagedError
        When the model was made with a recipe that this version does not follow.
    """
    fields = read_json(folder / RECIPE_FILE, RECIPE_FORMAT, VERSION)["recipe"]
    followed = [Recipe(size=fields["size"], decoder=decoder) for decoder in DECODERS.values()]
    for recipe in followed:
        if asdict(recipe) == fields:
            return recipe
    raise DamagedError(
        f"{folder} was made with the recipe {fields}, this version of headstart follows {asdict(followed[0])} and "
        f"the decoders {', '.join(DECODERS.values())}. Train the model again, or use the version in its record."
    )
