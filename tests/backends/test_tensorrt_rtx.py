"""The driver's whole build path on a real TensorRT library that needs no GPU: TensorRT-RTX."""

from __future__ import annotations

import importlib.util
import stat
from pathlib import Path

import pytest

from edgesparse.backends import BuildOptions, backend
from edgesparse.backends.base import Limits, Precision
from edgesparse.backends.tensorrt.driver import gpu
from edgesparse.errors import BackendUnavailable, BuildError, ModelError
from edgesparse.int8.quantize import quantize, quantized_tensors
from edgesparse.model import load as models
from edgesparse.model.half import to_half

THERE = importlib.util.find_spec("tensorrt_rtx_bindings") or importlib.util.find_spec("tensorrt_rtx")
pytestmark = [
    pytest.mark.rtx,
    pytest.mark.own_process,
    pytest.mark.skipif(THERE is None, reason="no TensorRT-RTX: pip install 'edgesparse[rtx]'"),
]
DETECTOR = Path(models.__file__).parents[1] / "demo" / "parts_2to4.onnx"
RTX = backend("tensorrt-rtx")


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The default detector in FP32, in FP16, and with Q/DQ in both placements, with FP32 or FP16 between."""
    folder = tmp_path_factory.mktemp("models")
    versions = {"fp32": models.load(DETECTOR)}
    for placement in ("fuse", "sparse"):
        scales = dict.fromkeys(quantized_tensors(versions["fp32"], placement), 0.03)
        versions[placement], _ = quantize(versions["fp32"], scales, placement=placement)
    versions |= {f"{name}-half": to_half(model) for name, model in versions.items()}
    for name, model in versions.items():
        models.save(model, folder / f"{name}.onnx")
    return {name: folder / f"{name}.onnx" for name in versions}


@pytest.mark.parametrize(
    ("name", "precision"), [("fp32", "fp32"), ("fp32-half", "fp16"), ("fuse-half", "int8"), ("sparse-half", "int8")]
)
def test_it_builds_each_precision(name: str, precision: Precision, variants: dict[str, Path], tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    out = tmp_path / "model.engine"
    options = BuildOptions(precision=precision, sparse=True)
    built = RTX.build(variants[name], out, options, lambda *step: steps.append(step))
    assert built.precision == precision and built.path == out and built.seconds > 0
    assert stat.S_IMODE(out.stat().st_mode) == 0o600 and [path.name for path in tmp_path.iterdir()] == [out.name]
    assert any(total for _, _, total in steps)
    assert built.command.startswith(f"tensorrt_rtx --onnx={name}.onnx --saveEngine=model.engine --sparsity=enable")


def test_lower_precision_is_smaller(variants: dict[str, Path], tmp_path: Path) -> None:
    size = {}
    for name in ("fp32", "fp32-half", "fuse"):
        built = RTX.build(variants[name], tmp_path / f"{name}.engine", BuildOptions(precision="fp32"))
        size[name] = built.path.stat().st_size
    assert size["fp32-half"] < 0.7 * size["fp32"] and size["fuse"] < 0.7 * size["fp32"]


def test_limits_and_a_cache_that_it_has_no_use_for(variants: dict[str, Path], tmp_path: Path) -> None:
    limits = Limits(workspace=1 << 28, tactic_memory=1 << 30, level=2, tactics=3, edge_masks=False, aux_streams=0)
    options = BuildOptions(limits=limits, timing_cache=tmp_path / "cache")
    assert RTX.build(variants["fp32"], tmp_path / "model.engine", options).path.exists()
    assert not (tmp_path / "cache").exists()


def test_types_must_be_in_the_model(variants: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="takes FP16 from the ONNX file alone"):
        RTX.build(variants["fp32"], tmp_path / "model.engine", BuildOptions(precision="fp16"))
    with pytest.raises(BuildError, match="needs Q/DQ nodes for INT8 and the model has none"):
        RTX.build(variants["fp32"], tmp_path / "model.engine", BuildOptions(precision="int8"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"not a model", None])
def test_a_damaged_model_is_one_line(content: bytes | None, variants: dict[str, Path], tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.onnx"
    whole = variants["fp32"].read_bytes()
    damaged.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises((ModelError, BuildError), match=r"damaged\.onnx: TensorRT") as caught:
        RTX.build(damaged, tmp_path / "model.engine", BuildOptions())
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["damaged.onnx"]


def test_ctrl_c_ends_a_build(variants: dict[str, Path], tmp_path: Path) -> None:
    def interrupt(step: str, done: int, total: int) -> None:
        if total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        RTX.build(variants["fp32"], tmp_path / "model.engine", BuildOptions(), interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(variants: dict[str, Path], small_disk: Path) -> None:
    with pytest.raises(BuildError, match=r"cannot write .*No space left"):
        RTX.build(variants["fp32"], small_disk / "model.engine", BuildOptions())
    assert list(small_disk.iterdir()) == []


@pytest.mark.no_gpu
@pytest.mark.skipif(bool(gpu()[0]), reason="there is a GPU")
def test_it_does_not_run_without_its_gpu(variants: dict[str, Path], tmp_path: Path) -> None:
    built = RTX.build(variants["fp32"], tmp_path / "model.engine", BuildOptions())
    with pytest.raises(BackendUnavailable, match=r"runs on compute capability 7\.5"):
        RTX.load(built.path)


def test_identity() -> None:
    assert RTX.refuses(RTX.identity()) is None
    assert (
        RTX.refuses({"tensorrt-rtx": "1.0.0"}) == f"found tensorrt-rtx {RTX.probe().version}, needed tensorrt-rtx 1.0.0"
    )
