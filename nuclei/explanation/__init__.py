"""What the networks look at, and how far to trust the maps."""
