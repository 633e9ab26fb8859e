"""Longer experiments, each a program: accuracy, generalisation, cluster_scaling."""
