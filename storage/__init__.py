"""Remember: every byte headstart writes, and how it is found again."""
