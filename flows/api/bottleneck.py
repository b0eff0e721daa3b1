"""Bottleneck features as arrays, and a scikit-learn transformer that computes each picture once.

Heavy leaf: importing it loads NumPy and scikit-learn.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags

from flows.features.backbone import describe_backbone, taps_engine
from flows.features.forward import compute
from flows.progress import Quiet
from flows.settings import workspace_root
from pipeline.backbones.table import DEFAULT_BACKBONE
from pipeline.errors import DataError, ImageError, UnknownNameError
from pipeline.fingerprint import digest
from pipeline.heads.label_sets import label_matrix
from pipeline.images.ahead import work_ahead
from pipeline.images.decode import probe, read_picture
from pipeline.types import DECODERS, Array, BackboneSpec, Digest, Image, Split, Tap
from storage.datasets.manifests import read_manifest
from storage.features.store import open_features
from storage.features.writer import FeatureWriter
from storage.workspace import Workspace

if TYPE_CHECKING:
    from flows.onboarding.results import ExtractResult

    Path = str | os.PathLike[str]

MAX_NAMED = 3  # pictures that an error spells out
WANTED = "Wanted: paths of picture files, or pictures as arrays of uint8, (n, height, width) or (n, height, width, 3)."


@dataclass(frozen=True, slots=True)
class Features:
    """The features of a dataset's pictures, one row for each."""

    X: Array  # (n, dim) float32, the taps side by side
    y: NDArray[np.integer] | NDArray[np.bool_]  # (n,) indices into classes; (n, classes) if a picture may have several
    classes: tuple[str, ...]
    paths: tuple[str, ...]  # absolute
    splits: tuple[Split, ...]


def read_features(workspace: Workspace, found: ExtractResult, taps: Sequence[str], split: Split | None) -> Features:
    """Read the stored features of a dataset's pictures in the manifest's order."""
    manifest = read_manifest(workspace, found.dataset, found.fingerprint)
    chosen = _taps_of(found.spec, taps)
    left_out = {item.path for item in found.extracted.rejected}
    images = [i for i in manifest.images if i.path not in left_out and split in (None, i.split)]
    labels = [image.labels for image in images]
    return Features(
        X=_read_rows(workspace, found.spec, [image.digest for image in images], chosen),
        y=np.array([only for (only,) in labels], np.intp)
        if manifest.exclusive
        else label_matrix(labels, len(manifest.classes)),
        classes=manifest.classes,
        paths=tuple(os.path.join(manifest.root, image.path) for image in images),
        splits=tuple(image.split for image in images),
    )


