"""The code in docs/guide/training.md runs on a toy model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch: needs PyTorch")

from edgesparse.sparsity.mask import violations  # noqa: E402

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # the exporter that needs no additional package
]

DOC = Path(__file__).parents[2] / "docs" / "guide" / "training.md"


def test_the_snippets_train_resume_export_and_check(toy: Any, tmp_path: Path) -> None:
    train, resume, check = re.findall(r"```python\n(.*?)```", DOC.read_text(), re.DOTALL)
    names: dict[str, Any] = {
        "model": toy,
        "OUTPUT_LAYERS": ("12",),
        "ONNX_OUTPUT_LAYERS": ("/12/*",),
        "loader": [(torch.randn(4, 3, 8, 8), torch.randn(4, 32)) for _ in range(2)],
        "loss_of": torch.nn.functional.mse_loss,
        "epochs": 2,
        "checkpoint": tmp_path / "checkpoint.pt",
        "example": (torch.randn(1, 3, 8, 8),),
        "onnx_path": tmp_path / "toy.onnx",
    }
    exec(train, names)
    exec(check, names)
    assert [layer.state for layer in names["report"].layers].count("sparse") == 3
    names["masks"].fold(toy)
    exec(resume, names)
    assert violations(toy[3].weight.detach().numpy())[0] == 0
