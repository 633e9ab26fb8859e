"""Images as data URIs: a page that holds its images needs no other file."""

import io
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

QUALITY = 88  # of WebP, of 100: no difference is seen in a photograph, and a tenth of the PNG


@dataclass(frozen=True)
class Picture:
    """An image for an HTML page.

    Attributes:
        uri: data:image/webp;base64,...
        width: Pixels.
        height: Pixels.
    """

    uri: str
    width: int
    height: int


def inline_file(path: Path, photograph: bool) -> Picture:
    """Turn a PNG into WebP.

    Args:
        path: Of the PNG.
        photograph: Whether losses that nobody sees are allowed; a drawing has none.
    """
    with Image.open(path) as image:
        return _webp(image.convert("RGB"), lossless=not photograph)


def inline_crop(crop: np.ndarray) -> Picture:
    """Turn `crop`, uint8 (H, W, C), C: 1 or 3, into WebP of about 3 KB."""
    return _webp(Image.fromarray(crop.squeeze()).convert("RGB"), lossless=False)


def _webp(image: Image.Image, lossless: bool) -> Picture:
    file = io.BytesIO()
    image.save(file, "WEBP", lossless=lossless, quality=100 if lossless else QUALITY, method=2)
    width, height = image.size
    return Picture(f"data:image/webp;base64,{b64encode(file.getvalue()).decode()}", width, height)
