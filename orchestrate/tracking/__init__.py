"""How trials reach MLflow: the store, what it is told, and who tells it. Only relays and the UI import MLflow."""
