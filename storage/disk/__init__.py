"""System calls that change the disk: atomic writes, locks, hashes, plain HDF5."""
