import threading
from concurrent.futures import Future
from dataclasses import replace

import pytest

from pipeline.fingerprint import digest
from pipeline.images.ahead import DECODE_AHEAD, Unusable, batched, decode_image, identify_file, work_ahead
from pipeline.images.decode import MAX_BYTES
from tests.factories import a_file, a_photo, a_recipe, an_image, encoded, write_photo

DATA = encoded(a_photo(1))
IMAGE = an_image(digest=digest(DATA))


def test_results_come_in_the_order_of_the_items():
    assert list(work_ahead(range(200), lambda item: item * 2)) == [2 * item for item in range(200)]


def test_no_thread_works_further_ahead_than_the_window():
    done = set()
    for position, item in enumerate(work_ahead(range(500), lambda item: done.add(item) or item)):
        assert item == position
        assert max(done) < position + DECODE_AHEAD


def test_a_reader_that_leaves_early_leaves_no_work_behind():
    started = []
    work = work_ahead(range(10_000), started.append)
    next(work)
    work.close()
    assert len(started) <= DECODE_AHEAD
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_what_was_not_begun_when_the_reader_leaves_is_never_begun(monkeypatch):
    began, may_end, asked = [], threading.Event(), []
    cancel = Future.cancel

    def note(future):
        cancel(future)
        asked.append(future)
        if len(asked) == 19:  # all that was handed out and not taken
            may_end.set()

    def slow(item):
        began.append(item)
        if item:
            may_end.wait(2)

    monkeypatch.setattr(Future, "cancel", note)
    work = work_ahead(range(100), slow, num_threads=2, num_ahead=20)
    next(work)
    work.close()
    assert len(began) <= 3


def test_an_error_of_ours_is_not_swallowed():
    with pytest.raises(ZeroDivisionError):
        list(work_ahead([1, 0, 1], lambda item: 1 / item))


@pytest.mark.parametrize(("num_items", "sizes"), [(0, []), (1, [1]), (4, [4]), (9, [4, 4, 1])])
def test_batches_are_full_but_for_the_last(num_items, sizes):
    assert [len(batch) for batch in batched(range(num_items), 4)] == sizes


def test_an_image_becomes_pixels():
    found = decode_image(IMAGE, lambda image: DATA, a_recipe())
    assert found.shape == (32, 32, 3)


def test_a_file_that_vanished_is_a_reason_that_is_not_final(tmp_path):
    found = decode_image(IMAGE, lambda image: (tmp_path / image.path).read_bytes(), a_recipe())
    assert found == Unusable("cannot be read: No such file or directory", final=False)


def test_a_file_with_another_content_is_a_reason_that_is_not_final():
    found = decode_image(IMAGE, lambda image: encoded(a_photo(2)), a_recipe())
    assert not found.final
    assert found.reason.startswith("changed while")


def test_content_that_cannot_be_decoded_is_a_final_reason():
    cut = DATA[: len(DATA) // 2]
    found = decode_image(replace(IMAGE, digest=digest(cut)), lambda image: cut, a_recipe())
    assert found.final
    assert found.reason


def test_a_picture_is_known_by_the_digest_of_its_bytes(tmp_path):
    data = write_photo(tmp_path / "cats" / "0.png", 1).read_bytes()
    assert identify_file(str(tmp_path), a_file("cats/0.png")) == digest(data)


def test_a_file_that_is_no_picture_is_known_for_good(tmp_path):
    (tmp_path / "a.png").write_text("<html>")
    found = identify_file(str(tmp_path), a_file("a.png", label="cats"))
    assert found.final
    assert "HTML" in found.reason


def test_a_file_that_cannot_be_read_may_be_readable_tomorrow(tmp_path):
    found = identify_file(str(tmp_path), a_file("cats/gone.png"))
    assert found == Unusable("cannot be read: No such file or directory", final=False)


def test_an_enormous_file_is_not_even_opened(tmp_path):
    found = identify_file(str(tmp_path), a_file("cats/gone.png", size_bytes=MAX_BYTES + 1))
    assert found.final
    assert "limit" in found.reason
