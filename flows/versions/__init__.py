"""Saved versions of a model, and which one serves."""
