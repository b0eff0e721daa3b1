"""Verify, garbage collection, and lists of what a workspace holds."""
