"""Forward passes: pictures through a network into the store, shared with other runs over the same pictures."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.engine.canary import check_canary
from pipeline.types import FeatureBlock, Image, Manifest, Progress
from storage.features.claims import Claims
from storage.features.store import SHARD_ROWS
from storage.features.writer import FeatureWriter
from storage.workspace import Workspace

if TYPE_CHECKING:
    from pipeline.engine.extract import FeatureEngine

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LOOKS = 0.5


def compute(
    workspace: Workspace,
    store: FeatureWriter,
    images: Sequence[Image],
    read: Callable[[Image], bytes],
    engine: FeatureEngine,
    progress: Progress,
) -> Iterator[FeatureBlock]:
    """Run images through a network, store the features, and yield them block by block.

    If another process is computing some of them, this waits for it and does not repeat the work.
    """
    from pipeline.engine.extract import canary_block, extract_features

    recipe = store.space.recipe
    canary = canary_block(recipe, engine)
    store.write_canary(canary)  # the first machine's stays
    if stored := store.read_canary():
        check_canary(canary, stored)
    progress.start("extract", len(images))
    left, unread = list(images), set[str]()
    try:
        with Claims(workspace, store.space) as claims:
            while left:
                for block in extract_features(_claimed(left, store, claims), read, recipe, engine):
                    store.append(block)
                    claims.refresh()
                    unread |= {item.path for item in block.unread}
                    progress.advance(len(block.digests) + len(block.rejected) + len(block.unread))
                    yield block
                store.commit()
                claims.keep(())
                missing = set(store.missing([image.digest for image in left]))
                left = [image for image in left if image.digest in missing and image.path not in unread]
                if left:
                    log.info("another run is computing %d pictures of this dataset", len(left))
                    time.sleep(SECONDS_BETWEEN_LOOKS)
    finally:
        progress.finish()


def _claimed(images: Sequence[Image], store: FeatureWriter, claims: Claims) -> Iterator[Image]:
    """Claim images, as many at a time as a shard holds; yield those that are neither stored nor claimed by others."""
    for start in range(0, len(images), SHARD_ROWS):
        window = images[start : start + SHARD_ROWS]
        claims.keep(store.missing(claims.digests))
        claimed = claims.take(store.missing([image.digest for image in window]))
        free = set(store.missing(claimed))  # asked again: another run may have committed them before we claimed them
        yield from (image for image in window if image.digest in free)


def reader(manifest: Manifest) -> Callable[[Image], bytes]:
    """Return the function that reads an image's file."""
    root = Path(manifest.root)
    return lambda image: (root / image.path).read_bytes()
