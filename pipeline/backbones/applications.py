"""Networks of keras.applications as backbones: built, their weights identified, their taps found in the graph.

Heavy leaf: importing it loads TensorFlow.
"""

from __future__ import annotations

import hashlib
import math
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.backbones.table import (
    APPLICATIONS,
    GRID_CELLS,
    IMAGENET,
    RANDOM,
    TOP,
    Preprocessing,
    check_backbone,
    moments_tap,
    own_size,
)
from pipeline.errors import DamagedError, NotFoundError, UsageError
from pipeline.fingerprint import canonical_json
from pipeline.quiet_keras import keras
from pipeline.types import BackboneSpec, Recipe, Tap

layers, ops = keras.layers, keras.ops

Tensor = Any  # a symbolic keras.KerasTensor
Layer = Any  # a keras.Layer, or a keras.Operation if the graph holds a bare one

SEED = 0  # of weights "none"
TIMEOUT_S = 10.0  # for a server to answer, and between two packets of its answer

# Stage k ends where the picture was halved k times: C_k of feature pyramids (Lin et al. 2017, arXiv:1612.03144).
# An entry of the two before sees a patch of 35 pixels in ResNet50, edges and colours; Lite0's table has none of them.
FIRST_STAGE = 3
GRID_STAGES = 2  # the deepest stages, whose 3x3 grid is read as well
MAX_ROW_VALUES = 20_480  # beyond it a stage gets no grid: 40 KiB a picture in float16, 2 GB for 50,000

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of RGB 0-1
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)
CAFFE_MEAN = (103.939, 116.779, 123.68)  # of BGR 0-255


def describe_application(name: str, weights: str, size: int | None = None) -> BackboneSpec:
    """Build a network once to find out what `load_backbone` needs to build it again.

    Parameters
    ----------
    name
        One of `APPLICATIONS`.
    weights
        "imagenet" for what Keras downloads and keeps, "none" for random ones, the same every time, or a file
        `.weights.h5` or `.h5` that was saved from this network, with or without its classifier.
    size
        Pixels, side of the square given to the network; None asks for its own.

    Raises
    ------
    UnknownNameError, UsageError
        When there is no such network, the file holds other weights, or Keras does not build it for this size.
    NotFoundError
        When the file does not exist or the download fails.
    """
    check_backbone(name, weights, size)
    source, known_as = {
        IMAGENET: (IMAGENET, "ImageNet-1k, downloaded by Keras"),
        RANDOM: (RANDOM, f"random, seed {SEED}"),
    }.get(weights) or (str(Path(weights).resolve()), f"file {Path(weights).name}")
    size = size or APPLICATIONS[name].size
    network, sha256 = _build(name, source, size)
    num_channels = sum(layer.moving_mean.shape[0] for layer in norm_layers(network))
    remembers = num_channels > 0 and source != RANDOM and size == own_size(name)
    moments = moments_tap(num_channels) if remembers else None
    return BackboneSpec(name, source, known_as, sha256, Recipe(size), find_taps(name_stages(network)), moments)


def load_application(spec: BackboneSpec) -> keras.Model:
    """Build a described network again, frozen; its layers `stage3` … are the ends of its stages.

    Raises
    ------
    UsageError, NotFoundError
        As `describe_application`.
    DamagedError
        When the weights are other ones than those described.
    """
    check_backbone(spec.name, spec.source)
    network, sha256 = _build(spec.name, spec.source, spec.recipe.size)
    if sha256 != spec.weights_sha256:
        raise DamagedError(
            f"The weights of {spec.name} ({spec.weights}) have SHA-256 {sha256[:16]}…, wanted "
            f"{spec.weights_sha256[:16]}…. Bring back the same weights and the versions in constraints.txt."
        )
    name_stages(network)
    network.trainable = False
    return network


def _build(name: str, source: str, size: int) -> tuple[keras.Model, str]:
    """Build a network from pixels, without its classifier, and return it with the digest of its weights."""
    pixels = keras.Input((size, size, 3), name="pixels")
    builder = getattr(keras.applications, APPLICATIONS[name].builder)
    scaled = _preprocess(pixels, APPLICATIONS[name].preprocessing)
    weights = IMAGENET if source == IMAGENET else None
    with redirect_stdout(sys.stderr), _explained(name, source, size):  # stdout is where Keras shows a download
        network = builder(include_top=False, weights=weights, input_tensor=scaled, input_shape=(size, size, 3))
    network = keras.Model(pixels, network.output, name=name)  # its own input is a list
    if source == IMAGENET:
        return network, _digest(network)
    if source == RANDOM:
        _draw_weights(network)
    else:
        _load_file(network, name, source, lambda: builder(weights=None))
    sha256 = _digest(network)
    _square_deviations(network)
    return network, sha256


