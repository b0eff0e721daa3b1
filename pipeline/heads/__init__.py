"""Heads on stored features, and the evidence that chooses them."""
