"""The harness itself: commands, the order of modules, and logs of writes."""

from __future__ import annotations

import json
import random
import runpy
import socket
import struct
import subprocess
import sys
from pathlib import Path

import make_image
import pytest
from make_image import HERE
from payload import software
from write_log import MAGIC, SECTOR, Write, apply, read_log, survivors


def test_commands_run_one_after_the_other_and_end_in_time() -> None:
    """Through the port as the machine has it: code, both streams, and what a command started dies with it."""
    ours, theirs = socket.socketpair()
    code = f"import guest; guest.serve(open({theirs.fileno()}, 'r+b', buffering=0))"
    command = [sys.executable, "-c", code]
    with ours, theirs, subprocess.Popen(command, cwd=HERE, pass_fds=[theirs.fileno()]) as agent:
        for number, line in enumerate(("echo out; echo err >&2; exit 3", "sleep 60 & sleep 60")):
            ours.sendall(json.dumps({"number": number, "command": line, "timeout": 0.3}).encode() + b"\n")
        with ours.makefile("rb") as answers:
            first, second = json.loads(answers.readline()), json.loads(answers.readline())
        agent.kill()
    assert (first["number"], first["code"], first["output"]) == (0, 3, "out\nerr\n")
    assert (second["number"], second["code"]) == (1, -9) and second["output"].endswith("[timed out]")


def test_the_agent_outlives_a_command_that_the_kernel_ends_where_memory_runs_out() -> None:
    """systemd would stop its unit, with every command in it."""
    unit = make_image.FILES["etc/systemd/system/vm-agent.service"]
    assert "\nOOMPolicy=continue\n" in unit and "\nOOMScoreAdjust=-1000\n" in unit


def test_modules_load_after_what_they_need() -> None:
    table = "a/ext4.ko: a/jbd2.ko a/mbcache.ko a/crc16.ko\na/virtio_blk.ko: a/virtio.ko a/virtio_ring.ko\na/other.ko:\n"
    order = [Path(path).stem for path in make_image.closure(table, ("virtio_blk", "ext4"))]
    assert order == ["virtio_ring", "virtio", "virtio_blk", "crc16", "mbcache", "jbd2", "ext4"]


def test_the_cache_is_named_after_what_goes_into_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, payload = make_image.image_name("aarch64"), software()
    assert before == make_image.image_name("aarch64") and payload == software()
    assert before != make_image.image_name("x86_64")
    lock = tmp_path / "lock.txt"
    lock.write_text("numpy==2\n")
    monkeypatch.setattr(make_image, "LOCK", lock)
    assert before != make_image.image_name("aarch64")


def entry(sector: int, data: bytes, flags: int = 0) -> bytes:
    return struct.pack("<QQQQ", sector, len(data) // SECTOR, flags, 0).ljust(SECTOR, b"\0") + data


def test_a_log_of_writes_is_replayed(tmp_path: Path) -> None:
    """Up to a write that was not logged as a whole; a file of another kind is refused."""
    small, large = b"1" * SECTOR, b"2" * 2 * SECTOR
    log, disk = tmp_path / "log", tmp_path / "disk"
    head = struct.pack("<QQQI", MAGIC, 1, 0, SECTOR).ljust(SECTOR, b"\0")
    log.write_bytes(head + entry(0, small) + entry(0, b"", 1) + entry(1, large, 2) + entry(3, small)[:-1])
    writes = list(read_log(log))
    assert writes == [Write(0, small, False, False), Write(0, b"", True, False), Write(SECTOR, large, False, True)]
    disk.write_bytes(bytes(4 * SECTOR))
    apply(writes, disk)
    assert disk.read_bytes() == small + large + bytes(SECTOR)
    log.write_bytes(bytes(SECTOR))
    with pytest.raises(ValueError, match="not a log of writes"):
        list(read_log(log))


def test_only_what_follows_the_last_flush_may_be_lost() -> None:
    rng = random.Random(0)
    writes = [Write(number * 2 * SECTOR, bytes(2 * SECTOR), number == 10, False) for number in range(20)]
    kept = [survivors(writes, 20, rng) for _ in range(50)]
    assert all(each[:10] == writes[:10] for each in kept)
    assert len({len(each) for each in kept}) > 3 and any(len(write.data) == SECTOR for each in kept for write in each)
    assert {write.offset for each in kept for write in each} == {write.offset for write in writes}
    assert all(write.offset < 5 * 2 * SECTOR for write in survivors(writes, 5, rng)), "none of what came later"


def test_the_time_server_answers_what_it_was_told() -> None:
    answer = runpy.run_path(str(HERE / "inside" / "sntp.py"))["answer"](bytes(40) + b"the ask.", 1_000_000_000.5)
    assert len(answer) == 48 and answer[0] & 7 == 4 and answer[1] == 1 and answer[24:32] == b"the ask."
    assert struct.unpack(">II", answer[40:]) == (1_000_000_000 + 2_208_988_800, 1 << 31)
