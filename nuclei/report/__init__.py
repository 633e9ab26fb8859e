"""All results on one page, every curve, and a card for each network.

In: what the stages wrote to reports/. Out: index.html, model cards and figures; nothing is computed here that is not
in a table. Begin with page.py.
"""
