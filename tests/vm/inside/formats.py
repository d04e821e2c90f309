"""In the machine: open the camera in every format that edgesparse may choose, and compare the images.

`python formats.py /dev/video0 320x180` prints, per format, the size, the shape of the image and its distance to the
first one's: the mean difference of a pixel, after blurring.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
from numpy.typing import NDArray

from edgesparse.stream.sources import v4l2


def main() -> None:
    device = Path(sys.argv[1])
    width, height = map(int, sys.argv[2].split("x"))
    modes = [mode for mode in v4l2.modes_of(device, (width, height)) if (mode.width, mode.height) == (width, height)]
    first, results = None, {}
    for mode in modes:
        image = read(device, mode)
        blurred = cv2.blur(image, (5, 5)).astype(np.float32)
        first = blurred if first is None else first
        distance = 0.0 if mode.fourcc == "GREY" else float(np.abs(blurred - first).mean())
        results[mode.fourcc] = {"fps": mode.fps, "shape": image.shape, "distance": round(distance, 2)}
    print(json.dumps(results))


def read(device: Path, mode: v4l2.Mode) -> NDArray[Any]:
    """Return the third image, since drivers may still change the first ones."""
    with mock.patch.object(v4l2, "choose", return_value=mode):
        capture = v4l2.open_camera(device, (mode.width, mode.height), None)
    try:
        for _ in range(3):
            taken, image = capture.read()
            assert taken, mode
        return image
    finally:
        capture.release()


if __name__ == "__main__":
    main()
