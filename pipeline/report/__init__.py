"""What a model's folder says about it: the record and the report."""
