from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgesparse.demo.light import METALS, draw_light
from edgesparse.demo.parts import CLASSES, VARIANTS, model
from edgesparse.demo.scene import Labels, Scene, _Part, still
from edgesparse.demo.sprite import Outline, Pose, draw_outline, draw_sprite, lay
from edgesparse.errors import ConfigError

Bytes = NDArray[np.uint8]
SIZES = [(480, 640), (239, 321), (720, 1280), (200, 700), (400, 150)]


@pytest.fixture(scope="module")
def stills() -> list[Labels]:
    return [still(seed)[1] for seed in range(60)]


def frames(seed: int, count: int, height: int = 480, width: int = 640) -> list[tuple[Bytes, Labels]]:
    scene = Scene(seed, height=height, width=width)
    return [scene.render() for _ in range(count)]


def same(a: tuple[Bytes, Labels], b: tuple[Bytes, Labels]) -> bool:
    (frame, labels), (other, others) = a, b
    return np.array_equal(frame, other) and listed(labels) == listed(others)


def test_the_same_seed_gives_the_same_frames_whatever_the_threads() -> None:
    first = frames(3, 40)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        assert all(same(a, b) for a, b in zip(first, frames(3, 40), strict=True))
        assert same(still(5), still(5))
    finally:
        cv2.setNumThreads(threads)


def test_two_scenes_side_by_side_do_not_disturb_each_other() -> None:
    alone = frames(1, 10)
    single, other = Scene(1), Scene(2)
    for expected in alone:
        assert same(single.render(), expected)
        other.render()


def test_stills_are_still_those_that_the_default_detector_learnt_from() -> None:
    """Another version of OpenCV may round an edge differently; another order of random draws gives another image."""
    boxes = [
        (2, 6, 298, 86, 378), (0, 11, 43, 72, 105), (0, 159, 183, 201, 228), (2, 129, 352, 223, 446),
        (3, 237, 184, 357, 306), (4, 378, 332, 479, 415), (0, 443, 52, 506, 115), (3, 454, 280, 514, 340),
        (2, 592, 133, 630, 171), (0, 569, 82, 639, 134), (4, 581, 322, 640, 363),
    ]  # fmt: skip
    assert np.allclose(listed(still(0)[1]), sorted(boxes), atol=1)


def test_another_seed_gives_another_scene() -> None:
    assert not np.array_equal(Scene(0).render()[0], Scene(1).render()[0])
    assert not np.array_equal(still(0)[0], still(1)[0])
    assert not np.array_equal(still(0)[0], Scene(0).render()[0])


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_boxes_lie_inside_the_frame_and_three_to_thirty_parts_are_on_it(height: int, width: int) -> None:
    drawn = [still(seed, height=height, width=width) for seed in range(8)]
    for frame, labels in drawn + frames(4, 100, height, width):
        assert frame.shape == (height, width, 3)
        assert frame.dtype == np.uint8
        assert labels.xyxy.dtype == np.float32
        assert labels.class_id.dtype == np.int64
        assert len(labels.xyxy) == len(labels.class_id)
        assert 3 <= len(labels.xyxy) <= 30
        left, top, right, bottom = labels.xyxy.T
        assert (left >= 0).all()
        assert (top >= 0).all()
        assert (right <= width).all()
        assert (bottom <= height).all()
        assert (right > left).all()
        assert (bottom > top).all()


def test_every_class_is_about_as_frequent(stills: list[Labels]) -> None:
    seen = np.concatenate([labels.class_id for labels in stills])
    share = np.bincount(seen, minlength=len(CLASSES)) / len(seen)
    assert len(share) == 5
    assert (share > 0.12).all()
    assert (share < 0.30).all()


def test_counts_vary_from_scene_to_scene(stills: list[Labels]) -> None:
    counts = [len(labels.class_id) for labels in stills]
    assert min(counts) <= 8
    assert max(counts) >= 15


def test_parts_have_the_sizes_they_were_given(stills: list[Labels]) -> None:
    longest = np.concatenate([(labels.xyxy[:, 2:] - labels.xyxy[:, :2]).max(axis=1) for labels in stills])
    assert longest.max() <= 175  # a thick bolt across the frame's diagonal
    assert np.percentile(longest, 1) >= 18  # cut at the frame's edge
    assert np.median(longest) >= 50


def test_render_draws_into_the_frame_it_is_given() -> None:
    out = np.zeros((480, 640, 3), np.uint8)
    frame, _ = Scene(0).render(out)
    assert frame is out
    assert np.array_equal(out, Scene(0).render()[0])


def test_parts_move_with_the_belt_and_keep_their_boxes() -> None:
    """A part fully visible in two successive frames has moved by the belt's step, over more belt than is drawn at
    once."""
    scene = Scene(7, height=160, width=200)
    step, before = scene._speed, scene.render()[1]
    for _ in range(600):
        after = scene.render()[1]
        moved = [(c, left - step, top, right - step, bottom) for c, left, top, right, bottom in listed(before)]
        inside = {part for part in moved if part[1] > 1 and part[3] < 199 - step}
        assert inside <= set(listed(after))
        before = after


@pytest.mark.parametrize(("seed", "height", "width"), [(0, 63, 640), (0, 480, 10), (-1, 480, 640)])
def test_a_frame_too_small_or_a_negative_seed_is_refused(seed: int, height: int, width: int) -> None:
    with pytest.raises(ConfigError, match="needed"):
        Scene(seed, height=height, width=width)
    with pytest.raises(ConfigError, match="needed"):
        still(seed, height=height, width=width)


