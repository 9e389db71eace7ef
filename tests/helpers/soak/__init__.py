"""Reliability, measured: kills, many people browsing, several steering at once. `make soak`; pytest
collects none."""
