"""Decide and compute: everything between pictures and predictions, with no effects of its own."""
