"""Datasets: folders and tables as users keep them, manifests, remembered digests."""
