"""Features of a dataset: the backbone, the missing pictures, the rows of a split."""
