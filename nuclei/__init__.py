"""Tell the type of the nucleus in the middle of each 100x100 crop of H&E-stained colon tissue.

>>> import numpy as np
>>> from nuclei import load
>>> model = load("resnet.safetensors")
>>> model.classes
('normal epithelial', 'cancer epithelial', 'muscle', 'immune leukocyte')
>>> crops = np.full((5, 100, 100, 3), 200, np.uint8)
>>> probabilities = model.predict(crops)
>>> probabilities.shape, probabilities.dtype
((5, 4), dtype('float32'))
>>> bool(np.allclose(probabilities.sum(axis=1), 1))
True
>>> sets = model.sets(probabilities)  # of all classes that a nucleus may well be; more than one: unsure
>>> sets.shape, sets.dtype
((5, 4), dtype('bool'))
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nuclei.inference.classifier import Classifier

__all__ = ["load"]


def load(
    path: str | Path,
    *more: str | Path,
    device: str = "auto",
    threads: int | None = None,
    precision: str = "auto",
    tta: bool = True,
) -> "Classifier":
    """Load a trained model, or several whose probabilities are averaged.

    Args:
        path: Safetensors file that the pipeline wrote.
        *more: Further ones.
        device: cpu, cuda or mps; auto takes the first of cuda, mps and cpu that is available.
        threads: CPU threads; None takes all, other numbers may change the last digits.
        precision: float32, bfloat16, or auto (bfloat16 where the processor has instructions for it).
        tta: Average over the eight flips and rotations of each crop, as `submit` does.

    Returns:
        A `Classifier`: its `predict` takes crops, uint8 (N, 100, 100, 3), or (N, 100, 100, 1) where the model was
        trained on grey ones, and returns probabilities, float32 (N, 4), of its `classes`; its `sets` turns these into
        conformal sets, bool (N, 4): the classes that each crop may well be.

    Raises:
        InputError: (`nuclei.errors`) A file is not a model of this project.
    """
    from nuclei.inference.classifier import load_classifier

    return load_classifier([Path(path), *map(Path, more)], device, threads, precision, tta)
