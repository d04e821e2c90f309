"""The board's sensors, read from files laid out as on a Jetson; beyond a limit the frame rate goes down, then
recovers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as some

from edgesparse.service.limits import LONGEST_PAUSE, MIN_SHARE, Governor
from edgesparse.service.machine import Reading, Sensors
from edgesparse.service.settings import LimitSettings

MB = 1_000_000


def jetson(root: Path) -> Path:
    """The files of an Orin NX: a disabled zone reports -256, VDD_IN is the board's input."""

    def write(path: str, text: str) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text + "\n")

    for number, (name, value) in enumerate(
        [("cpu-thermal", "51250"), ("gpu-thermal", "-256000"), ("tj-thermal", "53500")]
    ):
        write(f"sys/class/thermal/thermal_zone{number}/type", name)
        write(f"sys/class/thermal/thermal_zone{number}/temp", value)
    write("sys/class/hwmon/hwmon0/name", "tmp451")
    for number, (name, volts, amperes) in enumerate([("VDD_IN", 5000, 1500), ("VDD_CPU_GPU_CV", 5000, 400)], 1):
        write("sys/class/hwmon/hwmon1/name", "ina3221")
        write(f"sys/class/hwmon/hwmon1/in{number}_label", name)
        write(f"sys/class/hwmon/hwmon1/in{number}_input", str(volts))
        write(f"sys/class/hwmon/hwmon1/curr{number}_input", str(amperes))
    write("proc/meminfo", "MemTotal:  7600000 kB\nMemAvailable:   3000000 kB")
    write("proc/self/status", "Name:\tpython3\nVmRSS:\t  500000 kB")
    return root


def test_the_sensors_of_a_jetson(tmp_path: Path) -> None:
    reading = Sensors(jetson(tmp_path)).read()
    assert reading.temperatures == (("cpu-thermal", 51.25), ("tj-thermal", 53.5))
    assert reading.hottest == ("tj-thermal", 53.5)
    assert (reading.available, reading.resident, reading.watts) == (3000000 * 1024, 500000 * 1024, 7.5)


def test_power_of_an_agx_orin_is_the_sum_of_its_rails(tmp_path: Path) -> None:
    root = jetson(tmp_path)
    (root / "sys/class/hwmon/hwmon1/in1_label").write_text("VDD_GPU_SOC\n")
    assert Sensors(root).read().watts == 9.5


def test_jetson_stats_is_preferred_where_it_answers(tmp_path: Path) -> None:
    """In milliwatts, as documented. jetson-stats itself runs only on a Jetson and was not tested."""
    sensors = Sensors(jetson(tmp_path))
    closed: list[bool] = []
    sensors._jtop = SimpleNamespace(power={"tot": {"power": 8123}}, close=lambda: closed.append(True))
    assert sensors.read().watts == 8.123
    sensors._jtop.power = {}
    assert sensors.read().watts == 7.5, "from /sys, where jetson-stats does not report it"
    sensors.close()
    assert closed == [True]


def test_a_machine_without_sensors(tmp_path: Path) -> None:
    assert Sensors(tmp_path).read() == Reading()


def test_the_sensors_of_this_machine() -> None:
    reading = Sensors().read()
    assert reading.available is not None and reading.resident is not None and reading.resident > 10 * MB


def hot(degrees: float, free: int = 2000 * MB) -> Reading:
    return Reading(available=free, temperatures=(("tj", degrees),))


def test_heat_halves_the_rate_until_the_board_has_cooled_down() -> None:
    governor = Governor(LimitSettings(temperature=90))
    for second in range(5):
        governor.read(hot(80), 30.0, second)
    assert governor.share == 1 and governor.pause(0.0) == 0
    for second in range(5, 12):
        governor.read(hot(92), 30.0, second)
    assert 1 / 16 <= governor.share <= 1 / 4
    assert governor.why == "tj is at 92 °C, limit 90"
    low = governor.share
    for second in range(12, 20):
        governor.read(hot(88), 5.0, second)
    assert governor.share == low, "not before it is well below the limit"
    for second in range(20, 120):
        governor.read(hot(80), 5.0, second)
    assert governor.share == 1 and governor.why == ""


def test_far_beyond_a_limit_the_rate_drops_to_its_minimum() -> None:
    governor = Governor(LimitSettings(temperature=90, memory=400 * MB))
    governor.read(hot(96), 30.0, 0.0)
    assert governor.share == MIN_SHARE
    governor = Governor(LimitSettings(memory=400 * MB))
    governor.read(hot(50, 150 * MB), 30.0, 0.0)
    assert governor.share == MIN_SHARE and "150 MB of memory free, limit 400" in governor.why


def test_the_resulting_rate_is_the_share_of_the_full_rate() -> None:
    governor = Governor(LimitSettings(temperature=90))
    governor.read(hot(80), 30.0, 0.0)
    governor.read(hot(92), 30.0, 1.0)
    governor.read(hot(92), 30.0, 3.5)
    assert governor.share == 0.25
    now, frames = 100.0, 0
    while now < 110.0:
        now += 1 / 60 + governor.pause(now)  # the engine could do sixty
        frames += 1
    assert 70 <= frames <= 80


def test_a_low_rate_is_delayed_by_a_bounded_pause() -> None:
    governor = Governor(LimitSettings(temperature=90))
    governor.read(hot(80), 5.0, 0.0)
    governor.read(hot(99), 5.0, 1.0)
    assert governor.share == MIN_SHARE
    now, frames = 100.0, 0
    while now < 120.0:
        now += 0.01 + governor.pause(now)
        frames += 1
    assert 45 <= frames <= 51
    for second in range(20, 40):
        governor.read(hot(80), 2.5, float(second))
    assert governor.pause(now) <= LONGEST_PAUSE


@given(some.lists(some.tuples(some.floats(20, 120), some.integers(0, 4000), some.floats(0, 60)), max_size=60))
def test_the_share_stays_within_its_bounds(readings: list[tuple[float, int, float]]) -> None:
    governor = Governor(LimitSettings())
    for second, (degrees, megabytes, rate) in enumerate(readings):
        governor.read(hot(degrees, megabytes * MB), rate, float(second))
        assert MIN_SHARE <= governor.share <= 1
        assert 0 <= governor.pause(float(second)) <= LONGEST_PAUSE
        assert bool(governor.why) == (governor.share < 1)
