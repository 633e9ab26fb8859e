"""Pictures as data URIs: a page that holds its pictures needs no other file."""

import io
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

QUALITY = 88  # of WebP, of 100: no difference is seen in a photograph, and a tenth of the PNG


@dataclass(frozen=True)
class Picture:
    """uri: data:image/webp;base64,...; width, height: pixels."""

    uri: str
    width: int
    height: int


def inline_file(path: Path, photograph: bool) -> Picture:
    """Turn the PNG `path` into WebP: a photograph with losses that nobody sees, a drawing without any."""
    with Image.open(path) as image:
        return _webp(image.convert("RGB"), lossless=not photograph)


def inline_crop(crop: np.ndarray) -> Picture:
    """Turn a crop, uint8 (H, W, C), C: 1 or 3, into WebP of about 3 KB."""
    return _webp(Image.fromarray(crop.squeeze()).convert("RGB"), lossless=False)


def _webp(image: Image.Image, lossless: bool) -> Picture:
    file = io.BytesIO()
    image.save(file, "WEBP", lossless=lossless, quality=100 if lossless else QUALITY, method=2)
    return Picture(f"data:image/webp;base64,{b64encode(file.getvalue()).decode()}", *image.size)
