"""Sparse autoencoders carried across, and trained from there (3.1, Tables 2-4)."""
