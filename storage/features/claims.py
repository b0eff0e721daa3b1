"""Claims on pictures, so that runs over the same pictures share the work instead of repeating it.

A claim is a file of digests that its owner keeps locked: the lock ends with the process, however that ends, and
the claim with it. Nothing rests on claims but time; two that compute the same row store the same row.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self
from uuid import uuid4

from pipeline.fingerprint import DIGEST_BYTES
from pipeline.types import Digest, Space
from storage.disk.atomic import make_folder
from storage.disk.locks import exclusive, is_locked, try_lock
from storage.workspace import Workspace

log = logging.getLogger(__name__)

REFRESH_SECONDS = 60.0
STALE_SECONDS = 600.0  # a live process that showed nothing for this long is stopped or stuck: do not wait for it


class _Claim(NamedTuple):
    path: Path
    descriptor: int  # holds the lock
    digests: frozenset[Digest]


class Claims:
    """The claims of one run on the pictures of one space. A context manager: what it still holds is given back."""

    def __init__(self, workspace: Workspace, space: Space) -> None:
        self._folder = workspace.claims(space.id)
        self._fs = workspace.staging.fs
        self._held: list[_Claim] = []
        self._refreshed = time.monotonic()

    def take(self, digests: Sequence[Digest]) -> list[Digest]:
        """Claim pictures; returns those that no other run is computing, in order."""
        if not digests:
            return []
        try:
            make_folder(self._folder, self._fs)
            with exclusive(self._folder):  # one run at a time looks at the claims and adds its own
                taken = self._taken_by_others()
                free = [digest for digest in digests if digest not in taken]
                if free:
                    self._hold(free)
                return free
        except OSError as error:  # a full disk, or a file system without locks: the work may be done twice
            log.info("pictures are computed without a claim on them: %s", error)
            return list(digests)

    def keep(self, missing: Collection[Digest]) -> None:
        """Give back the claims of which nothing is missing any more."""
        done = [claim for claim in self._held if claim.digests.isdisjoint(missing)]
        self._held = [claim for claim in self._held if claim not in done]
        for claim in done:
            self._give_back(claim)

    def refresh(self) -> None:
        """Show the others that the work continues; cheap enough to be called after every batch."""
        if time.monotonic() - self._refreshed < REFRESH_SECONDS:
            return
        self._refreshed = time.monotonic()
        for claim in self._held:
            with suppress(OSError):
                os.utime(claim.descriptor)

    @property
    def digests(self) -> list[Digest]:
        """Everything that is claimed now."""
        return [digest for claim in self._held for digest in claim.digests]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.keep(())

    def _taken_by_others(self) -> set[Digest]:
        own = {claim.path for claim in self._held}
        taken: set[Digest] = set()
        for path in sorted(self._folder.glob("*.claim")):
            if path in own:
                continue
            with suppress(FileNotFoundError):  # its owner may give it back just now
                if not is_locked(path):  # its owner has ended
                    self._fs.unlink(path)
                elif time.time() - path.stat().st_mtime < STALE_SECONDS:
                    keys = path.read_bytes()
                    taken.update(keys[at : at + DIGEST_BYTES] for at in range(0, len(keys), DIGEST_BYTES))
        return taken

    def _hold(self, digests: Sequence[Digest]) -> None:
        path = self._folder / f"{uuid4().hex}.claim"
        descriptor = self._fs.open_exclusive(path, 0o644)
        claim = _Claim(path, descriptor, frozenset(digests))
        try:
            if not try_lock(descriptor):
                raise BlockingIOError(f"{path} is locked by another process")
            rest = memoryview(b"".join(digests))
            while rest:
                rest = rest[self._fs.write(descriptor, rest) :]
        except OSError:
            self._give_back(claim)
            raise
        self._held.append(claim)

    def _give_back(self, claim: _Claim) -> None:
        with suppress(OSError):  # what stays behind is not locked, so the next run removes it
            self._fs.unlink(claim.path)
        os.close(claim.descriptor)
