"""The store: complete packages or none, one builder at a time, links that change atomically."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from packages import fill, stored

from edgesparse.errors import ConfigError, ManifestMismatch, PackageError
from edgesparse.package.store import Store, open_package


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def text(folder: Path) -> str:
    return (folder / "model.json").read_text()


def test_a_package_is_found_again_by_its_build(tmp_path: Path) -> None:
    folder = stored(tmp_path)
    package = Store(tmp_path, "model").find("aaa")
    assert package is not None and package.folder == folder and package.engine == folder / "model.json"
    assert Store(tmp_path, "model").find("bbb") is None
    assert names(folder.parent) == ["aaa", "current"]


@pytest.mark.parametrize("error", [ValueError(), KeyboardInterrupt(), SystemExit()], ids=["error", "Ctrl-C", "exit"])
def test_a_failure_leaves_nothing_and_keeps_the_old_package(tmp_path: Path, error: BaseException) -> None:
    folder = stored(tmp_path, text='"old"')
    store = Store(tmp_path, "model")
    for build_id in ("aaa", "bbb"):
        with pytest.raises(type(error)), store.lock(), store.writing(build_id, 0) as new:
            fill(new, build_id, '"new"')
            raise error
    assert names(store.folder) == ["aaa", "current"] and text(folder) == '"old"'


def test_a_package_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    """The filled folder is renamed, never copied."""
    store = Store(tmp_path, "model")
    with store.lock():
        with store.writing("aaa", 0) as new:
            fill(new, "aaa")
            filled = new.stat().st_ino
            assert not (store.folder / "aaa").exists()
        assert (store.folder / "aaa").stat().st_ino == filled


def test_a_build_may_be_replaced(tmp_path: Path) -> None:
    stored(tmp_path, text='"old"')
    folder = stored(tmp_path, text='"new"')
    assert text(folder) == '"new"' and names(folder.parent) == ["aaa", "current"]
    open_package(folder)


def test_current_and_previous_follow_the_switches(tmp_path: Path) -> None:
    def links() -> tuple[str, str | None]:
        previous = tmp_path / "model/previous"
        current = (tmp_path / "model/current").readlink()
        return str(current), str(previous.readlink()) if previous.is_symlink() else None

    stored(tmp_path, "aaa")
    assert links() == ("aaa", None)
    stored(tmp_path, "bbb")
    assert links() == ("bbb", "aaa")
    stored(tmp_path, "bbb")
    assert links() == ("bbb", "aaa")
    stored(tmp_path, "aaa")
    assert links() == ("aaa", "bbb")
    assert names(tmp_path / "model") == ["aaa", "bbb", "current", "previous"]


# Opening


def test_a_package_is_named_by_its_folder_its_models_or_the_store_of_one_model(tmp_path: Path) -> None:
    folder = stored(tmp_path)
    for path in (folder, folder.parent, folder.parent / "current", tmp_path):
        assert open_package(path).manifest.build_id == "aaa"
    shutil.copytree(folder.parent, tmp_path / "other", symlinks=True)
    with pytest.raises(PackageError, match="found model, other, needed one package"):
        open_package(tmp_path)


def test_a_path_without_a_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=r"no package .*: build one with 'edgesparse build RECIPE.yaml'"):
        open_package(tmp_path / "nowhere")
    with pytest.raises(PackageError, match=r"no package in .*: build one"):
        open_package(tmp_path)


def test_a_changed_or_missing_file_is_detected_before_loading(tmp_path: Path) -> None:
    folder = stored(tmp_path)
    (folder / "model.json").write_text("[]")
    with pytest.raises(
        ManifestMismatch, match=r"model.json is changed \(found sha256 \w{12}, needed \w{12}\).*--force"
    ):
        open_package(folder)
    (folder / "model.json").unlink()
    with pytest.raises(
        ManifestMismatch, match=r"model.json is missing: build it again with 'edgesparse build --force'"
    ):
        open_package(folder)
    assert Store(tmp_path, "model").find("aaa") is None


def test_another_backend_is_refused_with_the_command_that_builds_here(tmp_path: Path) -> None:
    folder = stored(tmp_path, identity={"null": "2.0"})
    with pytest.raises(ManifestMismatch, match=r"found .*1.0.*, needed .*2.0.*: build it here with 'edgesparse build"):
        open_package(folder)
    assert Store(tmp_path, "model").find("aaa") is None
    folder = stored(tmp_path, "bbb", backend="magic")
    with pytest.raises(ManifestMismatch, match=r"found backends .*onnxruntime, null.*, needed magic: build it here"):
        open_package(folder)
    assert Store(tmp_path, "model").find("bbb") is None


def test_an_engine_without_a_hash_in_the_manifest_is_refused(tmp_path: Path) -> None:
    folder = stored(tmp_path, engine="other.json")
    (folder / "other.json").write_text("{}")
    with pytest.raises(ManifestMismatch, match=r"other.json is changed .*, needed none"):
        open_package(folder)


def test_a_damaged_hash_in_the_manifest_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = stored(tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "files": {"model.json": "\n\x1b[2J"}}))
    with pytest.raises(ManifestMismatch, match=r"model.json is changed [^\n\x1b]+$"):
        open_package(folder)


def test_a_damaged_manifest_counts_as_no_package(tmp_path: Path) -> None:
    folder = stored(tmp_path)
    (folder / "manifest.json").write_text("{")
    assert Store(tmp_path, "model").find("aaa") is None
    with pytest.raises(PackageError, match="is damaged"):
        open_package(tmp_path)


# Other processes

BUILDER = """
    import os, signal, sys, time
    from pathlib import Path
    from edgesparse.package.store import Store
    store = Store(Path(sys.argv[1]), "model")
    with store.lock():
        with store.writing("bbb", 0) as folder:
            (folder / "model.json").write_text("half")
            print("there", flush=True)
            time.sleep(60)
