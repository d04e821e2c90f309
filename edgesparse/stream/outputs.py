"""Several sinks at once, as the command line names them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from edgesparse.stream.frames import Sink
from edgesparse.stream.sinks import CocoJson, JsonLines, Pictures, Video, Window, YoloTxt


@contextmanager
def open_sinks(
    names: Sequence[str],
    *,
    jsonl: str | None = None,
    txt: Path | None = None,
    coco: Path | None = None,
    video: Path | None = None,
    pictures: Path | None = None,
    show: bool = False,
    fps: float = 0.0,
    force: bool = False,
) -> Iterator[list[Sink]]:
    """The sinks that were asked for, all closed at the end. `names`: class names; `fps`: of the video. SinkError."""
    with ExitStack() as stack:
        sinks: list[Sink] = []
        for wanted, make in (
            (jsonl, lambda: JsonLines(str(jsonl), names, force=force)),
            (txt, lambda: YoloTxt(Path(str(txt)), names, force=force)),
            (coco, lambda: CocoJson(Path(str(coco)), names, force=force)),
            (video, lambda: Video(Path(str(video)), names, fps or 30.0, force=force)),
            (pictures, lambda: Pictures(Path(str(pictures)), names, force=force)),
            (show, lambda: Window("edgesparse", names)),
        ):
            if wanted:
                sinks.append(stack.enter_context(make()))
        yield sinks
