"""StitchLens computes here; nothing in this package imports streamlit and nothing happens at import."""

__version__ = "0.1.0"
