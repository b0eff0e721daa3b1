"""The transformer, as scikit-learn's own tools use it."""

import pickle
import warnings

import numpy as np
import pytest
from PIL import Image as Pillow
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_checks

import headstart
from flows.api import bottleneck
from tests.factories import a_photo, encoded


@pytest.fixture
def pictures(first_run):
    """Paths and labels of a dataset whose features are stored."""
    paths = sorted(first_run.folder.glob("*/*"))
    return paths, [path.parent.name for path in paths]


@pytest.fixture
def features(again):
    return headstart.BottleneckFeatures(workspace=again.workspace)


@pytest.fixture
def passes(monkeypatch):
    """Count pictures that run through a network."""
    counted = []
    compute = bottleneck.compute

    def counting(workspace, store, images, *others):
        counted.append(len(images))
        return compute(workspace, store, images, *others)

    monkeypatch.setattr(bottleneck, "compute", counting)
    return counted


def test_a_pipeline_fits_and_predicts_and_what_is_stored_runs_no_network(features, pictures, passes):
    paths, labels = pictures
    classifier = make_pipeline(features, LogisticRegression(max_iter=1000))
    assert classifier.fit(paths, labels).score(paths, labels) == 1.0
    assert passes == []


def test_a_second_fit_runs_no_network(warm_workspace, pictures, passes):
    paths, labels = pictures
    classifier = make_pipeline(
        headstart.BottleneckFeatures(workspace=warm_workspace), LogisticRegression(max_iter=1000)
    )
    classifier.fit(paths, labels)
    assert sum(passes) == len(paths)
    clone(classifier).fit(paths, labels)
    assert sum(passes) == len(paths)


def test_cross_validation_computes_each_picture_once(warm_workspace, pictures, passes):
    paths, labels = pictures
    classifier = make_pipeline(
        headstart.BottleneckFeatures(workspace=warm_workspace), LogisticRegression(max_iter=1000)
    )
    scores = cross_val_score(classifier, paths, labels, cv=3)
    assert scores.mean() > 0.8
    assert sum(passes) == len(paths)


def test_features_are_those_of_the_store(features, first_run, again):
    stored = headstart.features(first_run.folder, workspace=again.workspace)
    paths = [*stored.paths]
    np.testing.assert_array_equal(features.transform(paths), stored.X)
    assert stored.X.dtype == np.float32


def test_taps_stand_side_by_side_with_names(again, pictures):
    paths, _ = pictures
    several = headstart.BottleneckFeatures(taps=["stage3_gap", "top"], workspace=again.workspace)
    alone = [headstart.BottleneckFeatures(taps=name, workspace=again.workspace) for name in ("stage3_gap", "top")]
    found = several.fit_transform(paths)
    np.testing.assert_array_equal(found, np.hstack([one.fit_transform(paths) for one in alone]))
    names = several.get_feature_names_out()
    assert len(names) == found.shape[1]
    assert (names[0], names[-1]) == ("stage3_gap_0", "top_1279")


def test_arrays_give_the_features_of_the_same_pixels_in_a_file(features, tmp_path):
    photo = np.asarray(a_photo(7, size=(50, 40)))
    path = tmp_path / "7.png"
    path.write_bytes(encoded(Pillow.fromarray(photo), "PNG"))
    np.testing.assert_allclose(features.transform(photo[None]), features.transform([path]), atol=1e-3)
    grey = features.transform([photo[..., 0]])
    np.testing.assert_allclose(grey, features.transform([np.repeat(photo[..., :1], 3, axis=2)]), atol=1e-3)


def test_the_same_picture_twice_is_computed_once_and_has_two_rows(warm_workspace, passes):
    photo = np.asarray(a_photo(9))
    found = headstart.BottleneckFeatures(workspace=warm_workspace).transform([photo, photo])
    assert passes == [1]
    np.testing.assert_array_equal(found[0], found[1])


def test_it_can_be_cloned_and_pickled(features, pictures):
    paths, labels = pictures
    fitted = features.fit(paths, labels)
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.transform(paths), fitted.transform(paths))
    assert clone(fitted).get_params() == features.get_params()


@pytest.mark.parametrize(
    ("X", "reason"),
    [
        ([], "0 sample"),
        ("one.jpg", "give a list of one path"),
        (np.zeros((3, 4)), "array of float64 of shape (3, 4)"),
        ([np.zeros((4, 4, 3))], "Picture 0 of X is float64 of shape (4, 4, 3)"),
        (7, "X is int"),
    ],
)
def test_what_is_no_picture_is_refused_with_what_was_wanted(features, X, reason):
    with pytest.raises(headstart.DataError) as caught:
        features.transform(X)
    assert reason in str(caught.value)


