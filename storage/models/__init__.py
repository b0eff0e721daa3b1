"""Saved models: versions, bundles, compiled engines."""
