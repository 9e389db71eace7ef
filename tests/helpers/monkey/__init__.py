"""A seeded monkey: it does whatever a page offers, by chance, and sees what goes wrong."""
