"""`headstart` in small shards, telling through a pipe what it computes and what it has committed.

    python -m tests.soak.extraction PIPE SHARD_ROWS ARGUMENTS...

Otherwise a few hundred pictures would be committed at the end only, and no kill would land in a commit.
"""

from __future__ import annotations

import os
import sys

from storage.features import store as features

computed: list[str] = []  # since the last commit


def _tell_about_commits(pipe: int) -> None:
    append, commit = features.FeatureStore.append, features.FeatureStore.commit

    def tell(what: str, digests: list[str]) -> None:
        os.write(pipe, f"{what} {' '.join(digests)}\n".encode())

    def telling_append(store: features.FeatureStore, block: features.FeatureBlock) -> None:
        digests = [digest.hex() for digest in block.digests]
        computed.extend(digests)
        tell("computed", digests)
        append(store, block)

    def telling_commit(store: features.FeatureStore) -> None:
        tell("committing", [])
        commit(store)
        tell("committed", computed)
        computed.clear()

    features.FeatureStore.append = telling_append  # type: ignore[method-assign]
    features.FeatureStore.commit = telling_commit  # type: ignore[method-assign]


if __name__ == "__main__":
    features.SHARD_ROWS = int(sys.argv[2])  # before flows.features.forward takes it over
    _tell_about_commits(int(sys.argv[1]))
    from flows.cli.app import main

    sys.argv[:] = ["headstart", *sys.argv[3:]]
    main()
