"""Steering vectors carried across (4, F)."""
