"""How good the predictions are, and how sure that is."""
