"""The documents that both models read, in disjoint splits; their languages."""
