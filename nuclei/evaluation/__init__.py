"""How good the predictions are, and how certain that is.

In: out-of-fold logits with labels and groups. Out: scores with intervals, the comparison of two networks, calibration,
label issues and robustness. Begin with evaluate.py.
"""
