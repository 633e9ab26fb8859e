"""Whatever people have, read and checked: competition zips, tables, images, slides, public data sets; and the sample.

In: files from others, none of which is trusted. Out: arrays of crops with their tables, or one line that says what is
wrong. Begin with unpack.py; images.py opens any image, public/ imports data sets, synthetic/ draws the sample.
"""
