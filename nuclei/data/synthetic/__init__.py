"""Synthetic H&E tissue, drawn."""
