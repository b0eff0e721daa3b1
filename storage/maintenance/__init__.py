"""Looking at the whole workspace: verification, garbage collection, health."""
