"""A head for FastestDet, written with public names only, as if edgesparse had none.

One map at a stride of 16 pixels holds objectness, box and class scores of each cell. The decoding is that of
https://github.com/dog-qiuqiu/FastestDet, utils/tool.py.
"""

import numpy as np

import edgesparse

STRIDE = 16


class FastestDet(edgesparse.Head):
    outputs = "one output [B, 5 + C, H / 16, W / 16]: objectness, center, size, class scores after the softmax"
    convention = edgesparse.InputSpec(size=(1, 1), letterbox="stretch", colour="bgr")  # the model gives the size

    def fits(self, layout: edgesparse.Layout) -> bool:
        height, width = layout.size
        return [shape[2:] for shape in layout.shapes] == [(height // STRIDE, width // STRIDE)]

    def classes(self, layout: edgesparse.Layout) -> int:
        return layout.shapes[0][1] - 5

    def decode(self, layout, conf, multi_label=False):
        height, width = layout.size
        y, x = np.mgrid[: height // STRIDE, : width // STRIDE]

        def decode(outputs, image):
            objectness, dx, dy, w, h, *scores = outputs[0][image]
            confidence = objectness**0.6 * np.max(scores, axis=0) ** 0.4
            keep = confidence >= conf
            center_x, center_y = ((np.tanh(dx) + x) * STRIDE)[keep], ((np.tanh(dy) + y) * STRIDE)[keep]
            half_width, half_height = width / 2 / (1 + np.exp(-w[keep])), height / 2 / (1 + np.exp(-h[keep]))
            corners = center_x - half_width, center_y - half_height, center_x + half_width, center_y + half_height
            return np.stack(corners, axis=1), confidence[keep], np.argmax(scores, axis=0)[keep]

        return decode
