"""Compiling the kernels: once, cached by content, refused with the remedy if there is no compiler."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from edgesparse.backends.cuda import kernels
from edgesparse.errors import BackendUnavailable


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGESPARSE_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


def compiler(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A program named nvcc, alone on the PATH except for what a script needs."""
    path = folder / "nvcc"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


@pytest.mark.nvcc
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
def test_they_compile_for_orin_without_spills(tmp_path: Path) -> None:
    _, output = kernels.compiled("8.7", tmp_path / "frames.cubin", ["-Xptxas", "-v"])
    names = re.findall(r"Compiling entry function '(\w+)' for 'sm_87'", output)
    assert sorted(names) == sorted(
        f"{kernel}_{dtype}"
        for kernel, dtypes in {
            "letterbox": "float32 float16 int8 uint8 float16x8 int8x4 int8x32",
            "crop": "float32 float16 int8 uint8 float16x8 int8x4 int8x32",
            "compact": "float32 float16",
            "maps": "float32 float16",
        }.items()
        for dtype in dtypes.split()
    )
    assert re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", output) == [("0", "0")] * 18
    registers = dict(re.findall(r"entry function '(\w+)'.*?Used (\d+) registers", output, re.S))
    assert all(int(used) <= (64 if name.startswith(("crop", "maps")) else 40) for name, used in registers.items())


def test_they_are_compiled_once_and_kept_for_their_owner(
    tmp_path: Path, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = tmp_path / "calls"
    compiler(tmp_path, monkeypatch, f'echo "$@" >> {calls}\nwhile [ $# -gt 1 ]; do shift; done\necho made > "$1"')
    first = kernels.cubin("8.7")
    assert first.read_text() == "made\n" and first.parent == own_folder / "kernels"
    assert stat.S_IMODE(first.stat().st_mode) == 0o600 and kernels.cubin("8.7") == first
    assert kernels.cubin("9.0") != first
    assert [line.split()[1] for line in calls.read_text().splitlines()] == ["-arch=sm_87", "-arch=sm_90"]
    assert sorted(path.name for path in first.parent.iterdir()) == sorted(
        path.name for path in (first, kernels.cubin("9.0"))
    ), "nothing half-made stays"


def test_other_sources_are_other_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler(tmp_path, monkeypatch, 'while [ $# -gt 1 ]; do shift; done\necho made > "$1"')
    before = kernels.cubin("8.7")
    copied = shutil.copytree(kernels.SOURCES, tmp_path / "kernels")
    with (copied / "letterbox.cuh").open("a") as file:
        file.write("// changed\n")
    monkeypatch.setattr(kernels, "SOURCES", copied)
    assert kernels.cubin("8.7") != before


def test_without_a_compiler_the_remedy_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    with pytest.raises(BackendUnavailable, match=r"no nvcc in PATH, .*: install CUDA's compiler"):
        kernels.cubin("8.7")


def test_what_the_compiler_says_is_one_line(tmp_path: Path, own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler(tmp_path, monkeypatch, "echo 'nvcc fatal :' >&2; echo 'Unsupported gpu architecture' >&2; exit 1")
    with pytest.raises(
        BackendUnavailable, match=r"cannot compile .*nvcc fatal : Unsupported gpu architecture"
    ) as raised:
        kernels.cubin("8.7")
    assert "\n" not in str(raised.value) and not list((own_folder / "kernels").iterdir())


def test_a_compiler_off_the_path_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cuda" / "bin").mkdir(parents=True)
    compiler(tmp_path / "cuda" / "bin", monkeypatch, "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    assert kernels.nvcc() == str(tmp_path / "cuda" / "bin" / "nvcc")


@pytest.mark.compiler
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_threads_of_a_block_wait_where_they_must(tmp_path: Path) -> None:
    """ThreadSanitizer finds no race in the kernel on 256 CPU threads, and does find one if a barrier is removed."""
    source, program = Path(__file__).with_name("host_kernels.cpp"), tmp_path / "races"

    def compiled(kernels: Path) -> None:
        flags = ["-std=c++17", "-O1", "-g", "-fsanitize=thread", "-pthread", "-DRACES", "-w", "-I", str(kernels)]
        subprocess.run(["g++", *flags, str(source), "-o", str(program)], check=True)

    def races() -> subprocess.CompletedProcess[str]:
        # without address randomization: newer Linux kernels randomize more bits than older sanitizers support
        command = ["setarch", "-R", str(program)] if shutil.which("setarch") else [str(program)]
        return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)

    compiled(kernels.SOURCES)
    done = races()
    assert done.returncode == 0, done.stderr[-3000:]
    copied = shutil.copytree(kernels.SOURCES, tmp_path / "kernels")
    text = (copied / "frames.cu").read_text()
    step = "    sort_boxes(s, o, mine, found, thread);\n    __syncthreads();\n"
    assert step in text
    (copied / "frames.cu").write_text(text.replace(step, step.splitlines()[0] + "\n"))
    compiled(copied)
    # The sanitizer sees a race only if threads really overlap: never on one core, and not every time on a few busy
    # ones.
    if len(os.sched_getaffinity(0)) > 1:
        assert any("data race" in races().stderr for _ in range(40))
