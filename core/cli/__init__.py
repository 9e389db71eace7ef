"""`python -m core …`, a file a topic."""
