"""Opens sinks by their names on the command line and in the API. A new sink is one line in SINKS."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgesparse.config import ONLY
from edgesparse.errors import SinkError
from edgesparse.runtime.detections import Detections
from edgesparse.stream.frames import Frame
from edgesparse.stream.sinks.base import Sink
from edgesparse.stream.sinks.images import Images
from edgesparse.stream.sinks.json_lines import JsonLines
from edgesparse.stream.sinks.window import Window
from edgesparse.stream.sinks.yolo_txt import YoloTxt


@dataclass(frozen=True)
class SinkOptions:
    """What any sink may use."""

    names: Sequence[str]
    """Class names."""
    fps: float = 0.0
    """Nominal frames per second; 0 if unknown."""
    force: bool = False
    """Whether existing files may be overwritten."""
    categories: str | Path | None = None
    """A COCO JSON file whose ids `coco` takes."""
    camera: str = ""
    """The camera's name, for a sink per camera if there are several cameras."""

    def path(self, target: str | Path) -> Path:
        """Return the target, or out-CAMERA.mp4 for out.mp4 if there are several cameras."""
        path = Path(target)
        return path.with_stem(f"{path.stem}-{self.camera}") if self.camera else path


@dataclass(frozen=True)
class SinkKind:
    open: Callable[[Any, SinkOptions], Sink]
    """Opens the sink on a target: a path, or true."""
    per_camera: bool = False
    """Whether each camera has its own sink."""


def _coco(path: Any, options: SinkOptions) -> Sink:
    from edgesparse.stream.sinks.coco_json import CocoJson  # reads labels too

    return CocoJson(path, options.names, categories=options.categories, force=options.force)


def _video(path: Any, options: SinkOptions) -> Sink:
    from edgesparse.stream.sinks.video import Video  # writes three formats

    return Video(options.path(path), options.names, options.fps, force=options.force)


SINKS: dict[str, SinkKind] = {
    "jsonl": SinkKind(lambda path, o: JsonLines(path, o.names, force=o.force)),
    "txt": SinkKind(lambda folder, o: YoloTxt(folder, force=o.force)),
    "coco": SinkKind(_coco),
    "video": SinkKind(_video, per_camera=True),
    "save_images": SinkKind(lambda folder, o: Images(folder, o.names, force=o.force)),
    "show": SinkKind(lambda _, o: Window(o.camera or "edgesparse", o.names), per_camera=True),
}


@contextmanager
def open_sinks(
    names: Sequence[str],
    *,
    fps: float | Mapping[str, float] = 0.0,
    force: bool = False,
    categories: str | Path | None = None,
    **targets: str | Path | bool | None,
) -> Iterator[list[Sink]]:
    """Open sinks, and close them all at the end of the context.

    `names`: class names. `fps`: nominal frames per second, or a mapping from each camera's name to them. `force`:
    overwrite existing files. `categories`: a COCO JSON file whose category and image ids `coco` takes. `targets`: what
    to open, by the names in SINKS: `jsonl`, `coco` and `video` take a file ("-" is standard output for `jsonl`), `txt`
    and `save_images` a folder, `show` true. With several cameras, each has its own video (out-NAME.mp4) and window.
    Raises SinkError, ConfigError.
    """
    rates = fps if isinstance(fps, Mapping) else {ONLY: fps}
    with ExitStack() as stack:
        sinks: list[Sink] = []
        for name in targets:
            if name not in SINKS:
                raise SinkError(f"no sink '{name}': needed one of {', '.join(SINKS)}")
        for name, kind in SINKS.items():
            if target := targets.get(name):
                sinks.append(
                    stack.enter_context(
                        _open(kind, target, SinkOptions(names, force=force, categories=categories), rates)
                    )
                )
        yield sinks


def _open(kind: SinkKind, target: str | Path | bool, options: SinkOptions, rates: Mapping[str, float]) -> Sink:
    if not kind.per_camera:
        return kind.open(target, options)
    if len(rates) == 1:
        return kind.open(target, replace(options, fps=next(iter(rates.values()))))

    def open_for(camera: str) -> Sink:
        return kind.open(target, replace(options, camera=camera, fps=rates.get(camera, 0.0)))

    return PerCamera(open_for, rates)


class PerCamera(Sink):
    """A separate sink for each camera. `open_for` opens it by the camera's name, now for `cameras` and later for a
    camera that is added."""

    def __init__(self, open_for: Callable[[str], Sink], cameras: Iterable[str]) -> None:
        self._open_for = open_for
        self._sinks: dict[str, Sink] = {}
        try:
            for camera in cameras:
                self._sinks[camera] = open_for(camera)
        except BaseException:
            self.close()
            raise

    def write(self, frame: Frame, detections: Detections) -> None:
        sink = self._sinks.get(frame.source)
        if sink is None:
            sink = self._sinks[frame.source] = self._open_for(frame.source)
        sink.write(frame, detections)
        self.wants_stop = sink.wants_stop

    def close(self) -> None:
        with ExitStack() as stack:
            for sink in self._sinks.values():
                stack.callback(sink.close)