"""


@pytest.fixture
def builder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that is building."""
    command = [sys.executable, "-c", textwrap.dedent(BUILDER), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        yield process
        process.kill()


def test_a_second_process_is_refused_with_the_number_of_the_first(
    tmp_path: Path, builder: subprocess.Popen[str]
) -> None:
    with pytest.raises(PackageError, match=f"process {builder.pid} is already building model: wait for it"):
        with Store(tmp_path, "model").lock():
            pass
    builder.kill()
    builder.wait()
    with Store(tmp_path, "model").lock():
        pass


def test_a_killed_builder_leaves_a_working_store(tmp_path: Path, builder: subprocess.Popen[str]) -> None:
    store = Store(tmp_path, "model")
    assert names(store.folder) == [f".unfinished-bbb-{builder.pid}"]
    builder.send_signal(signal.SIGKILL)
    builder.wait()
    assert store.find("bbb") is None
    stored(tmp_path, "bbb")
    assert names(store.folder) == ["bbb", "current"]


def test_the_old_package_is_restored_after_a_kill_between_two_renames(tmp_path: Path) -> None:
    folder = stored(tmp_path, text='"old"')
    folder.rename(folder.with_name(".replaced-aaa"))
    store = Store(tmp_path, "model")
    with store.lock():
        assert text(folder) == '"old"' and open_package(tmp_path).folder == folder
    shutil.copytree(folder, folder.with_name(".replaced-aaa"))
    with store.lock():
        assert names(store.folder) == ["aaa", "current"]


# Disks


@pytest.mark.root
def test_a_disk_that_fills_up_is_one_line_and_leaves_nothing(small_disk: Path) -> None:
    folder = stored(small_disk)
    store = Store(small_disk, "model")
    with pytest.raises(PackageError, match=r"no space left in .*: needed 0.0 MB, free .* MB: .*--store"):
        with store.lock(), store.writing("bbb", 0) as new:
            (new / "model.json").write_bytes(bytes(4_000_000))
    assert names(store.folder) == ["aaa", "current"]
    open_package(folder)


@pytest.mark.root
def test_a_full_disk_is_detected_before_building(small_disk: Path) -> None:
    store = Store(small_disk, "model")
    with pytest.raises(PackageError, match=r"needed 10.0 MB, free [23].\d MB"):
        with store.lock(), store.writing("bbb", 10_000_000):
            pytest.fail("there was room")
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "filler").write_bytes(bytes(4_000_000))
    with pytest.raises(PackageError, match=r"no space left|cannot write"):
        with store.lock(), store.writing("bbb", 1000):
            pytest.fail("there was room")


def test_a_folder_that_cannot_be_written_to_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        ConfigError, match=r"cannot write to .*file/model: Not a directory: choose another with --store"
    ):
        with Store(tmp_path / "file", "model").lock():
            pass
