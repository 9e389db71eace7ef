"""Two language models: found, opened, checked; hooks; which of their positions have read the same
text."""
