"""The model that users take away, and predictions with it."""
