"""What `predict-batch` has predicted: ledgers and tables."""
