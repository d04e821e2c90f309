"""How an engine takes the image where that is not N x 3 x H x W: what the letterbox writes, and the same with NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.base import TensorSpec


@dataclass(frozen=True)
class ImageFormat:
    """An engine's image input. `dtype`: float32, float16, int8 or uint8. `channels`: how many adjacent values a pixel
    has, zeros behind its three colors included; 0: one plane per color. `scale`: of INT8, the value of one step; 1 if
    the values themselves are INT8.
    """

    dtype: str
    channels: int = 0
    scale: float = 1.0

    @property
    def kernel(self) -> str:
        """The end of the names of the kernels in frames.cu that write it."""
        return f"{self.dtype}x{self.channels}" if self.channels else self.dtype

    def stored(self, image: TensorSpec) -> TensorSpec:
        """The tensor in memory for an image N x 3 x H x W."""
        n, _, height, width = image.shape
        return TensorSpec(image.name, (n, height, width, self.channels) if self.channels else image.shape, self.dtype)

    def pack(self, images: NDArray[np.float32], out: NDArray[Any]) -> None:
        """Write images N x 3 x H x W into `out`, which has the shape and type of `stored` and zeros behind the colors.

        INT8 is rounded half to even and clipped, like ONNX's QuantizeLinear.
        """
        values = images if self.dtype != "int8" else np.rint(images / np.float32(self.scale)).clip(-128, 127)
        target = np.moveaxis(out[..., :3], 3, 1) if self.channels else out
        np.copyto(target, values, casting="unsafe")
