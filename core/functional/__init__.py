"""Features by what they do: entropy, attention (5.2)."""
