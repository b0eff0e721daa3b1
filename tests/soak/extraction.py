"""`headstart` in small shards, telling through a pipe what it computes and what it has committed.

    python -m tests.soak.extraction PIPE SHARD_ROWS ARGUMENTS...

Otherwise a few hundred pictures would be committed at the end only, and no kill would land in a commit.
"""

from __future__ import annotations

import os
import sys

from pipeline.types import FeatureBlock
from storage.features import store, writer
from storage.features.writer import FeatureWriter

computed: list[str] = []  # since the last commit


def _tell_about_commits(pipe: int) -> None:
    append, commit = FeatureWriter.append, FeatureWriter.commit

    def tell(what: str, digests: list[str]) -> None:
        os.write(pipe, f"{what} {' '.join(digests)}\n".encode())

    def telling_append(to: FeatureWriter, block: FeatureBlock) -> None:
        digests = [digest.hex() for digest in block.digests]
        computed.extend(digests)
        tell("computed", digests)
        append(to, block)

    def telling_commit(to: FeatureWriter) -> None:
        tell("committing", [])
        commit(to)
        tell("committed", computed)
        computed.clear()

    FeatureWriter.append = telling_append  # type: ignore[method-assign]
    FeatureWriter.commit = telling_commit  # type: ignore[method-assign]


if __name__ == "__main__":
    store.SHARD_ROWS = writer.SHARD_ROWS = int(sys.argv[2])  # before flows.features.forward imports it
    _tell_about_commits(int(sys.argv[1]))
    from flows.cli.app import main

    sys.argv[:] = ["headstart", *sys.argv[3:]]
    main()
