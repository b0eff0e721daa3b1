"""Pictures: bytes to pixels, augmented views, and decoding ahead of the network in threads."""
