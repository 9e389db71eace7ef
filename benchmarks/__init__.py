"""Each claim of speed or memory as a program that prints its ratio: `python -m benchmarks.NAME
[--json]`."""
