import threading
from collections import deque
from dataclasses import replace

import numpy as np
import pytest

from pipeline.fingerprint import digest
from pipeline.images.ahead import DECODE_AHEAD
from tests.factories import a_photo, a_recipe, an_image, encoded

pytestmark = pytest.mark.heavy


class Echo:
    """An engine whose one feature is the brightness, and that has three batches on their way."""

    def __init__(self, batch=8):
        self.batch = batch

    def run(self, pixels):
        return {"top": np.asarray(pixels).mean(axis=(1, 2, 3))[:, None]}

    def stream(self, batches):
        running = deque()
        for tag, pixels in batches:
            running.append((tag, self.run(pixels)))
            if len(running) == 3:
                yield running.popleft()
        yield from running


def pictures(number):
    """Images and their files' bytes by path; every picture is of one grey of its own."""
    files, images = {}, []
    for place in range(number):
        data = encoded(a_photo(place, (4, 4), (20 + place % 200,) * 3))
        image = an_image(place, digest=digest(data), path=f"cats/{place:04d}.png")
        files[image.path] = data
        images.append(image)
    return images, files


def run(images, read, engine):
    from pipeline.engine.extract import extract_features

    return list(extract_features(images, read, a_recipe(), engine))


def reader(files):
    def read(image):
        try:
            return files[image.path]
        except KeyError:
            raise FileNotFoundError(2, "No such file or directory") from None

    return read


def test_every_image_gets_its_own_features_in_order():
    images, files = pictures(21)
    blocks = run(images, reader(files), Echo())
    assert [digest for block in blocks for digest in block.digests] == [image.digest for image in images]
    assert [len(block.digests) for block in blocks] == [8, 8, 5]
    alone = [run([image], reader(files), Echo())[0].taps["top"][0] for image in images]
    assert np.array_equal(np.concatenate([block.taps["top"] for block in blocks]), alone)


def test_the_engine_says_how_many_rows_a_block_has():
    images, files = pictures(21)
    blocks = run(images, reader(files), Echo(batch=10))
    assert [len(block.digests) for block in blocks] == [10, 10, 1]


def test_a_bad_a_vanished_and_a_changed_file_cost_their_own_rows_only():
    images, files = pictures(20)
    bad, vanished, changed = images[3], images[9], images[15]
    cut = files[bad.path][:30]
    files[bad.path] = cut
    images[3] = bad = replace(bad, digest=digest(cut))
    del files[vanished.path]
    files[changed.path] = files[images[0].path]

    blocks = run(images, reader(files), Echo())

    rest = [image.digest for image in images if image not in (bad, vanished, changed)]
    assert [digest for block in blocks for digest in block.digests] == rest
    assert all(len(block.taps["top"]) == len(block.digests) for block in blocks)
    ((found, reason),) = [row for block in blocks for row in block.rejected]
    assert found == bad.digest
    assert reason
    unread = [item for block in blocks for item in block.unread]
    assert [item.path for item in unread] == [vanished.path, changed.path]
    assert [item.reason.split()[0] for item in unread] == ["cannot", "changed"]


@pytest.mark.parametrize("number", [1, 8, 100])
def test_where_every_file_fails_every_failure_is_told_once(number):
    images, files = pictures(number)
    blocks = run(images, reader({}), Echo())
    assert [block.digests for block in blocks] == [()]
    assert [block.taps["top"].shape for block in blocks] == [(0, 1)]  # every tap, as the store wants it
    assert [item.path for item in blocks[0].unread] == list(files)


def test_nothing_to_do_gives_no_block():
    assert run([], reader({}), Echo()) == []


def test_files_are_read_only_a_window_ahead_of_the_features():
    from pipeline.engine.extract import extract_features

    images, files = pictures(400)
    lock, reads, rows = threading.Lock(), 0, 0

    def read(image):
        nonlocal reads
        with lock:
            reads += 1
        return files[image.path]

    for block in extract_features(images, read, a_recipe(), Echo()):
        # three batches on their way in the engine; decoded pictures and the batch being filled before it
        assert reads <= rows + 3 * 8 + DECODE_AHEAD
        rows += len(block.digests)
    assert reads == rows == 400


def test_a_consumer_that_stops_ends_the_decoding():
    from pipeline.engine.extract import extract_features

    images, files = pictures(200)
    blocks = extract_features(images, reader(files), a_recipe(), Echo())
    next(blocks)
    blocks.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_the_real_engine_does_the_same(engine, spec):
    from pipeline.engine.extract import extract_features

    images, files = pictures(19)
    del files[images[2].path]
    blocks = list(extract_features(images, reader(files), spec.recipe, engine))
    assert [digest for block in blocks for digest in block.digests] == [i.digest for i in images if i != images[2]]
    assert {name for block in blocks for name in block.taps} == {tap.name for tap in spec.taps}
    assert [item.path for block in blocks for item in block.unread] == [images[2].path]


def test_the_canary_of_one_machine_is_the_same_twice(engine, spec):
    from pipeline.engine.canary import canary_pictures, check_canary
    from pipeline.engine.extract import canary_block

    one, other = canary_block(spec.recipe, engine), canary_block(spec.recipe, engine)
    check_canary(one, other)
    assert one.digests == tuple(digest(data) for data in canary_pictures())


def test_the_built_in_pictures_tell_decoders_apart():
    from pipeline.engine.extract import canary_block
    from pipeline.images.decode import SCALED

    class Pixels(Echo):
        def run(self, pixels):
            return {"pixels": pixels.reshape(len(pixels), -1)}

    exact, scaled = (canary_block(recipe, Pixels()) for recipe in (a_recipe(), a_recipe(decoder=SCALED)))
    differences = np.abs(exact.taps["pixels"] - scaled.taps["pixels"]).mean(axis=1)
    assert (differences > 0.1).tolist() == [True, True, False]  # two JPEGs and a PNG


class _Dimmed:
    """The engine behind a decoder that is three grey levels too dark."""

    def __init__(self, engine):
        self._engine = engine

    def run(self, pixels):
        return self._engine.run(np.clip(pixels - 3, 0, 255))


def test_a_decoder_that_is_three_grey_levels_darker_fails_the_canary(spec, engine):
    from pipeline.engine.canary import check_canary
    from pipeline.engine.extract import canary_block
    from pipeline.errors import NumericsError

    stored = canary_block(spec.recipe, engine)
    darker = canary_block(spec.recipe, _Dimmed(engine))
    with pytest.raises(NumericsError, match="This machine computes"):
        check_canary(darker, stored)