@settings(max_examples=40)
@given(
    class_id=st.integers(0, len(CLASSES) - 1),
    variant=st.integers(0, VARIANTS - 1),
    longest=st.floats(28, 160),
    angle=st.floats(0, 6.3),
)
def test_a_silhouette_is_where_the_part_is_drawn(class_id: int, variant: int, longest: float, angle: float) -> None:
    """Drawn over black and over white, the part is where at most half of the background shows through."""
    light = draw_light(np.random.default_rng(0), (0.1, 0.1, 0.1))
    outline = draw_outline(Pose(class_id, variant, longest, angle, (0.0, 0.0)))
    sprite, mask = draw_sprite(outline, light, light.matcap(METALS[0])), outline.mask
    high, wide = mask.shape
    grounds = [np.full((high, wide, 3), shade, np.uint8) for shade in (0, 255)]
    sprite.shade[:] = 0  # its shadow is not the part
    for ground in grounds:
        lay(sprite, ground, 0, 0)
    through = grounds[1].astype(int).max(axis=2) - grounds[0].max(axis=2)
    assert tight(through <= 127) == pytest.approx(tight(mask), abs=1)
    assert mask[0].sum() + mask[-1].sum() + mask[:, 0].sum() + mask[:, -1].sum() == 0
    corners = cv2.minAreaRect(np.argwhere(mask).astype(np.float32))
    assert max(corners[1]) + 1 <= longest * 1.5
    assert longest * 0.9 - 3 <= np.hypot(*np.ptp(np.argwhere(mask), axis=0)) <= longest * 1.42 + 3


def tight(mask: NDArray[np.bool_]) -> list[int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


@pytest.mark.parametrize("size", [(480, 640), (239, 321)])
def test_boxes_are_tight_on_what_is_drawn(monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]) -> None:
    """Each silhouette is drawn again into an empty image as wide as the belt and cropped to the frame; its box and its
    visible share are measured there."""
    drawn = watch(monkeypatch)
    for seed in range(8):
        drawn.clear()
        scene = Scene(seed, height=size[0], width=size[1])
        for _ in range(3):
            start = scene._offset
            labels = scene.render()[1]
            assert expected_labels(drawn, start, size) == listed(labels)


def watch(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int, NDArray[np.bool_]]]:
    """Every part drawn from now on: class, x, y, silhouette. The belt does not advance in the first frames."""
    drawn: list[tuple[int, int, int, NDArray[np.bool_]]] = []
    last: list[Outline] = []
    monkeypatch.setattr(
        "edgesparse.demo.scene.draw_sprite",
        lambda outline, light, matcap: last.append(outline) or draw_sprite(outline, light, matcap),
    )

    def note(sprite, canvas, x, y):  # type: ignore[no-untyped-def]
        drawn.append((last[-1].pose.class_id, x, y, last[-1].mask))
        lay(sprite, canvas, x, y)

    monkeypatch.setattr("edgesparse.demo.scene.lay", note)
    return drawn


def expected_labels(
    drawn: list[tuple[int, int, int, NDArray[np.bool_]]], start: int, size: tuple[int, int]
) -> list[tuple[float, ...]]:
    height, width = size
    pad, owner = 400, np.full((height + 800, start + width + 1200), -1)
    for number, (_, x, y, mask) in enumerate(drawn):
        owner[y + pad : y + pad + mask.shape[0], x + pad : x + pad + mask.shape[1]][mask] = number
    owner = owner[pad : pad + height, pad + start : pad + start + width]
    result = []
    for number, (class_id, x, y, mask) in enumerate(drawn):
        whole = np.zeros((height + 800, start + width + 1200), bool)
        whole[y + pad : y + pad + mask.shape[0], x + pad : x + pad + mask.shape[1]] = mask
        inside = whole[pad : pad + height, pad + start : pad + start + width]
        if np.count_nonzero(owner == number) >= 0.25 * np.count_nonzero(mask):
            result.append((float(class_id), *(float(v) for v in tight(inside))))
    return sorted(result)


def listed(labels: Labels) -> list[tuple[float, ...]]:
    return sorted((float(c), *(float(v) for v in box)) for box, c in zip(labels.xyxy, labels.class_id, strict=True))


@pytest.mark.parametrize(("columns", "seen"), [(0, True), (14, True), (15, True), (16, False), (20, False)])
def test_a_part_that_is_hidden_by_more_than_three_quarters_has_no_label(columns: int, seen: bool) -> None:
    part = _Part(Pose(1, 0, 20.0, 0.0, (0.0, 0.0)), 10, 30, 400, np.ones((20, 20), bool), anchor=False)
    part.cover(np.ones((24, columns), bool), 10, 28)
    assert part.box(0, 640) == ((10, 30, 30, 50) if seen else None)
    assert part.box(5, 640) == ((5, 30, 25, 50) if seen else None)


def test_every_shape_fills_its_grid() -> None:
    for class_id in range(len(CLASSES)):
        for variant in range(VARIANTS):
            shape = model(class_id, variant)
            assert [level.shape for level in shape.levels] == [(256, 256, 4), (128, 128, 4), (64, 64, 4)]
            assert 230 <= shape.longest <= 240
            assert 0.02 < shape.rise < 0.6
