"""A dataset: its manifest and its splits."""
