"""What a file tells of its resolution, wherever it does so: OME-XML, ImageJ, Aperio's text, tags of TIFF."""

import math
import re
from typing import Any, NamedTuple
from xml.etree import ElementTree

import tifffile

from nuclei.errors import InputError

MICROSCOPE = 0.02, 10.0  # microns per pixel; other resolutions in a file are those of a printer or a screen
SQUARE = 0.05  # relative difference of width and height up to which a pixel is a square
LONGEST_TEXT = 2**24  # characters
MICRONS = {  # per unit, by its name in lower case with the Greek mu
    **dict.fromkeys(("μm", "um", "micron", "microns", "micrometer", "micrometre", "micrometers", "micrometres"), 1.0),
    **dict.fromkeys(("å", "angstrom"), 1e-4),
    **dict.fromkeys(("pm", "picometer", "picometre"), 1e-6),
    **dict.fromkeys(("nm", "nanometer", "nanometre", "nanometers", "nanometres"), 1e-3),
    **dict.fromkeys(("mm", "millimeter", "millimetre", "millimeters", "millimetres"), 1e3),
    **dict.fromkeys(("cm", "centimeter", "centimetre", "centimeters", "centimetres"), 1e4),
    **dict.fromkeys(("m", "meter", "metre", "meters", "metres"), 1e6),
    **dict.fromkeys(("in", "inch", "inches", '"'), 25_400.0),
}
TIFF_UNITS = {2: 25_400.0, 3: 1e4, 4: 1e3, 5: 1.0}  # inch, cm; mm and micron are tifffile's own
NUMBER = r"([0-9]+(?:[.,][0-9]*)?(?:[eE][-+]?[0-9]+)?|[.,][0-9]+)"


class Resolution(NamedTuple):
    """Microns per pixel, None where the file does not tell, and where it says so."""

    mpp: float | None
    source: str


UNKNOWN = Resolution(None, "not told")


def tiff_resolution(page: tifffile.TiffPage, where: str) -> Resolution:
    """Return the resolution of the first page of a TIFF.

    Raises InputError, which starts with `where`, where its pixels are no squares.
    """
    text = str(page.description or "")[:LONGEST_TEXT]
    x, y = (_pixels_per_unit(page, code) for code in (282, 283))
    unit = TIFF_UNITS.get(int(page.resolutionunit or 0))
    candidates = [
        (_ome_size(text), "OME-XML"),
        (_labelled(text, "MPP"), "MPP in its description"),
        (_from_density(x, y, _imagej_unit(text)), "ImageJ's unit"),
        (_from_density(x, y, unit), "resolution tags"),
    ]
    for size, source in candidates:
        mpp = square_mpp(size, f"{where}, {source}")
        if mpp:
            return Resolution(mpp, source)
    power = _labelled(text, "AppMag")
    return from_power(power[0]) if power else UNKNOWN


def from_power(power: float) -> Resolution:
    """Return the resolution that an objective of this power usually has: 0.25 microns per pixel at 40x."""
    mpp = sensible(10 / power) if power > 0 else None
    return Resolution(mpp, f"an objective of {power:g}x") if mpp else UNKNOWN


def density_resolution(per_inch: Any) -> Resolution:
    """Return the resolution by the dots per inch of a PNG or JPEG, a pair of numbers or None."""
    try:
        x, y = (25_400 / float(value) for value in per_inch)
    except (TypeError, ValueError, ZeroDivisionError):
        return UNKNOWN
    mpp = sensible(x) if abs(x - y) <= SQUARE * abs(x) else None
    return Resolution(mpp, "dots per inch") if mpp else UNKNOWN


def square_mpp(size: tuple[float, float] | None, where: str) -> float | None:
    """Return the side of a pixel of this width and height in microns; None where it is no microscope's.

    Raises InputError where it is no square.
    """
    if size is None or sensible(size[0]) is None or sensible(size[1]) is None:
        return None
    if abs(size[0] - size[1]) > SQUARE * size[0]:
        raise InputError(f"{where}: pixels of {size[0]:.3g} x {size[1]:.3g} microns, expected squares: resample it")
    return size[0]


def sensible(mpp: float) -> float | None:
    """Return what may be the resolution of a microscope, else None."""
    return mpp if MICROSCOPE[0] <= mpp <= MICROSCOPE[1] else None


def microns(unit: str) -> float | None:
    """Return the microns per unit of length, None for another unit (pixel)."""
    unit = re.sub(r"\\u([0-9a-fA-F]{4})", lambda code: chr(int(code[1], 16)), unit.strip())
    return MICRONS.get(unit.replace("\N{MICRO SIGN}", "\N{GREEK SMALL LETTER MU}").lower())


def ome_pixels(text: str) -> ElementTree.Element | None:
    """Return the first element Pixels of OME-XML, None where `text` is none."""
    if "<OME" not in text[:4096] and ":OME" not in text[:4096]:
        return None
    if "<!" in re.sub("<!--.*?-->", "", text, flags=re.DOTALL):  # entities may swell, and OME-XML has none
        return None
    try:
        root = ElementTree.fromstring(text.strip().rstrip("\0").encode())
    except (ElementTree.ParseError, ValueError):
        return None
    return next((element for element in root.iter() if element.tag.rpartition("}")[2] == "Pixels"), None)


def imagej_values(text: str) -> dict[str, str]:
    """Return what ImageJ's description says; nothing where `text` is none."""
    if not text.startswith("ImageJ="):
        return {}
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def _ome_size(text: str) -> tuple[float, float] | None:
    pixels = ome_pixels(text)
    if pixels is None:
        return None
    size = []
    for axis in "XY":
        per_unit = microns(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        try:
            size.append(float(pixels.get(f"PhysicalSize{axis}", "nan")) * (per_unit or math.nan))
        except ValueError:
            size.append(math.nan)
    x, y = size
    return (y if math.isnan(x) else x, x if math.isnan(y) else y)


def _imagej_unit(text: str) -> float | None:
    return microns(imagej_values(text).get("unit", ""))


def _labelled(text: str, name: str) -> tuple[float, float] | None:
    """Return the number behind a name, as Aperio writes it: `|MPP = 0.5|`."""
    match = re.search(rf"(?:^|[|\s;,]){name}\s*[=:]\s*{NUMBER}", text)
    if not match:
        return None
    value = float(match[1].replace(",", "."))
    return value, value


def _pixels_per_unit(page: tifffile.TiffPage, code: int) -> float:
    """Return XResolution (282) or YResolution (283), 0 where there is none."""
    try:
        numerator, denominator = page.tags.valueof(code, default=(0, 1))
        return float(numerator) / float(denominator)
    except (TypeError, ValueError, ZeroDivisionError):
        return 0.0


def _from_density(x: float, y: float, unit: float | None) -> tuple[float, float] | None:
    return (unit / x, unit / y) if unit and x > 0 and y > 0 else None
