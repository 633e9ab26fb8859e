"""Trained networks at work on crops, tiles and slides."""
