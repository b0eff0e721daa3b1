"""The feature store: shards, catalog, index, claims, packs."""
