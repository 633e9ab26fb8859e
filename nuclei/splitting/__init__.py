"""Which crops share pixels, and which fold each crop gets.

In: arrays of crops and their groups. Out: pairs that overlap, a table with the fold of every crop, and how far the
folds leak. Begin with split.py.
"""
