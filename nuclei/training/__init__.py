"""From crops and settings to trained networks."""
