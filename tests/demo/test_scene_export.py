from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgesparse.demo.export import SceneFormat, export
from edgesparse.demo.scene import CLASSES, still
from edgesparse.errors import ConfigError, SinkError

SMALL = SceneFormat(96, 128)


def test_an_export_has_the_drawn_images_and_labels(tmp_path: Path) -> None:
    done: list[tuple[str, int, int]] = []
    export(tmp_path / "set", 3, 11, scene=SceneFormat(240, 320, "png"), progress=lambda *at: done.append(at))
    dataset = json.loads((tmp_path / "set" / "instances.json").read_text())
    assert done == [("drawing", n, 3) for n in (1, 2, 3)]
    assert [(c["id"], c["name"]) for c in dataset["categories"]] == list(enumerate(CLASSES))
    for number, image in enumerate(dataset["images"]):
        frame, labels = still(11 + number, height=240, width=320)
        assert (image["height"], image["width"]) == (240, 320)
        drawn = cv2.imread(str(tmp_path / "set" / "images" / image["file_name"]))
        assert drawn is not None and np.array_equal(drawn, frame)
        boxes = [a for a in dataset["annotations"] if a["image_id"] == image["id"]]
        assert [a["category_id"] for a in boxes] == labels.class_id.tolist()
        for box, (left, top, right, bottom) in zip(boxes, labels.xyxy.tolist(), strict=True):
            assert box["bbox"] == [left, top, right - left, bottom - top]
            assert box["area"] == (right - left) * (bottom - top)
            assert box["iscrowd"] == 0
    assert len({a["id"] for a in dataset["annotations"]}) == len(dataset["annotations"])
    assert all(a["id"] > 0 for a in dataset["annotations"])


def test_a_jpeg_looks_like_its_frame(tmp_path: Path) -> None:
    export(tmp_path / "set", 1, 2)
    seen = cv2.imread(str(tmp_path / "set" / "images" / "000000.jpg"))
    assert seen is not None and np.abs(seen.astype(int) - still(2)[0]).mean() < 3


def test_only_an_earlier_export_is_replaced_and_only_with_force(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    export(tmp_path / "set", 1, 0, scene=SMALL)  # an empty folder may be overwritten
    with pytest.raises(ConfigError, match=r"set exists: pass --force"):
        export(tmp_path / "set", 1, 0, scene=SMALL)
    mine = tmp_path / "set" / "mine.txt"
    mine.write_text("mine")
    for force in (False, True):
        with pytest.raises(ConfigError, match="set exists and is not a demo export"):
            export(tmp_path / "set", 1, 0, scene=SMALL, force=force)
        with pytest.raises(ConfigError, match=r"mine.txt exists and is not a demo export"):
            export(mine, 1, 0, scene=SMALL, force=force)
    assert mine.read_text() == "mine"
    mine.unlink()
    export(tmp_path / "set", 2, 0, scene=SMALL, force=True)
    assert sorted(p.name for p in (tmp_path / "set").iterdir()) == ["images", "instances.json"]
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def test_an_interrupted_export_changes_nothing(tmp_path: Path) -> None:
    export(tmp_path / "set", 1, 0, scene=SMALL)

    def stop(step: str, done: int, count: int) -> None:
        raise KeyboardInterrupt

    for name in ("set", "other"):
        with pytest.raises(KeyboardInterrupt):
            export(tmp_path / name, 5, 0, scene=SMALL, force=True, progress=stop)
    assert [p.name for p in tmp_path.iterdir()] == ["set"]
    assert len(list((tmp_path / "set" / "images").iterdir())) == 1


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match="cannot write"):
        export(tmp_path / "file" / "set", 1, 0, scene=SMALL)


@pytest.mark.parametrize(("count", "kind"), [(0, "jpg"), (1, "gif")])
def test_a_wrong_count_or_kind_is_refused(tmp_path: Path, count: int, kind: str) -> None:
    with pytest.raises(ConfigError, match="needed"):
        export(tmp_path / "set", count, 0, scene=SceneFormat(kind=kind))  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
