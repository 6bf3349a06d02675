"""Runs a tracked trial again, from what MLflow holds of it and nothing else, and says whether it came out the same."""
