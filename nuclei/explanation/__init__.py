"""What the networks look at, and how far the heat maps can be trusted.

In: held-out crops and the networks that did not see them. Out: heat maps, and scores of their faithfulness against
blind orders and random networks. Begin with explain.py.
"""
