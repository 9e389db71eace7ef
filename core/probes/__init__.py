"""Linear probes carried across (4)."""
