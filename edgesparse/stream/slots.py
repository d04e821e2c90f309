"""Where a live source's frames are kept: three pictures that are used again and again."""

from __future__ import annotations

from edgesparse.stream.frames import Frame, Image


class Slots:
    """Three pictures: one being written, the newest, one being read. Not locked: its user holds a lock."""

    def __init__(self) -> None:
        self._images: list[Image | None] = [None, None, None]
        self._writing, self._newest, self._reading = 0, 1, 2
        self._time_ns = self._index = 0
        self.fresh = False
        """Whether the newest has not been taken yet."""

    @property
    def spare(self) -> Image | None:
        """The picture to write into; None before there is one."""
        return self._images[self._writing]

    def renew(self) -> None:
        """Give the picture being written away, to a writer that is stuck with it."""
        self._images[self._writing] = None

    def publish(self, image: Image, time_ns: int, index: int) -> bool:
        """Make `image`, the spare or one of another size, the newest; whether an untaken one is dropped for it."""
        self._images[self._writing] = image
        self._writing, self._newest = self._newest, self._writing
        self._time_ns, self._index = time_ns, index
        dropped, self.fresh = self.fresh, True
        return dropped

    def take(self, name: str) -> Frame:
        """The newest frame; its picture stays untouched until the next call."""
        self._reading, self._newest = self._newest, self._reading
        self.fresh = False
        image = self._images[self._reading]
        assert image is not None
        return Frame(image, self._time_ns, self._index, name)
