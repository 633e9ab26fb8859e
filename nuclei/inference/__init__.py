"""Trained networks at work on crops, tiles and slides of others.

In: a checkpoint, and crops or an image with the positions of nuclei. Out: tables, GeoJSON, an overlay, an ONNX file.
Begin with classifier.py, the one class that a program needs.
"""
