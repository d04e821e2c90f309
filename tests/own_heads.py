"""A head as a user writes one, for the network of tests/squares.py: no file of edgesparse but the public names."""

from __future__ import annotations

from pathlib import Path

SOURCE = '''
import numpy as np

import edgesparse


class Squares(edgesparse.Head):
    """Center and size in rows, then a score per class."""

    outputs = "one output [B, 4 + C, N]"

    def fits(self, layout):
        return layout.table is not None and layout.table[0] > 4

    def classes(self, layout):
        return layout.table[0] - 4

    def decode(self, layout, conf, multi_label=False):
        def decode(outputs, image):
            x, y, width, height, *scores = outputs[0][image]
            scores = np.array(scores)
            boxes = np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], 1)
            return boxes, scores.max(0), scores.argmax(0)

        return decode
'''


def write(folder: Path, name: str = "my_head.py", source: str = SOURCE) -> str:
    """Write the head; returns what a recipe in that folder names it by."""
    (folder / name).write_text(source)
    return f"{name}:Squares"


def install(folder: Path, name: str, source: str = SOURCE) -> None:
    """Write an installed package `their-heads` into a folder of the search path, which offers the head as `name`."""
    (folder / "their_heads.py").write_text(source)
    info = folder / "their_heads-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-heads\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[edgesparse.heads]\n{name} = their_heads:Squares\n")
