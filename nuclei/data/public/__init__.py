"""Public sets of labelled nuclei, from the archives as their authors ship them."""
