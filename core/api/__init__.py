"""A read-only HTTP API over the tables and functions of the command line."""
