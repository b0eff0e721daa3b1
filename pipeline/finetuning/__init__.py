"""Training the whole network, resumable at any step, and the gate it must pass."""
