"""Tell the type of the nucleus in the middle of each 100x100 crop of H&E-stained colon tissue."""
