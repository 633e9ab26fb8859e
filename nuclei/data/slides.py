"""Slides, read by OpenSlide in a process of its own (`slide_server`)."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Timer
from typing import Any, NamedTuple

import numpy as np

from nuclei.data.resolution import UNKNOWN, Resolution, from_power, square_mpp
from nuclei.errors import InputError

SERVER = Path(__file__).with_name("slide_server.py")
SLOWEST = 300.0  # seconds for one answer: a region of four million pixels takes less than one
LONGEST_ANSWER = 2**24  # bytes without the pixels


class Slide(NamedTuple):
    """A slide that is open in another process.

    Attributes:
        path: of the file.
        vendor: as OpenSlide names it.
        levels: width and height of each level in pixels, the largest first.
        downsamples: of each level.
        properties: as OpenSlide names them.
        process: the one that reads.
    """

    path: Path
    vendor: str
    levels: list[tuple[int, int]]
    downsamples: list[float]
    properties: dict[str, str]
    process: subprocess.Popen

    def read(self, corner: tuple[int, int], level: int, size: tuple[int, int]) -> np.ndarray:
        """Return a region, RGB, uint8 (height, width, 3).

        Args:
            corner: x and y in pixels of level 0.
            level: which one is read.
            size: width and height in pixels of the level.

        Raises:
            InputError: where the slide is damaged.
        """
        request = {"corner": list(corner), "level": level, "size": list(size)}
        _, pixels = _ask(self.path, self.process, request)
        if len(pixels) != 3 * size[0] * size[1]:
            raise _damaged(self.path, "a region of another size")
        return np.frombuffer(pixels, np.uint8).reshape(size[1], size[0], 3)


@contextmanager
def open_slide(path: Path) -> Iterator[Slide | None]:
    """Open a slide; None where OpenSlide does not know its format or is not installed.

    Raises InputError where the slide is damaged, also where that ends OpenSlide's process.
    """
    process = subprocess.Popen[bytes](
        [sys.executable, "-P", str(SERVER), str(path.absolute())],  # -P: `tables` beside it is no package to import
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        answer, _ = _ask(path, process, None)
        if answer.get("vendor") is None:
            yield None
            return
        levels = [(int(width), int(height)) for width, height in answer["levels"]]
        yield Slide(path, answer["vendor"], levels, answer["downsamples"], answer["properties"], process)
    finally:
        process.kill()
        with suppress(OSError):
            process.communicate()  # closes the pipes


def slide_resolution(slide: Slide) -> Resolution:
    """Return what OpenSlide knows of the resolution."""
    x, y = (_number(slide.properties.get(f"openslide.mpp-{axis}")) for axis in "xy")
    mpp = square_mpp((x, y), str(slide.path))
    if mpp:
        return Resolution(mpp, "the slide")
    power = _number(slide.properties.get("openslide.objective-power"))
    return from_power(power) if power > 0 else UNKNOWN


def _number(text: str | None) -> float:
    try:
        return float(text or "0")
    except ValueError:
        return 0.0


def _ask(path: Path, process: subprocess.Popen, request: dict[str, Any] | None) -> tuple[dict[str, Any], bytes]:
    """Send a request, None for the first answer; return the answer and the pixels that follow it."""
    assert process.stdin and process.stdout
    timer = Timer(SLOWEST, process.kill)
    timer.start()
    try:
        if request is not None:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
        answer = json.loads(process.stdout.readline(LONGEST_ANSWER))
        pixels = process.stdout.read(answer["bytes"])
    except (OSError, ValueError):  # a pipe without a reader, an answer that ends early
        process.kill()
        raise _damaged(path, f"OpenSlide ended with {_ending(process.wait())}") from None
    finally:
        timer.cancel()
    if "error" in answer:
        raise _damaged(path, answer["error"])
    return answer, pixels


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _damaged(path: Path, reason: str) -> InputError:
    return InputError(f"{path}: a damaged slide ({' '.join(reason.split())[:200]}): copy it again")
