"""What finds nuclei in a tile: the built-in detector, or a function of the user's.

A detector is a function of a tile, RGB, uint8 (H, W, 3), and its resolution, microns per pixel. It returns integers
(H, W): 0 where no nucleus is, else the number of the nucleus. Numbers may be left out.
"""

import hashlib
import traceback
from collections.abc import Callable
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nuclei.errors import InputError, one_line, show
from nuclei.inference.haematoxylin import label_nuclei


class Detector(NamedTuple):
    """What finds nuclei in a tile.

    Attributes:
        labels: The function.
        about: What a record tells of it.
    """

    labels: Callable[[np.ndarray, float], np.ndarray]
    about: dict[str, Any]


def built_in_detector(threshold: float) -> Detector:
    """Return the detector that needs no other library; threshold: see `nuclei.inference.haematoxylin`."""
    about = {"detector": "haematoxylin", "threshold": float(f"{threshold:.6g}")}
    return Detector(partial(label_nuclei, threshold=threshold), about)


def load_detector(name: str) -> Detector:
    """Load a detector of the user's.

    Args:
        name: FILE.py:FUNCTION. The file is run as any program is: it has to be one that you trust.

    Returns:
        The detector; a record tells its name and the SHA-256 of its file.

    Raises:
        InputError: There is no such file or function, or the file needs what is not installed.
    """
    file, _, function = name.rpartition(":")
    path = Path(file)
    if path.suffix != ".py" or not path.is_file():
        raise InputError(f"--detector {show(name)}: no such file: expected FILE.py:FUNCTION")
    spec = spec_from_file_location(path.stem, path)
    assert spec and spec.loader  # it ends with .py
    module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # it is the user's code: any may come
        raise InputError(f"{path}: cannot be run ({_describe(error)}): mend it, or install what it needs") from None
    detect = getattr(module, function, None)
    if not callable(detect):
        raise InputError(f"{path}: has no function {show(function)}: expected FILE.py:FUNCTION")
    about = {"detector": f"{path.name}:{function}", "detector_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    return Detector(partial(_checked, detect, name), about)


def _checked(detect: Callable[[np.ndarray, float], Any], name: str, tile: np.ndarray, mpp: float) -> np.ndarray:
    """Return what a detector of the user's returns, if that may be labels."""
    try:
        labels = np.asarray(detect(tile, mpp))
    except Exception as error:  # as above
        raise InputError(f"--detector {show(name)}: failed on a tile ({_describe(error)}): mend it") from None
    if labels.dtype.kind not in "iu" or labels.shape != tile.shape[:2] or labels.min(initial=0) < 0:
        raise InputError(
            f"--detector {show(name)}: returned {labels.dtype} {labels.shape} for a tile of {tile.shape[:2]} pixels, "
            "expected integers from 0 on, of the tile's height and width"
        )
    return labels


def _describe(error: Exception) -> str:
    """Say what an error is, and in which line it came up."""
    line = traceback.extract_tb(error.__traceback__)[-1].lineno
    return one_line(f"{type(error).__name__}: {str(error)[:200]}; line {line}")
