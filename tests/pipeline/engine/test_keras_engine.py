import threading

import numpy as np
import pytest

pytestmark = pytest.mark.heavy

BATCH = 4


@pytest.fixture(scope="module")
def pixels(spec):
    """Nine pictures as pixels: two full batches and a rest."""
    from pipeline.engine.canary import canary_pictures
    from pipeline.images.decode import decode, prepare

    pictures = [prepare(decode(data, spec.recipe), spec.recipe) for data in canary_pictures()]
    return np.stack([np.roll(picture, shift, axis=1) for shift in (0, 31, 90) for picture in pictures])


@pytest.fixture(scope="module")
def keras_engine(spec):
    from pipeline.engine.keras_engine import load_keras_engine

    return load_keras_engine(spec, BATCH)


@pytest.fixture(scope="module")
def features(keras_engine, pixels):
    return keras_engine.run(pixels)


def test_it_computes_what_openvino_computes(features, engine, pixels):
    from pipeline.engine.canary import relative_difference
    from pipeline.engine.conversion import TOLERANCE

    wanted = engine.run(pixels)
    assert features.keys() == wanted.keys()
    for name, rows in features.items():
        assert rows.dtype == np.float32
        assert relative_difference(rows, wanted[name]) < TOLERANCE, name


def test_a_pictures_numbers_do_not_depend_on_its_neighbours(keras_engine, pixels, features):
    white = np.full_like(pixels[:1], 255)
    alone, among = keras_engine.run(pixels[8:]), keras_engine.run(np.concatenate([pixels[8:], white]))
    for name, rows in features.items():
        assert np.array_equal(alone[name][0], rows[8]), name
        assert np.array_equal(among[name][0], rows[8]), name


def test_no_rows_give_no_rows(keras_engine, pixels, spec):
    assert {name: rows.shape for name, rows in keras_engine.run(pixels[:0]).items()} == {
        tap.name: (0, tap.dim) for tap in spec.taps
    }


def test_a_stream_keeps_the_order_and_the_tags(keras_engine, pixels, features):
    streamed = list(keras_engine.stream((row, pixels[row : row + 1]) for row in range(9)))
    assert [tag for tag, _ in streamed] == list(range(9))
    assert np.array_equal(np.concatenate([outputs["top"] for _, outputs in streamed]), features["top"])


def test_a_stream_asks_for_few_batches_ahead_and_stops_with_its_reader(keras_engine, pixels):
    from pipeline.engine.keras_engine import NUM_AHEAD

    asked = []
    stream = keras_engine.stream((asked.append(number) or number, pixels[:1]) for number in range(50))
    assert not asked
    for position in range(3):
        assert next(stream)[0] == position
        assert len(asked) == position + NUM_AHEAD
    stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_a_network_is_traced_once(keras_engine, pixels):
    before = keras_engine._compute.experimental_get_tracing_count()
    keras_engine.run(pixels[:5])
    assert keras_engine._compute.experimental_get_tracing_count() == before == 1


def test_tf32_is_off(keras_engine):
    from pipeline.quiet_keras import tf

    assert not tf.config.experimental.tensor_float_32_execution_enabled()


def test_it_serves_the_extraction_and_the_canary_of_the_other_engine(keras_engine, engine, spec):
    from pipeline.engine.canary import check_canary
    from pipeline.engine.extract import canary_block, extract_features
    from pipeline.fingerprint import digest
    from tests.factories import a_photo, an_image, encoded

    files = [encoded(a_photo(number)) for number in range(6)]
    images = [an_image(number, digest=digest(data), path=str(number)) for number, data in enumerate(files)]
    blocks = list(extract_features(images, lambda image: files[int(image.path)], spec.recipe, keras_engine))
    assert [len(block.digests) for block in blocks] == [4, 2]
    check_canary(canary_block(spec.recipe, keras_engine), canary_block(spec.recipe, engine))
