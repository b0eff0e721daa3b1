"""Predictions for files, and for a folder that fills."""