@contextmanager
def _explained(name: str, source: str, size: int) -> Iterator[None]:
    """Say what it means that Keras does not build a network: it refuses the size, or the download failed."""
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_S)  # Keras sets none: behind some firewalls it would wait for ever
    try:
        yield
    except Exception as error:  # Keras raises plain ones
        own = APPLICATIONS[name].size
        if size != own and isinstance(error, ValueError) and "shape" in str(error):
            raise UsageError(
                f"Keras does not build {name} for pictures of {size} x {size}: {error} Its own size is {own}."
            ) from error
        if source == IMAGENET:
            raise NotFoundError(
                f"The ImageNet weights of {name} could not be downloaded: {error}. Fetch them elsewhere and give "
                f"--weights FILE, or take random ones with --weights {RANDOM}."
            ) from error
        raise
    finally:
        socket.setdefaulttimeout(timeout)


def _preprocess(pixels: Tensor, rule: Preprocessing) -> Tensor:
    """Apply a rule of `keras.applications.imagenet_utils.preprocess_input` in layers that plain Keras loads."""
    if rule == "caffe":
        blue_first = ops.flip(pixels, axis=-1)
        return layers.Rescaling(1.0, offset=[-mean for mean in CAFFE_MEAN], name="scaled")(blue_first)
    if rule == "tf":
        return layers.Rescaling(1 / 127.5, offset=-1.0, name="scaled")(pixels)
    if rule == "torch":
        scale = [1 / (255 * deviation) for deviation in IMAGENET_DEVIATION]
        offset = [-mean / deviation for mean, deviation in zip(IMAGENET_MEAN, IMAGENET_DEVIATION, strict=True)]
        return layers.Rescaling(scale, offset=offset, name="scaled")(pixels)
    return pixels


def _load_file(network: keras.Model, name: str, file: str, build_with_top: Callable[[], keras.Model]) -> None:
    """Fill a network from a file, which may hold the classifier as well."""
    reason = _try_file(network, file)
    if reason is None:
        return
    with_top = build_with_top()
    if _try_file(with_top, file) is not None:
        raise UsageError(
            f"{file} does not hold the weights of {name}: {reason} Wanted: what save_weights wrote for this "
            "network, without its classifier or with the one of 1,000 classes."
        )
    network.set_weights(with_top.get_weights()[: len(network.weights)])  # the classifier's are the last


def _try_file(network: keras.Model, file: str) -> str | None:
    """Load weights; returns why they cannot be loaded, None if all were."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # of layers that keep their first weights
        try:
            network.load_weights(file)
        except (ValueError, OSError, KeyError, UserWarning) as error:
            return str(error).partition("\n")[0]
    return None


def _draw_weights(network: keras.Model) -> None:
    """Replace the initial weights by ones that are the same every time.

    Keras seeds its initializers from Python's own generator, which other threads draw from meanwhile. And it counts
    all channels of a depthwise kernel as inputs of each: after the 13 such layers of MobileNet nothing would be left
    but rounding, hence the root.
    """
    for seed, (layer, kernel, initializer) in enumerate(_drawn(network), start=SEED):
        config = initializer.get_config()
        if "seed" in config:
            values = type(initializer).from_config({**config, "seed": seed})(kernel.shape)
            is_depthwise = initializer is getattr(layer, "depthwise_initializer", None)
            if is_depthwise and isinstance(initializer, keras.initializers.GlorotUniform):
                values = values * math.sqrt(kernel.shape[2])
            kernel.assign(values)


def _drawn(network: keras.Model) -> Iterator[tuple[Layer, Any, Any]]:
    """List the kernels of a network and of those in it: layer, variable, initializer."""
    for layer in network.layers:
        if isinstance(layer, keras.Model):
            yield from _drawn(layer)
        elif isinstance(layer, layers.SeparableConv2D):
            yield layer, layer.depthwise_kernel, layer.depthwise_initializer
            yield layer, layer.pointwise_kernel, layer.pointwise_initializer
        elif isinstance(layer, layers.DepthwiseConv2D):
            yield layer, layer.kernel, layer.depthwise_initializer
        elif isinstance(layer, layers.Conv2D | layers.Dense):
            yield layer, layer.kernel, layer.kernel_initializer


def _digest(network: keras.Model) -> str:
    """SHA-256 of all arrays, in the network's order: unnamed ones are named by what the process did before."""
    sha256 = hashlib.sha256()
    for weight in network.weights:
        array = np.asarray(ops.convert_to_numpy(weight), order="C")
        sha256.update(canonical_json([str(array.dtype), list(array.shape)]).encode("ascii"))
        sha256.update(array.data)
    return sha256.hexdigest()


