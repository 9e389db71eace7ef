"""Where results live: whole or not at all, with their hash and what they were made from."""
