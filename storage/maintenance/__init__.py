"""Maintenance of a whole workspace: verification, garbage collection, health."""