def _square_deviations(network: keras.Model) -> None:
    """Do what Keras adds for EfficientNet only when it has downloaded the weights itself.

    Their files hold ImageNet's standard deviations where the layer expects variances
    (https://github.com/tensorflow/tensorflow/issues/49930).
    """
    for layer in network.layers:
        if isinstance(layer, layers.Normalization) and layer.weights:
            mean, variance, count = layer.get_weights()
            if np.allclose(variance, IMAGENET_DEVIATION):
                layer.set_weights([mean, np.square(variance), count])
                layer.finalize_state()


def name_stages(network: keras.Model) -> list[Layer]:
    """Find the layers in which the deep stages of a network end, shallow to deep, and name them `stage3` ….

    Keras numbers unnamed layers by what the process has built before, and a tap's layer is part of its identity.
    """
    ends = find_stages(network)
    size = _side(network.input)
    named = []
    for side, layer in ends.items():
        stage = round(math.log2(size / side))
        if stage >= FIRST_STAGE:
            layer.name = f"stage{stage}"
            named.append(layer)
    return named


def norm_layers(network: keras.Model) -> list[keras.layers.BatchNormalization]:
    """List the BatchNorm layers of a network in the order of its graph, shallow to deep."""
    return [layer for layer in network.layers if isinstance(layer, layers.BatchNormalization)]


def find_stages(network: keras.Model) -> dict[int, Layer]:
    """Walk a graph and find the layer that each of its resolutions ends in: side in pixels -> layer, shallow to deep.

    A resolution ends in the maps that a lower one is computed from. If there are several, in the branches of an
    inception or a residual block, the widest is taken, and of equally wide ones the last. The lowest resolution
    ends in the output; smaller maps are the gates of squeeze-and-excite blocks. A map that was only padded or
    cropped counts as the one it was made of.
    """
    makers: dict[int, Layer] = {}  # id of a tensor -> what computed it
    ends: dict[int, Layer] = {}
    lowest = _side(network.output)
    for layer in network.operations:
        inputs = [] if isinstance(layer, layers.InputLayer) else keras.tree.flatten(layer.input)
        sources = [makers[id(tensor)] for tensor in inputs]
        is_border = isinstance(layer, layers.ZeroPadding2D | layers.Cropping2D)
        makers[id(layer.output)] = sources[0] if is_border else layer
        for source in sources:
            side = _side(source.output)
            if not is_border and lowest <= _side(layer.output) <= 0.75 * side:  # "valid" convolutions trim it a little
                known = ends.get(side)
                if known is None or source.output.shape[-1] >= known.output.shape[-1]:
                    ends[side] = source
    ends[lowest] = makers[id(network.output)]
    return dict(sorted(ends.items(), reverse=True))


def find_taps(stages: list[Layer]) -> tuple[Tap, ...]:
    """List the taps of named stages: the average of each, the 3x3 grids that a row has room for, and the top."""
    channels = [stage.output.shape[-1] for stage in stages]
    num_values = sum(channels)
    taps = []
    for depth, (stage, width) in enumerate(zip(stages, channels, strict=True)):
        if stage is not stages[-1]:  # whose average is the top
            taps.append(Tap(f"{stage.name}_gap", stage.name, "gap", width, depth))
        grid = width * GRID_CELLS
        deep = depth >= len(stages) - GRID_STAGES
        if deep and _side(stage.output) ** 2 >= GRID_CELLS and num_values + grid <= MAX_ROW_VALUES:
            taps.append(Tap(f"{stage.name}_grid", stage.name, "grid", grid, depth))
            num_values += grid
    return (*taps, Tap(TOP, stages[-1].name, "gap", channels[-1], len(stages) - 1))


def _side(tensor: Tensor) -> int:
    """Height of a feature map in pixels; 0 for what is no map."""
    return int(tensor.shape[1]) if len(tensor.shape) == 4 else 0
