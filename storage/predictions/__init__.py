"""The predictions of `predict-batch`: ledgers and tables."""
