"""Real and hostile pictures, where they lie beside the repository."""

from pathlib import Path

import pytest

from pipeline.errors import ImageError
from pipeline.images.decode import EXACT, SCALED, decode, probe
from tests.factories import a_recipe

pytestmark = pytest.mark.shared

NUM_HOSTILE = 150  # files, at least; fewer and the archive was not unpacked as it should be


def regular_files(folder):
    return sorted(path for path in Path(folder).rglob("*") if path.is_file() and not path.is_symlink())


# as outside pytest: `pipeline.images.decode` silences Pillow's warnings on import, pytest raises them again
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("decoder", [EXACT, SCALED])
def test_every_hostile_file_is_a_picture_or_an_image_error(shared_data, decoder):
    files = regular_files(shared_data("hostile"))
    assert len(files) > NUM_HOSTILE
    refused = {}
    for path in files:
        data = path.read_bytes()
        try:
            assert decode(data, a_recipe(decoder=decoder)).mode == "RGB"
            probe(data)  # what decodes has a good header, too
        except ImageError as error:
            refused[path.name] = str(error)
    assert all(refused.values())
    pictures = {path.name for path in files} - set(refused)
    assert {
        "cmyk.jpg",
        "lab.tif",
        "exif_broken.jpg",
        "float32_nan.tif",
        "burst.jpg",
        "1x1.gif",
        "8x2000.jpg",
    } <= pictures
    assert {"truncated_half.png", "max_size.png", "vector.svg", "document.pdf", "photo.heic", "README.md"} <= set(
        refused
    )


def test_the_eight_orientations_of_one_photo_are_one_picture(shared_data):
    folder = shared_data("hostile") / "_hostile" / "files"
    upright = [decode((folder / f"exif_orientation_{number}.jpg").read_bytes(), a_recipe()) for number in range(1, 9)]
    assert {picture.size for picture in upright} == {(320, 240)}
    for picture in upright:
        red, _, blue = picture.getpixel((200, 5))
        assert red > 150 > blue  # the red bar is on top
        red, _, blue = picture.getpixel((5, 120))
        assert blue > 150 > red  # the blue one at the left


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("name", "wanted"), [("efficientnet_lite0", 0.84), ("efficientnet_lite1", 0.85), ("efficientnet_lite2", 0.857)]
)
def test_the_network_recognises_imagenet(shared_data, name, wanted, tmp_path):
    """The reference implementation of Lite0 in PyTorch is right for 0.852 of exactly these; rounding costs a few."""
    from pipeline.backbones.lite import build_lite
    from pipeline.backbones.table import get_backbone, get_weights_path
    from pipeline.backbones.torch_checkpoint import read_checkpoint
    from pipeline.delivery.predict import predict_files
    from pipeline.engine.conversion import convert_classifier
    from pipeline.engine.files import CLASSIFIER_FILE
    from pipeline.engine.openvino_engine import Engine
    from pipeline.quiet_keras import keras

    spec = get_backbone(name)
    weights = read_checkpoint(get_weights_path(spec.name), spec.weights_sha256)
    backbone = build_lite(spec.name, spec.recipe.size, weights)
    dense = keras.layers.Dense(1000, activation="softmax")
    network = keras.Model(backbone.input, dense(keras.layers.GlobalAveragePooling2D()(backbone.output)))
    dense.set_weights([weights["_fc.weight"].T, weights["_fc.bias"]])
    convert_classifier(network, spec.recipe, tmp_path)
    files = regular_files(shared_data("imagenet_sample"))
    files = [path for path in files if path.suffix.lower() in (".jpg", ".jpeg")]  # in the order of the classes
    assert len(files) == 1000
    classes = [str(number) for number in range(1000)]
    rows = predict_files(map(str, files), Engine.load(tmp_path / CLASSIFIER_FILE), spec.recipe, classes, top=1)
    right = [row.error is None and row.top[0][0] == str(number) for number, row in enumerate(rows)]
    assert sum(right) / 1000 >= wanted
