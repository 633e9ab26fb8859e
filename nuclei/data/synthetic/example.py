"""Synthetic tiles with labelled nuclei, as a project of QuPath and as a table would hand them over."""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from nuclei.data.geojson import class_colours, classified, point, write_features
from nuclei.data.synthetic.tissue import draw_stain, draw_tile
from nuclei.files import atomic_directory, write_csv
from nuclei.task import CLASSES, MPP

DPI = 25_400 / MPP  # dots per inch, by which the tiles tell their resolution


def write_example(out: Path, tiles: int, seed: int) -> pd.DataFrame:
    """Draw tiles, two per patient, and write them with their nuclei.

    Args:
        out: New folder: tile_1.png and so on, tile_1.geojson with QuPath's classifications, and points.csv with Image,
            x, y (pixels), label and patient of all tiles.
        tiles: How many, 400x400 pixels each.
        seed: Of what is drawn; the same seed, the same bytes.

    Returns:
        What points.csv holds.
    """
    tables, colours = [], class_colours(len(CLASSES))
    with atomic_directory(out) as folder:
        for number in range(1, tiles + 1):
            patient = (number + 1) // 2
            stain = draw_stain(np.random.default_rng([seed, 0, patient]))
            pixels, nuclei = draw_tile(np.random.default_rng([seed, 1, number]), stain, cancer=number % 2 == 0)
            name = f"tile_{number}.png"
            Image.fromarray(pixels).save(folder / name, dpi=(DPI, DPI))
            features = (
                classified(point(float(row.x), float(row.y)), CLASSES[row.label], colours[row.label], {})
                for row in nuclei.itertuples()
            )
            write_features(folder / f"tile_{number}.geojson", features)
            columns = {"Image": name, "x": nuclei.x, "y": nuclei.y, "label": [CLASSES[i] for i in nuclei.label]}
            tables.append(pd.DataFrame(columns).assign(patient=f"patient {patient}"))
        table = pd.concat(tables, ignore_index=True)
        write_csv(folder / "points.csv", table)
    return table
