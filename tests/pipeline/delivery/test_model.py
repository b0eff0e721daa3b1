import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from pipeline.errors import DamagedError, NumericsError
from tests.factories import a_head, a_photo, a_recipe, an_image, encoded

pytestmark = pytest.mark.heavy

# one shape of picture a line: wide, tall, odd, smaller and larger than the network's square
SIZES = ((300, 200), (199, 301), (225, 223), (40, 32), (224, 224), (31, 97))

RECIPE = a_recipe(size=224)

PLAIN_KERAS = """
import sys
import keras
import numpy as np
model = keras.models.load_model(sys.argv[1])
pictures = np.load(sys.argv[2])
rows = [np.asarray(model(pictures[name][None].astype("float32")))[0] for name in sorted(pictures.files)]
np.save(sys.argv[3], np.stack(rows))
assert not {"pipeline", "storage", "flows"} & set(sys.modules)
"""


@pytest.fixture(scope="module")
def files():
    """Encoded pictures of several sizes."""
    return [encoded(a_photo(number, size)) for number, size in enumerate(SIZES)]


@pytest.fixture(scope="module")
def features(files, engine, spec):
    """What the cached path reads for the files."""
    from pipeline.images.decode import decode, prepare

    return engine.run(np.stack([prepare(decode(data, spec.recipe), spec.recipe) for data in files]))


@pytest.fixture(scope="module")
def head(spec, features):
    """A head on a gap tap and a grid tap, with biases that give every class its share of the files."""
    from pipeline.heads.fit import head_scores

    raw = a_head([tap for tap in spec.taps if tap.name in ("top", "stage5_grid")])
    surplus = head_scores(raw, features).mean(axis=0)
    return replace(raw, taps=tuple(replace(part, bias=part.bias - surplus) for part in raw.taps))


@pytest.fixture(scope="module")
def expected(head, features):
    """What the cached path says of the files."""
    from pipeline.heads.fit import head_probabilities

    return head_probabilities(head, features)


@pytest.fixture(scope="module")
def model_file(spec, head, tmp_path_factory):
    """A delivered model."""
    return save(spec, head, tmp_path_factory.mktemp("model"))


def save(spec, head, folder):
    from pipeline.delivery.model import build_model

    path = folder / "model.keras"
    build_model(spec, head).save(path)
    return path


def certify(path, files, expected, gone=(), recipe=RECIPE):
    from pipeline.delivery.model import certify

    def read(image):
        if image.path in gone:
            raise FileNotFoundError(image.path)
        return files[int(image.path)]

    rows = [3, 1, 0, 2, 5, 4]  # any order: a row belongs to the image beside it
    return certify(path, [an_image(row, path=str(row)) for row in rows], read, recipe, expected, rows)


def test_the_pictures_of_this_test_are_not_all_one_class(expected):
    # else a model that ignores its input could pass
    assert len(set(expected.argmax(axis=1))) > 1
    assert expected.max(axis=1).min() < 0.95 < expected.max()


def test_plain_keras_gives_the_probabilities_of_the_cached_path(model_file, files, expected, tmp_path):
    from pipeline.images.decode import decode

    pictures = {f"{number}": np.asarray(decode(data, RECIPE)) for number, data in enumerate(files)}
    np.savez(tmp_path / "pictures.npz", **pictures)
    command = [sys.executable, "-c", PLAIN_KERAS, model_file, tmp_path / "pictures.npz", tmp_path / "found.npy"]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    found = np.load(tmp_path / "found.npy")
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-3  # float16 features would cost up to 3e-4, the engine 1e-5
    assert np.allclose(found.sum(axis=1), 1, atol=1e-5)


def test_a_right_model_gets_its_certificate(model_file, files, expected):
    found = certify(model_file, files, expected)
    assert (found.num_images, found.argmax_agreement, found.passed) == (6, 1.0, True)
    assert found.max_difference < found.tolerance == 1e-3


