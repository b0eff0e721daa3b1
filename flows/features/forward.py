"""Forward passes: pictures through a compiled network into the store, shared with whoever works on them too."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.engine.canary import check_canary
from pipeline.types import FeatureBlock, Image, Manifest, Progress
from storage.features.claims import Claims
from storage.features.store import SHARD_ROWS, FeatureStore
from storage.workspace import Workspace

if TYPE_CHECKING:
    from pipeline.engine.extract import FeatureEngine

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LOOKS = 0.5


def compute(
    workspace: Workspace,
    store: FeatureStore,
    images: Sequence[Image],
    manifest: Manifest,
    engine: FeatureEngine,
    progress: Progress,
) -> Iterator[FeatureBlock]:
    """Run images through a network and store what comes out, block by block.

    What another process is computing at the same time is waited for and not repeated.
    """
    from pipeline.engine.extract import canary_block, extract_features

    recipe = store.space.recipe
    canary = canary_block(recipe, engine)
    store.write_canary(canary)  # the first machine's stays
    if stored := store.read_canary():
        check_canary(canary, stored)
    progress.start("extract", len(images))
    try:
        with Claims(workspace, store.space) as claims:
            left = list(images)
            while left:
                elsewhere: list[Image] = []
                free = _unclaimed(left, store, claims, elsewhere, progress)
                for block in extract_features(free, reader(manifest), recipe, engine):
                    store.append(block)
                    claims.refresh()
                    progress.advance(len(block.digests) + len(block.rejected) + len(block.unread))
                    yield block
                store.commit()
                claims.keep(())
                left = elsewhere
                if store.missing([image.digest for image in left]):
                    log.info("another run is computing %d pictures of this dataset", len(left))
                    time.sleep(SECONDS_BETWEEN_LOOKS)
    finally:
        progress.finish()


def _unclaimed(
    images: Sequence[Image], store: FeatureStore, claims: Claims, elsewhere: list[Image], progress: Progress
) -> Iterator[Image]:
    """Claim and yield images, a shard's worth at a time; those that others are computing go to `elsewhere`."""
    for start in range(0, len(images), SHARD_ROWS):
        window = images[start : start + SHARD_ROWS]
        claims.keep(store.missing(claims.digests))
        missing = store.missing([image.digest for image in window])
        claimed = claims.take(missing)
        taken = set(missing).difference(claimed)
        elsewhere += [image for image in window if image.digest in taken]
        free = set(store.missing(claimed))  # asked again: somebody may have committed them before we claimed them
        progress.advance(len(window) - len(taken) - len(free))
        yield from (image for image in window if image.digest in free)


def reader(manifest: Manifest) -> Callable[[Image], bytes]:
    """Return the function that reads an image's file."""
    root = Path(manifest.root)
    return lambda image: (root / image.path).read_bytes()
