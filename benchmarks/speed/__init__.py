"""How fast each step is: `python -m benchmarks`."""