def test_a_picture_whose_file_is_gone_is_passed_over(model_file, files, expected):
    assert certify(model_file, files, expected, gone={"3", "0"}).num_images == 4


def test_without_any_picture_there_is_no_certificate(model_file, files, expected):
    with pytest.raises(NumericsError, match="None of 6 pictures could be read"):
        certify(model_file, files, expected, gone={str(row) for row in range(6)})


def test_a_certificate_is_given_for_the_pixels_that_were_trained_on(model_file, head, engine):
    from pipeline.heads.fit import head_probabilities
    from pipeline.images.decode import SCALED, decode, prepare

    scaled = replace(RECIPE, decoder=SCALED)
    large = [encoded(a_photo(number, (900, 910)), "JPEG") for number in range(6)]
    pixels = np.stack([prepare(decode(data, scaled), scaled) for data in large])
    expected = head_probabilities(head, engine.run(pixels))
    assert certify(model_file, large, expected, recipe=scaled).max_difference < 1e-4
    with pytest.raises(NumericsError, match="differs from the cached path"):
        certify(model_file, large, expected, recipe=RECIPE)


def test_labels_that_do_not_exclude_each_other_have_probabilities_of_their_own(spec, head, features, files, tmp_path):
    from pipeline.delivery.model import certify
    from pipeline.heads.fit import head_probabilities

    several = replace(head, temperature=1.0, activation="sigmoid", thresholds=(0.5, 0.5, 0.5))
    expected = head_probabilities(several, features)
    assert np.ptp(expected.sum(axis=1)) > 0.1
    path, images = save(spec, several, tmp_path), [an_image(row, path=str(row)) for row in range(6)]
    found = certify(path, images, lambda image: files[int(image.path)], RECIPE, expected, range(6), several.thresholds)
    assert (found.num_images, found.argmax_agreement, found.passed) == (6, 1.0, True)


def wrong_size(spec, head):
    return replace(spec, recipe=replace(spec.recipe, size=192)), head


def swapped_classes(spec, head):
    first, *rest = head.taps
    return spec, replace(head, taps=(replace(first, weight=first.weight[:, ::-1]), *rest))


def without_the_square_root(spec, head):
    return spec, replace(head, taps=tuple(replace(part, kind="grid") for part in head.taps))


@pytest.mark.parametrize(
    "mistake",
    [wrong_size, swapped_classes, without_the_square_root],
    ids=lambda mistake: mistake.__name__,
)
def test_a_model_with_one_mistake_is_refused(spec, head, files, expected, tmp_path, mistake):
    path = save(*mistake(spec, head), tmp_path)
    with pytest.raises(NumericsError, match=r"differs from the cached path by .* it was not saved"):
        certify(path, files, expected)


def test_pictures_turned_upside_down_are_refused(model_file, files, expected):
    from pipeline.images.decode import decode

    turned = [encoded(decode(data, RECIPE).rotate(180)) for data in files]
    with pytest.raises(NumericsError, match="differs from the cached path"):
        certify(model_file, turned, expected)


@pytest.mark.parametrize("content", [b"", b"no model", None], ids=["empty", "text", "another model"])
def test_a_file_that_is_no_delivered_model_is_refused(keras, tmp_path, content):
    from pipeline.delivery.model import read_model

    path = tmp_path / "model.keras"
    if content is None:
        keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(path)
    else:
        path.write_bytes(content)
    with pytest.raises(DamagedError, match="no model that headstart can run"):
        read_model(path)


def test_code_hidden_in_a_model_file_is_not_run(keras, tmp_path):
    from pipeline.delivery.model import read_model

    path = tmp_path / "model.keras"
    image = keras.Input((2,))
    keras.Model(image, keras.layers.Lambda(lambda x: x * 2)(image)).save(path)
    with pytest.raises(DamagedError, match="no model that headstart can run"):
        read_model(path)
