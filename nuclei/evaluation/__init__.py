"""How good the predictions are, and how certain that is."""
