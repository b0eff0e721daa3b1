"""Pretrained networks: the table, how they are built, their taps and their arithmetic."""
