"""OpenSlide in a process of its own: it may be aborted by a damaged slide without taking the program along.

Run by `nuclei.data.slides` as a script, so that it imports nothing of the package. A request is a line of JSON on
standard input; the answer is a line of JSON on standard output, with the number of bytes of pixels that follow it.
"""

import contextlib
import json
import os
import sys
from typing import Any, BinaryIO

MOST_MEMORY = 2**33  # bytes of address space


def main() -> None:
    """Answer until standard input ends. What C libraries print goes nowhere."""
    answers = os.fdopen(os.dup(1), "wb")
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 pathlib takes time to import
        os.dup2(nowhere.fileno(), 1)
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    serve(sys.argv[1], answers)


def serve(path: str, answers: BinaryIO) -> None:
    """Answer requests about the slide at `path`."""
    try:
        import openslide
    except Exception:  # not installed, or a library is missing
        _answer(answers, {"vendor": None})
        return
    try:
        vendor = openslide.OpenSlide.detect_format(path)
        if vendor is None:
            _answer(answers, {"vendor": None})
            return
        slide = openslide.OpenSlide(path)
        facts = {
            "vendor": vendor,
            "levels": [list(size) for size in slide.level_dimensions],
            "downsamples": list(slide.level_downsamples),
            "properties": {name: slide.properties[name] for name in slide.properties if name.startswith("openslide.")},
        }
    except Exception as error:  # whatever a damaged file makes of it
        _answer(answers, {"error": str(error)})
        return
    _answer(answers, facts)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            pixels = _read(slide, **request)
        except Exception as error:
            _answer(answers, {"error": str(error)})
        else:
            _answer(answers, {}, pixels)


def _read(slide: Any, corner: list[int], level: int, size: list[int]) -> bytes:
    """Return the RGB pixels of a region; what was not scanned is white."""
    import PIL.Image

    region = slide.read_region(corner, level, size)
    glass = PIL.Image.new("RGB", region.size, "white")
    glass.paste(region, mask=region.getchannel("A"))
    return glass.tobytes()


def _answer(answers: BinaryIO, answer: dict[str, Any], pixels: bytes = b"") -> None:
    answers.write(json.dumps(answer | {"bytes": len(pixels)}).encode() + b"\n")
    answers.write(pixels)
    answers.flush()


if __name__ == "__main__":
    main()
