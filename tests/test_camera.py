"""Cameras in a recipe: valid keys, and one-line errors for invalid ones."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesparse.config import Run, override, parse
from edgesparse.errors import ConfigError, SourceError
from edgesparse.redaction import redact, redact_all
from edgesparse.stream.sources.open import open_source


def recipe(**run: Any) -> Run:
    return parse({"model": "m.onnx", "run": run}, "m.yaml").run


def test_every_key_of_a_camera() -> None:
    run = recipe(
        tracking=True,
        cameras=[
            {"name": "gate", "source": 0, "size": "1280x720", "fps": 30, "rate": 10, "conf": 0.5},
            {
                "name": "belt-2",
                "source": "rtsp://u:p@h/x",
                "size": [640, 480],
                "classes": ["gear"],
                "conf": {"gear": 0.3},
            },
            {"name": "hall", "source": "demo", "zones": {"left": [[0, 0], [0.5, 0], [0.5, 1]]}, "frozen": 0},
        ],
    )
    gate, belt, hall = run.cameras
    assert (gate.source, gate.size, belt.size, hall.zones["left"][1]) == ("0", (1280, 720), (640, 480), (0.5, 0))
    assert (run.seen_by(gate).conf, run.seen_by(belt).classes, run.seen_by(hall).conf) == (0.5, ("gear",), 0.25)
    assert override(run, {"conf": 0.4}).cameras == run.cameras


def test_a_source_is_one_camera() -> None:
    assert [(c.name, c.source) for c in recipe(source=3).all_cameras()] == [("camera", "3")]
    assert recipe().all_cameras() == ()


@pytest.mark.parametrize(
    ("sources", "names"),
    [
        (["0", "2"], ["camera-0", "camera-2"]),
        (["0", "0"], ["camera-1", "camera-2"]),
        (["demo", "0"], ["camera-1", "camera-2"]),
        (["demo"], ["camera"]),
    ],
)
def test_sources_on_the_command_line_replace_the_cameras(sources: list[str], names: list[str]) -> None:
    run = override(recipe(cameras=[{"name": "gate", "source": 0}]), {"source": sources})
    assert [camera.name for camera in run.all_cameras()] == names
    assert [camera.source for camera in run.all_cameras()] == sources


def test_without_a_source_on_the_command_line_the_cameras_are_kept() -> None:
    assert len(override(recipe(cameras=[{"name": "gate", "source": 0}]), {"source": []}).cameras) == 1


SQUARE = [[0, 0], [1, 0], [1, 1]]


@pytest.mark.parametrize(
    ("camera", "message"),
    [
        ({"size": "0x0"}, "run.cameras.0.size.0: found 0 (a whole number), needed at least 16"),
        ({"size": "1280"}, "run.cameras.0.size: found '1280' (text), needed width and height, as 1280x720"),
        ({"size": 640}, "run.cameras.0.size: found 640 (a whole number), needed width and height"),
        ({"size": [640]}, "'run.cameras.0.size.1' is missing"),
        ({"size": [640, -480]}, "found -480"),
        ({"size": "99999x99999"}, "found 99999"),
        ({"fps": 0}, "run.cameras.0.fps: found 0 (a whole number), needed more than 0"),
        ({"rate": -1}, "run.cameras.0.rate: found -1"),
        ({"conf": 2}, "run.cameras.0.conf: found 2"),
        ({"name": "../x"}, "run.cameras.0.name: found '../x' (text), needed a name of a-z, 0-9 and -"),
        ({"name": ""}, "run.cameras.0.name: found '' (text)"),
        ({"zone": {}}, "unknown key 'run.cameras.0.zone': did you mean 'zones'?"),
        ({"source": None}, "run.cameras.0.source: found None (nothing), needed text"),
        ({"zones": {"a": [[0, 0], [1, 1]]}}, "needed 3 to 100 corners"),
        ({"zones": {"a": [[0, 0], [2, 0], [1, 1]]}}, "run.cameras.0.zones.a.1.0: found 2"),
        ({"zones": {"a": [[0, 0], [0.5, 0.5], [1, 1]]}}, "needed a polygon with an area"),
        ({"zones": {"a": [[0, 0], [1, 1], [1, 0], [0, 1]]}}, "needed a polygon whose sides do not cross"),
        ({"zones": {"A b": SQUARE}}, "run.cameras.0.zones.A b"),
        ({"zones": SQUARE}, "run.cameras.0.zones: found"),
        ({"lines": {"a": [[0, 0], [0, 0]]}}, "needed two different points"),
        ({"lines": {"a": [[0, 0], [1, 0], [1, 1]]}}, "needed two different points, as [[0, 0.5], [1, 0.5]]"),
        ({"lines": {"a": [[0, 0], [1, 1.1]]}}, "run.cameras.0.lines.a.1.1: found 1.1"),
        ({"lines": {"a": [[0, 0], [1, 1]]}}, "needed tracking: bytetrack (or sort), since camera gate has lines"),
        ({"frozen": -1}, "run.cameras.0.frozen: found -1"),
    ],
)
def test_an_invalid_camera_is_one_line(camera: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        recipe(cameras=[{"name": "gate", "source": "0", **camera}])
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_two_cameras_with_the_same_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="needed cameras of different names, found gate, gate"):
        recipe(cameras=[{"name": "gate", "source": "0"}] * 2)


def test_source_together_with_cameras_is_refused() -> None:
    with pytest.raises(ConfigError, match="needed source or cameras, not both"):
        recipe(source=0, cameras=[{"name": "gate", "source": "1"}])


URL = "rtsp://user:secret@host/x"


@pytest.mark.parametrize(
    "run",
    [
        {"cameras": URL},
        {"cameras": [URL]},
        {"source": [URL]},
        {"cameras": [{"name": "a", "source": URL, "size": URL}]},
        {"cameras": [{"name": URL, "source": URL}]},
        {"cameras": [{"source": URL}]},
        {"cameras": [{"name": "a", "source": {"url": URL}}]},
        {"source": URL, "cameras": [{"name": "a", "source": URL}]},
        {"cameras": [{"name": "a", "source": URL}] * 2},
        {"conf": URL},
    ],
)
def test_an_invalid_recipe_does_not_reveal_its_passwords(run: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        recipe(**run)
    assert "secret" not in str(caught.value) and "user" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("rtsp://user:pass@host/x", "rtsp://host/x"),
        ("rtsp://user:p@ss@host:554/x?token=1#y", "rtsp://host:554/x"),
        ("http://host", "http://host"),
        ("rtsp://[fe80::1]:554/x", "rtsp://[fe80::1]:554/x"),
        ("rtsp://user:pa/ss@host/x", "rtsp://..."),
        ("rtsp://user:pa?ss@host/x", "rtsp://..."),
        ("rtsp://user:pa#ss@host/x", "rtsp://..."),
        ("rtsp://user:pa[ss@host/x", "rtsp://host/x"),
        ("rtsp://host/user=admin_password=x/stream", "rtsp://host/.../stream"),
        ("rtsp://host/cam/realmonitor?channel=1", "rtsp://host/cam/realmonitor"),
        ("rtsp:/user:secret@host/x", "rtsp:..."),
        ("rtsp:user:secret@host/x", "rtsp:..."),
        ("RTSP//user:secret@host/x", "RTSP:..."),
        ("http:\\\\user:secret@host", "http:..."),
        ("rtsp : //user:secret@host", "rtsp:..."),
        ("rtsp:/host/x", "rtsp:/host/x"),
        ("0", "0"),
        ("demo", "demo"),
        ("demo:1", "demo:1"),
        ("udp@noon.mp4", "udp@noon.mp4"),
    ],
)
def test_names_contain_no_credentials(url: str, name: str) -> None:
    assert redact(url) == name


@given(st.text(min_size=1), st.text(min_size=4))
def test_no_password_remains_whatever_its_characters(user: str, password: str) -> None:
    shown = redact(f"rtsp://{user}:{password}@camera.local:554/live")
    assert shown in ("rtsp://camera.local:554/live", "rtsp://...")


def test_json_contains_no_credentials() -> None:
    record = {"run": {"cameras": [{"source": URL, "name": "a"}], "conf": 0.5}, "why": f"no {redact(URL)}: is it on?"}
    assert redact_all(record) == {
        "run": {"cameras": [{"source": "rtsp://host/x", "name": "a"}], "conf": 0.5},
        "why": "no rtsp://host/x: is it on?",
    }


def test_a_mistyped_address_is_refused_without_its_credentials() -> None:
    with pytest.raises(SourceError, match=r"^no source rtsp:\.\.\.: no such file, folder or camera$"):
        open_source("rtsp:/admin:secret@10.0.0.7/x")
