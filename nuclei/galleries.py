"""Galleries of heat maps: a few crops of each class, and the worst errors."""

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.figure import Figure

from nuclei.explanation import Explanation
from nuclei.plots import plot_attributions


def draw_galleries(explanation: Explanation, classes: Sequence[str], per_class: int) -> Iterator[tuple[str, Figure]]:
    """Yield a name and a figure per class, of the first `per_class` crops drawn of it, and one of the worst errors."""
    table, names = explanation.table, {}
    drawn = table.iloc[: explanation.examples.drawn]
    for label, name in enumerate(classes):
        names[name] = np.flatnonzero(drawn["Label"] == label)[:per_class]
    names["worst errors"] = explanation.examples.errors
    for number, (name, chosen) in enumerate(names.items()):
        titles = [f"{row.Filename}\ntrue: {classes[row.Label]}" for row in table.iloc[chosen].itertuples()]
        maps, captions = {}, {}
        for model, own in explanation.attributions.items():
            maps[model] = {method: values[chosen] for method, values in own.maps.items()}
            captions[model] = [f"{classes[row.argmax()]} {row.max():.0%}" for row in own.probabilities[chosen]]
        figure = plot_attributions(explanation.crops[chosen], explanation.nuclei[chosen], titles, maps, captions)
        yield f"{number}_{name.replace(' ', '_')}", figure
