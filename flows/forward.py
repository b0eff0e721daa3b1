"""Forward passes: images through compiled networks into the store, and the networks themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

from flows.stopwatch import stage
from pipeline.canary import check_canary
from pipeline.fingerprint import fingerprint
from pipeline.types import BackboneSpec, FeatureBlock, Image, Manifest, Progress
from storage.engines import find_engine, new_engine
from storage.features import FeatureStore
from storage.workspace import Workspace

ENGINE_VERSION = 1  # raised when a change of ours compiles another network from the same backbone


def compute(
    store: FeatureStore, images: list[Image], manifest: Manifest, network: Path, progress: Progress
) -> Iterator[FeatureBlock]:
    """Run images through a compiled network and store what comes out, block by block."""
    from pipeline.engine import Engine
    from pipeline.extract import canary_block, extract_features

    recipe = store.space.recipe
    engine = Engine.load(network)
    canary = canary_block(recipe, engine)
    store.write_canary(canary)  # the first machine's stays
    if stored := store.read_canary():
        check_canary(canary, stored)
    progress.start("extract", len(images))
    try:
        for block in extract_features(images, reader(manifest), recipe, engine):
            store.append(block)
            progress.advance(len(block.digests) + len(block.rejected) + len(block.unread))
            yield block
        store.commit()
    finally:
        progress.finish()


def backbone_engine(workspace: Workspace, spec: BackboneSpec) -> Path:
    """Find the compiled network of a backbone, or compile it: the only use of TensorFlow before delivery."""
    engine_id = fingerprint({"space": spec.space().id, "openvino": version("openvino"), "version": ENGINE_VERSION})
    if found := find_engine(workspace, engine_id):
        return found
    with stage("imports"):
        from pipeline.conversion import convert_backbone
    with stage("convert"), new_engine(workspace, engine_id) as folder:
        convert_backbone(spec, folder)
    return workspace.engine(engine_id)


def reader(manifest: Manifest) -> Callable[[Image], bytes]:
    """Return the function that reads an image's file."""
    root = Path(manifest.root)
    return lambda image: (root / image.path).read_bytes()
