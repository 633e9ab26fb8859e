"""The networks, and what a trained one answers.

In: the shape of a network, or a checkpoint, and crops. Out: logits, calibrated probabilities and conformal sets. Begin
with networks.py, which lists the networks; checkpoint.py reads and writes them.
"""
