"""Several sinks at once, as the command line names them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from edgesparse.config import ONLY
from edgesparse.runtime.detections import Detections
from edgesparse.stream.frames import Frame, Sink
from edgesparse.stream.sinks.text import CocoJson, Images, JsonLines, Video, Window, YoloTxt


@contextmanager
def open_sinks(
    names: Sequence[str],
    *,
    jsonl: str | None = None,
    txt: Path | None = None,
    coco: Path | None = None,
    video: Path | None = None,
    save_images: Path | None = None,
    show: bool = False,
    fps: float | Mapping[str, float] = 0.0,
    force: bool = False,
) -> Iterator[list[Sink]]:
    """The sinks that were asked for, all closed at the end. `names`: class names; `fps`: of the video; of several
    cameras by name, which have a video (out-NAME.mp4) and a window each. Raises SinkError."""
    rates = fps if isinstance(fps, Mapping) else {ONLY: fps}
    several = len(rates) > 1

    def film(camera: str) -> Sink:
        path = Path(str(video))
        path = path.with_stem(f"{path.stem}-{camera}") if several else path
        return Video(path, names, rates.get(camera) or 30.0, force=force)

    def window(camera: str) -> Sink:
        return Window(camera, names)

    with ExitStack() as stack:
        sinks: list[Sink] = []
        asked: tuple[tuple[object, Callable[[], Sink]], ...] = (
            (jsonl, lambda: JsonLines(str(jsonl), names, force=force)),
            (txt, lambda: YoloTxt(Path(str(txt)), names, force=force)),
            (coco, lambda: CocoJson(Path(str(coco)), names, force=force)),
            (video, lambda: EachCamera(film, rates) if several else film(*rates)),
            (save_images, lambda: Images(Path(str(save_images)), names, force=force)),
            (show, lambda: EachCamera(window, rates) if several else window("edgesparse")),
        )
        for wanted, make in asked:
            if wanted:
                sinks.append(stack.enter_context(make()))
        yield sinks


class EachCamera(Sink):
    """A sink of its own for each camera; `make` makes it from the camera's name, at once or when a new one comes."""

    def __init__(self, make: Callable[[str], Sink], cameras: Iterable[str]) -> None:
        self._make = make
        self._sinks: dict[str, Sink] = {}
        try:
            for camera in cameras:
                self._sinks[camera] = make(camera)
        except BaseException:
            self.close()
            raise

    def write(self, frame: Frame, detections: Detections) -> None:
        sink = self._sinks.get(frame.source)
        if sink is None:
            sink = self._sinks[frame.source] = self._make(frame.source)
        sink.write(frame, detections)
        self.wants_stop = sink.wants_stop

    def close(self) -> None:
        with ExitStack() as stack:
            for sink in self._sinks.values():
                stack.callback(sink.close)
