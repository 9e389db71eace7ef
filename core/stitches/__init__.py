"""Affine maps between two residual streams: fitted, and what crossing costs (Eq. 1-6, Table 1)."""
