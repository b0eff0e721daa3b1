import numpy as np
import pytest

from pipeline.backbones.table import get_backbone
from tests.factories import a_photo, encoded

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def pixels():
    """Eleven pictures as pixels: one full batch and a rest."""
    from pipeline.images.decode import decode, prepare

    recipe = get_backbone("efficientnet_lite0").recipe
    return np.stack([prepare(decode(encoded(a_photo(number, (90, 70))), recipe), recipe) for number in range(11)])


@pytest.fixture(scope="module")
def features(engine, pixels):
    return engine.run(pixels)


def test_every_tap_is_computed_for_every_row(features, spec):
    assert {name: rows.shape for name, rows in features.items()} == {tap.name: (11, tap.dim) for tap in spec.taps}
    assert all(rows.dtype == np.float32 and np.isfinite(rows).all() for rows in features.values())


def test_a_pictures_numbers_do_not_depend_on_how_full_its_batch_is(engine, pixels, features):
    for row in (0, 10):
        alone = engine.run(pixels[row : row + 1])
        for name, rows in features.items():
            assert np.array_equal(alone[name][0], rows[row]), name


def test_a_pictures_numbers_do_not_depend_on_its_neighbours(engine, pixels, features):
    odd = np.full_like(pixels[:1], 255)
    found = engine.run(np.concatenate([odd, pixels[3:4], odd, odd]))
    for name, rows in features.items():
        assert np.array_equal(found[name][1], rows[3]), name


def test_nor_do_they_depend_on_the_place_in_the_batch_beyond_rounding(engine, pixels, features):
    from pipeline.engine.canary import relative_difference

    found = engine.run(pixels[::-1])
    for name, rows in features.items():
        assert relative_difference(found[name][::-1], rows) < 1e-6, name


@pytest.mark.parametrize(("batch", "streams", "threads"), [(1, 1, 1), (3, 2, 2), (32, 0, 0)])
def test_a_pictures_numbers_do_not_depend_on_the_tuning_beyond_rounding(
    engine_folder, pixels, features, batch, streams, threads
):
    from pipeline.engine.canary import relative_difference
    from pipeline.engine.files import TAPS_FILE
    from pipeline.engine.openvino_engine import Engine, Tuning

    tuned = Engine.load(engine_folder / TAPS_FILE, Tuning(batch, streams, threads))
    assert tuned.batch == batch
    found = tuned.run(pixels)
    for name, rows in features.items():
        assert relative_difference(found[name], rows) < 1e-6, name


def test_the_number_of_streams_is_what_the_tuning_says(engine_folder):
    from pipeline.engine.files import TAPS_FILE
    from pipeline.engine.openvino_engine import Engine, Tuning

    requests = [Engine.load(engine_folder / TAPS_FILE, Tuning(1, n, n)).num_requests for n in (1, 2)]
    assert requests == [2, 3]  # one more than run at a time


def test_compiling_leaves_the_network_as_it_was(engine_folder):
    from pipeline.engine.files import TAPS_FILE
    from pipeline.engine.openvino_engine import Engine
    from pipeline.quiet_openvino import ov

    network = ov.Core().read_model(engine_folder / TAPS_FILE)
    before = str(network.input().partial_shape)
    Engine(network)
    assert str(network.input().partial_shape) == before == "[?,224,224,3]"


def test_no_rows_give_no_rows(engine, pixels, spec):
    assert {name: rows.shape for name, rows in engine.run(pixels[:0]).items()} == {
        tap.name: (0, tap.dim) for tap in spec.taps
    }


def test_a_stream_keeps_the_order_and_the_tags(engine, pixels, features):
    batches = [(("tag", row), pixels[row : row + 1]) for row in range(11)]
    streamed = list(engine.stream(batches))
    assert [tag for tag, _ in streamed] == [tag for tag, _ in batches]
    found = np.concatenate([outputs["top"] for _, outputs in streamed])
    assert np.array_equal(found, features["top"])


def test_a_stream_of_nothing_is_empty(engine):
    assert list(engine.stream([])) == []


def test_a_stream_asks_for_batches_only_as_it_runs_them(engine, pixels):
    asked = 0

    def batches():
        nonlocal asked
        for number in range(100):
            asked += 1
            yield number, pixels[:1]

    stream = engine.stream(batches())
    assert asked == 0
    tag, _ = next(stream)
    first = asked
    assert tag == 0
    assert first < 100  # as many as run at a time, and one more
    for position in range(1, 4):
        assert next(stream)[0] == position
        assert asked == first + position
    stream.close()


def test_outputs_stay_as_they_are_while_the_stream_goes_on(engine, pixels, features):
    # a request's memory is used again by a later batch
    streamed = list(engine.stream((row, pixels[row : row + 1]) for row in range(11)))
    assert all(np.array_equal(outputs["top"][0], features["top"][row]) for row, outputs in streamed)


def test_keras_computes_the_same_numbers(keras, backbone, spec, pixels, features):
    from pipeline.backbones.networks import tap_outputs
    from pipeline.engine.canary import relative_difference
    from pipeline.engine.conversion import TOLERANCE

    network = keras.Model(backbone.input, tap_outputs(backbone, spec.taps))
    for name, rows in network(pixels, training=False).items():
        assert relative_difference(features[name], np.asarray(rows)) < TOLERANCE / 10, name


def test_the_conversion_is_refused_when_the_two_disagree(keras, tmp_path):
    from pipeline.engine.conversion import convert_classifier
    from pipeline.errors import NumericsError
    from tests.factories import a_recipe

    image = keras.Input((32, 32, 3))
    # a network that makes everything of the last bit of its input, and so never computes the same elsewhere
    brightness = keras.ops.mean(image, (1, 2, 3), keepdims=True)
    chaotic = keras.ops.sin(1e8 * keras.layers.Flatten()(brightness))
    with pytest.raises(NumericsError, match="OpenVINO computes 'probabilities'"):
        convert_classifier(keras.Model(image, chaotic), a_recipe(), tmp_path)
    assert not list(tmp_path.iterdir())