def test_a_file_that_cannot_be_used_is_named(features, pictures, tmp_path):
    (tmp_path / "notes.jpg").write_text("no picture")
    with pytest.raises(headstart.DataError, match=r"2 of the pictures cannot be used: .*gone\.jpg .*; .*notes\.jpg "):
        features.transform([*pictures[0], tmp_path / "gone.jpg", tmp_path / "notes.jpg"])


@pytest.mark.parametrize("parameter", [{"taps": ["topp"]}, {"backbone": "resnet5"}, {"recipe": "exactly"}])
def test_a_parameter_that_names_nothing_is_an_error_at_fit(parameter, again, pictures):
    with pytest.raises(headstart.UnknownNameError, match="Unknown"):
        headstart.BottleneckFeatures(workspace=again.workspace, **parameter).fit(pictures[0])


class _OfRows(headstart.BottleneckFeatures):
    """The transformer for checks that give tables of numbers: every row becomes a small grey picture."""

    def fit(self, X, y=None):
        return super().fit(_as_pictures(X), y)

    def transform(self, X):
        return super().transform(_as_pictures(X))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array, tags.input_tags.two_d_array, tags.no_validation = False, True, False
        return tags


def _as_pictures(X):
    rows = np.asarray(X, np.float64)
    return [np.resize((row * 40 + 100).clip(0, 255).astype(np.uint8), (16, 16)) for row in rows]


OF_ANY_ESTIMATOR = {
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_estimator_repr",
    "check_estimator_tags_renamed",
    "check_get_params_invariance",
    "check_mixin_order",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_set_params",
    "check_transformer_n_iter",
    "check_valid_tag_types",
}
OF_ROWS = {
    "check_dict_unchanged",
    "check_dont_overwrite_parameters",
    "check_estimators_fit_returns_self",
    "check_estimators_overwrite_params",
    "check_estimators_pickle",
    "check_f_contiguous_array_estimator",
    "check_fit2d_1feature",
    "check_fit2d_1sample",
    "check_fit_idempotent",
    "check_fit_score_takes_y",
    "check_methods_sample_order_invariance",
    "check_methods_subset_invariance",
    "check_pipeline_consistency",
    "check_readonly_memmap_input",
    "check_transformer_general",
    "check_transformers_unfitted_stateless",
}
NOT_ASKED = {  # what they ask of tables of numbers has no meaning for pictures
    "check_array_api_input": "other libraries' arrays are no pictures",
    "check_complex_data": "complex numbers are no pixels: refused by the type of the array",
    "check_dtype_object": "an array of objects holds paths here, not numbers",
    "check_estimator_sparse_array": "a sparse matrix is no picture",
    "check_estimator_sparse_matrix": "a sparse matrix is no picture",
    "check_estimator_sparse_tag": "a sparse matrix is no picture",
    "check_estimators_dtypes": "pixels are uint8",
    "check_estimators_empty_data_messages": "asks for a message about a table without columns",
    "check_estimators_nan_inf": "uint8 has no NaN and no infinity",
    "check_fit1d": "wants a list of numbers refused, where a list of paths is what is wanted",
    "check_fit2d_predict1d": "likewise",
    "check_fit_check_is_fitted": "there is nothing to fit, so transform works without",
    "check_n_features_in": "pictures have no number of columns",
    "check_n_features_in_after_fitting": "likewise",
    "check_positive_only_tag_during_fit": "uint8 has no negative numbers",
    "check_transformer_data_not_an_array": "gives a table that is no array",
    "check_transformer_preserve_dtypes": "features are float32 whatever the pixels are",
}


def _checks(estimator):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = list(estimator_checks._yield_all_checks(estimator, legacy=True))
    return {getattr(check, "func", check).__name__ for check in found}


def test_every_check_of_scikit_learn_is_asked_or_has_its_reason_why_not(features):
    assert _checks(_OfRows()) - {"check_estimator_cloneable"} == OF_ANY_ESTIMATOR | OF_ROWS | set(NOT_ASKED)


@pytest.mark.parametrize("name", sorted(OF_ANY_ESTIMATOR | OF_ROWS))
def test_it_passes_the_check_of_scikit_learn(name, again):
    kind = _OfRows if name in OF_ROWS else headstart.BottleneckFeatures
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        getattr(estimator_checks, name)("BottleneckFeatures", kind(taps=["stage3_gap"], workspace=again.workspace))
