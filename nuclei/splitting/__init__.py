"""Who shares pixels, and which fold everyone gets."""
