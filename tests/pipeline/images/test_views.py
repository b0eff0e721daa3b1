import subprocess
import sys

import numpy as np
import pytest
from PIL import Image as Pillow

from pipeline.errors import UnknownNameError
from pipeline.fingerprint import digest
from pipeline.images import views as augment
from pipeline.images.ahead import decode_image
from pipeline.images.views import ORIGINAL, augmented, view_names, view_sets
from tests.factories import a_digest, a_photo, a_recipe, an_image, encoded

DIGEST = a_digest(0)
SIDE = 120


@pytest.fixture
def still(monkeypatch):
    """The scheme without turn, shift and scale: what is left is mirroring."""
    monkeypatch.setattr(augment, "MAX_TURN", 0.0)
    monkeypatch.setattr(augment, "MAX_SHIFT", 0.0)
    monkeypatch.setattr(augment, "MAX_SCALE", 1.0)


def a_dot(x, y, size=(SIDE, SIDE)):
    """A grey picture with a soft white dot: where it goes, the picture goes."""
    columns, rows = np.arange(size[0]) + 0.5, np.arange(size[1])[:, None] + 0.5
    values = 50 + 200 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 50)
    return Pillow.fromarray(values.astype(np.uint8)).convert("RGB")


def dot_of(image):
    values = np.asarray(image, dtype=float)[..., 0]
    weights = np.where(values > 60, values - 50, 0)
    columns, rows = np.arange(values.shape[1]) + 0.5, np.arange(values.shape[0])[:, None] + 0.5
    return float((weights * columns).sum() / weights.sum()), float((weights * rows).sum() / weights.sum())


def test_more_views_extend_the_list():
    assert view_names(0) == ()
    assert view_names(2) == ("augmented-1.1", "augmented-1.2")
    assert view_names(8)[:2] == view_names(2)


def test_the_original_is_the_picture_itself():
    photo = a_photo()
    assert augmented(photo, DIGEST, ORIGINAL) is photo


@pytest.mark.parametrize("view", view_names(3))
def test_a_view_is_an_rgb_square_that_differs_from_the_original(view):
    photo = a_photo(size=(160, 120))
    found = augmented(photo, DIGEST, view)
    assert (found.mode, found.size) == ("RGB", (120, 120))
    assert np.abs(np.asarray(found, int) - np.asarray(photo.crop((20, 0, 140, 120)), int)).mean() > 3


def test_a_view_is_the_same_in_another_process():
    program = (
        "import hashlib; from tests.factories import a_digest, a_photo; from pipeline.images.views import augmented;"
        "print(hashlib.sha256(augmented(a_photo(), a_digest(0), 'augmented-1.2').tobytes()).hexdigest())"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    assert told == digest(augmented(a_photo(), a_digest(0), "augmented-1.2").tobytes()).hex()


def test_views_of_one_picture_differ_and_so_do_pictures_in_one_view():
    photo = a_photo()
    seen = {augmented(photo, a_digest(n), view).tobytes() for n in range(3) for view in view_names(4)}
    assert len(seen) == 12


@pytest.mark.usefixtures("still")
def test_a_scheme_that_moves_nothing_gives_the_central_square():
    photo = a_photo(size=(161, 121))
    found = augmented(photo, DIGEST, "augmented-1.1")
    np.testing.assert_array_equal(np.asarray(found), np.asarray(photo.crop((20, 0, 141, 121))))


@pytest.mark.usefixtures("still")
def test_every_second_view_mirrors():
    photo = a_photo(size=(120, 120))
    mirrored = photo.transpose(Pillow.Transpose.FLIP_LEFT_RIGHT)
    for view, expected in zip(view_names(4), (photo, mirrored, photo, mirrored), strict=True):
        np.testing.assert_array_equal(np.asarray(augmented(photo, DIGEST, view)), np.asarray(expected))


def test_a_head_may_train_on_nothing_new_on_what_keeps_left_and_right_or_on_all():
    assert view_sets(0) == ((0,),)
    assert view_sets(1) == ((0,), (0, 1))
    assert view_sets(4) == ((0,), (0, 1, 3), (0, 1, 2, 3, 4))


def test_the_centre_moves_by_the_shift_and_no_further():
    middle = a_dot(SIDE / 2, SIDE / 2)
    moved = np.array([dot_of(augmented(middle, a_digest(n), "augmented-1.1")) for n in range(60)]) - SIDE / 2
    farthest = augment.MAX_SHIFT * augment.MAX_SCALE * SIDE
    assert np.abs(moved).max() < farthest + 1
    assert moved.min(axis=0) == pytest.approx(-farthest, abs=farthest / 2)
    assert moved.max(axis=0) == pytest.approx(farthest, abs=farthest / 2)


@pytest.mark.parametrize("view", ["augmented-1.1", "augmented-1.2"])
def test_turn_and_scale_stay_in_their_ranges_and_use_them(view, monkeypatch):
    monkeypatch.setattr(augment, "MAX_SHIFT", 0.0)
    right_of_centre = a_dot(SIDE * 0.75, SIDE / 2)
    across = -1 if view.endswith("2") else 1
    angles, scales = [], []
    for number in range(60):
        x, y = dot_of(augmented(right_of_centre, a_digest(number), view))
        angles.append(np.degrees(np.arctan2(y - SIDE / 2, across * (x - SIDE / 2))))
        scales.append(np.hypot(x - SIDE / 2, y - SIDE / 2) / (SIDE / 4))
    assert max(np.abs(angles)) < augment.MAX_TURN + 1
    assert (min(angles), max(angles)) == pytest.approx((-augment.MAX_TURN, augment.MAX_TURN), abs=4)
    assert (min(scales), max(scales)) == pytest.approx((1 / augment.MAX_SCALE, augment.MAX_SCALE), abs=0.05)
    assert min(scales) > 1 / augment.MAX_SCALE - 0.01


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (37, 23), (200, 150)])
def test_no_border_shows(size):
    """A picture of one colour keeps it everywhere, however far it is turned and shifted."""
    plain = Pillow.new("RGB", size, (200, 100, 50))
    for number in range(40):
        for view in view_names(2):
            pixels = np.asarray(augmented(plain, a_digest(number), view))
            assert (pixels == (200, 100, 50)).all()


def test_a_large_picture_is_reduced_first():
    found = augmented(Pillow.new("RGB", (2000, 1500)), DIGEST, "augmented-1.1")
    assert found.size == (750, 750)


@pytest.mark.parametrize(
    "view", ["augmented-1.0", "augmented-1.01", "augmented-1.x", "augmented-2.1", "augmented-1.", "Original"]
)
def test_an_unknown_view_is_refused(view):
    with pytest.raises(UnknownNameError, match=r"Unknown view .*augmented-1\.<number from 1>.*original"):
        augmented(a_photo(), DIGEST, view)


def test_the_recipe_decides_which_view_is_decoded():
    data = encoded(a_photo(1))
    image = an_image(digest=digest(data))
    original, first, again = (
        decode_image(image, lambda image: data, a_recipe(view=view))
        for view in (ORIGINAL, "augmented-1.1", "augmented-1.1")
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - original).mean() > 3
