"""When a head is trained again, and which version serves."""
