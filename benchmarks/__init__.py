"""The seed's way and ours on the same crops: `uv run python -m benchmarks`, see `--help`. What was tried: NOTES.md."""
