"""A network compiled for this machine, and pictures through it."""
