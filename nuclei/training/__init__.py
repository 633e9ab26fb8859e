"""From crops and settings to trained networks.

In: crops with their folds. Out: the best hyper-parameters, one network per held-out fold and one for all crops, and
out-of-fold logits. Begin with train.py; loop.py is the training itself, tuning.py the search.
"""