class BottleneckFeatures(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A scikit-learn transformer from pictures to the features of a frozen pretrained network.

    Its cache is headstart's feature store: a picture is computed once, by whichever pipeline, dataset or process asks
    first, and a second `fit` runs no network. It learns nothing from the data, so it cannot leak between folds.

    Parameters
    ----------
    backbone
        Name of the network; `headstart inspect NAME` describes it.
    taps
        Names of the layers to read; their features stand side by side.
    size
        Side in pixels of the square that the network is given; by default the network's own.
    weights
        Of a network that is not embedded: "imagenet" (downloaded by Keras), "none" (random) or a file.
    recipe
        "exact", or "scaled": large JPEGs are decoded smaller, which is faster and gives slightly other numbers.
    workspace
        The folder that holds the store; by default HEADSTART_HOME, or a folder in your home.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> classifier = make_pipeline(BottleneckFeatures(), LogisticRegression())
    >>> classifier.fit(["cat.jpg", "dog.jpg"], ["cat", "dog"])  # doctest: +SKIP
    """

    def __init__(
        self,
        backbone: str = DEFAULT_BACKBONE,
        taps: Sequence[str] = ("top",),
        size: int | None = None,
        weights: str | None = None,
        recipe: str = "exact",
        workspace: Path | None = None,
    ) -> None:
        self.backbone = backbone
        self.taps = taps
        self.size = size
        self.weights = weights
        self.recipe = recipe
        self.workspace = workspace

    def fit(self, X: Any, y: Any = None) -> BottleneckFeatures:
        """Check the parameters and that there are pictures; there is nothing to learn.

        Raises
        ------
        UnknownNameError, UsageError, NotFoundError
            A parameter names what is not there.
        DataError
            X holds no pictures.
        """
        _, spec, chosen = self._backbone()
        _sources(X)
        self.taps_ = tuple(tap.name for tap in chosen)
        self.space_ = spec.space().id
        return self

    def transform(self, X: Any) -> Array:
        """Return the features, (n, dim) float32, of n pictures; those that are not stored are computed and stored.

        Parameters
        ----------
        X
            n paths of files, or n pictures as arrays of uint8: (n, height, width) grey or (n, height, width, 3) RGB,
            or a list of such pictures of different sizes.

        Raises
        ------
        DataError
            A picture cannot be read, or X holds no pictures.
        """
        workspace, spec, chosen = self._backbone()
        pictures = _Pictures(_sources(X))
        images = pictures.images
        digests = [image.digest for image in images]
        unread = []
        with FeatureWriter(workspace, spec.space()) as store:
            absent = set(store.missing(digests))
            if missing := list({image.digest: image for image in images if image.digest in absent}.values()):
                engine = taps_engine(workspace, spec, len(missing))
                for block in compute(workspace, store, missing, pictures.read, engine, Quiet()):
                    unread += [f"{item.path} ({item.reason})" for item in block.unread]
            rejects = store.rejects(digests)
        if unread:
            raise DataError(_describe(unread))
        if bad := [f"{image.path} ({rejects[image.digest]})" for image in images if image.digest in rejects]:
            raise DataError(_describe(bad))
        return _read_rows(workspace, spec, digests, chosen)

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Return a name for each column: the tap and the number of the value, such as `top_0`."""
        _, _, chosen = self._backbone()
        return np.array([f"{tap.name}_{number}" for tap in chosen for number in range(tap.dim)], object)

    def _backbone(self) -> tuple[Workspace, BackboneSpec, list[Tap]]:
        if self.recipe not in DECODERS:
            raise UnknownNameError("recipe", str(self.recipe), DECODERS)
        workspace = Workspace.open(workspace_root(None if self.workspace is None else os.fspath(self.workspace)))
        spec = describe_backbone(workspace, self.backbone, self.weights, DECODERS[self.recipe], self.size)
        return workspace, spec, _taps_of(spec, self.taps)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        tags.no_validation = True
        return tags


class _Pictures:
    """Pictures by content: paths are read, arrays are written as PPM, which is their bytes with a short header."""

    def __init__(self, sources: Sequence[str | NDArray[np.uint8]]) -> None:
        self._encoded = {
            f"picture {number}": _encode(source) for number, source in enumerate(sources) if not isinstance(source, str)
        }
        names = [source if isinstance(source, str) else f"picture {number}" for number, source in enumerate(sources)]
        found = list(work_ahead(names, self._identify))
        if bad := [problem for _, problem in found if problem]:
            raise DataError(_describe(bad))
        self.images = [Image(key, name, (), "train") for name, (key, _) in zip(names, found, strict=True) if key]

    def read(self, image: Image) -> bytes:
        """Return a picture's encoded bytes."""
        return self._encoded[image.path] if image.path in self._encoded else read_picture(image.path)

    def _identify(self, name: str) -> tuple[Digest | None, str]:
        try:
            data = self._encoded[name] if name in self._encoded else read_picture(name)
            probe(data)
        except OSError as error:
            return None, f"{name} (cannot be read: {error.strerror or error})"
        except ImageError as error:
            return None, f"{name} ({error})"
        return digest(data), ""


def _sources(X: Any) -> list[str | NDArray[np.uint8]]:
    """Tell paths from pictures."""
    if isinstance(X, str | bytes | os.PathLike):
        raise DataError(f"X is one path. {WANTED} For one picture, give a list of one path.")
    if hasattr(X, "to_numpy"):  # a Series, or a DataFrame of one column
        X = X.to_numpy()
    if isinstance(X, np.ndarray) and X.dtype.kind not in "OUT" and X.ndim < 3:
        raise DataError(f"X is an array of {X.dtype} of shape {X.shape}. {WANTED}")
    if isinstance(X, np.ndarray) and X.ndim == 2 and X.shape[1] == 1:
        X = X[:, 0]
    try:
        sources = [_source(item, number) for number, item in enumerate(X)]
    except TypeError as error:
        raise DataError(f"X is {type(X).__name__}. {WANTED}") from error
    if not sources:
        raise DataError(f"Found array with 0 sample(s): X holds no pictures. {WANTED}")
    return sources


def _source(item: Any, number: int) -> str | NDArray[np.uint8]:
    if isinstance(item, str | os.PathLike):
        return os.path.abspath(item)
    if isinstance(item, np.ndarray) and item.dtype == np.uint8 and item.size and item.shape[2:] in ((), (1,), (3,)):
        return item
    what = f"{item.dtype} of shape {item.shape}" if isinstance(item, np.ndarray) else repr(item)[:80]
    raise DataError(f"Picture {number} of X is {what}. {WANTED}")


def _encode(picture: NDArray[np.uint8]) -> bytes:
    kind = "P6" if picture.ndim == 3 and picture.shape[2] == 3 else "P5"
    return f"{kind}\n{picture.shape[1]} {picture.shape[0]}\n255\n".encode() + np.ascontiguousarray(picture).tobytes()


def _taps_of(spec: BackboneSpec, names: Sequence[str]) -> list[Tap]:
    known = {tap.name: tap for tap in spec.taps}
    wanted = [names] if isinstance(names, str) else list(names)
    if not wanted:
        raise UnknownNameError("tap", "", known)
    for name in wanted:
        if name not in known:
            raise UnknownNameError("tap", str(name), known)
    return [known[name] for name in wanted]


def _read_rows(workspace: Workspace, spec: BackboneSpec, digests: Sequence[Digest], taps: Sequence[Tap]) -> Array:
    if not digests:
        return np.empty((0, sum(tap.dim for tap in taps)), np.float32)
    with open_features(workspace, spec.space()) as store:
        return np.concatenate([store.read(digests, tap.name) for tap in taps], axis=1)


def _describe(bad: Sequence[str]) -> str:
    more = f" and {len(bad) - MAX_NAMED} more" if len(bad) > MAX_NAMED else ""
    return (
        f"{len(bad)} of the pictures cannot be used: {'; '.join(bad[:MAX_NAMED])}{more}. "
        "Leave them out, or replace them, and run again."
    )
