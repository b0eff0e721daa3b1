import json
from dataclasses import asdict

import pytest

from pipeline.errors import DamagedError
from pipeline.types import DECODERS, Recipe
from storage.models.bundles import RECIPE_FILE, read_classes, read_recipe, read_thresholds, write_bundle_files
from tests.factories import rewrite_document

RECIPE = Recipe(size=240)


def change(folder, **fields):
    path = folder / RECIPE_FILE
    rewrite_document(path, recipe=json.loads(path.read_text())["recipe"] | fields)


@pytest.mark.parametrize("decoder", DECODERS.values())
def test_what_was_written_is_read_back(tmp_path, decoder):
    recipe = Recipe(size=240, decoder=decoder)
    write_bundle_files(tmp_path, ["cats", "dogs"], recipe)
    assert read_recipe(tmp_path) == recipe
    assert read_classes(tmp_path) == ("cats", "dogs")


@pytest.mark.parametrize("field", [field for field in asdict(RECIPE) if field != "size"])
def test_a_recipe_that_this_version_does_not_follow_is_refused(tmp_path, field):
    write_bundle_files(tmp_path, ["cats", "dogs"], RECIPE)
    change(tmp_path, **{field: "another"})
    with pytest.raises(DamagedError, match=r"was made with the recipe .*another.*Train the model again"):
        read_recipe(tmp_path)


def test_so_is_one_with_a_field_that_this_version_does_not_know(tmp_path):
    write_bundle_files(tmp_path, ["cats", "dogs"], RECIPE)
    change(tmp_path, colours="grey")
    with pytest.raises(DamagedError, match="Train the model again"):
        read_recipe(tmp_path)


def test_thresholds_are_read_back_and_classes_that_exclude_each_other_have_none(tmp_path):
    write_bundle_files(tmp_path, ["cats", "dogs"], RECIPE, [0.25, 0.5])
    assert (read_classes(tmp_path), read_thresholds(tmp_path)) == (("cats", "dogs"), (0.25, 0.5))
    write_bundle_files(tmp_path, ["cats", "dogs"], RECIPE)
    assert read_thresholds(tmp_path) == ()
