"""2:4 masks survive everything that a training loop does to a model."""

from __future__ import annotations

import copy
import io
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch: needs PyTorch")

from torch import nn  # noqa: E402

from edgesparse.errors import ConfigError, SparsityError  # noqa: E402
from edgesparse.sparsity.mask import ineligible, violations  # noqa: E402
from edgesparse.training.masks import Masks, sparsify, stepwise  # noqa: E402

pytestmark = pytest.mark.torch

SPARSE = ("3", "7", "11")  # in the toy, the first, grouped and last layers are dense
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, amsgrad=True),
    "adamw foreach": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=True),
}


def weight(model: nn.Module, name: str) -> np.ndarray:
    return model.get_parameter(f"{name}.weight").detach().float().numpy()


def broken(model: nn.Module, name: str) -> int:
    return violations(weight(model, name))[0]


def train(model: nn.Module, optimizer: Any, steps: int = 3) -> None:
    for step in range(steps):
        torch.manual_seed(step)
        optimizer.zero_grad()
        (model(torch.randn(4, 3, 8, 8)) - torch.randn(4, 32)).square().mean().backward()
        optimizer.step()


def masked(model: nn.Module, kind: str = "sgd", **options: Any) -> tuple[Any, Masks]:
    optimizer = OPTIMIZERS[kind](model.parameters())
    return optimizer, sparsify(model, optimizer, skip=("12",), **options)


def test_eligible_layers_are_masked_immediately_and_others_have_a_reason(toy: nn.Sequential) -> None:
    _, masks = masked(toy)
    assert masks.layers == masks.active == SPARSE
    assert all(broken(toy, name) == 0 for name in SPARSE)
    assert masks.dense == {
        "0": ineligible((32, 3, 3, 3)),
        "6": ineligible((64, 1, 3, 3), 64),
        "12": "named by skip='12'",
    }
    assert "3 of 3 layers 2:4, 3 dense" in repr(masks)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_masks_persist_through_steps_with_momentum_and_weight_decay(toy: nn.Sequential, kind: str) -> None:
    optimizer = OPTIMIZERS[kind](toy.parameters())
    train(toy, optimizer, 2)  # momentum of the dense training exists already
    sparsify(toy, optimizer, skip=("12",))
    zeros = {name: weight(toy, name) == 0 for name in SPARSE}
    before = weight(toy, "3").copy()
    train(toy, optimizer)
    for name in SPARSE:
        np.testing.assert_array_equal(weight(toy, name) == 0, zeros[name])
    assert not np.array_equal(weight(toy, "3"), before)
    for kept in optimizer.state[toy[3].weight].values():
        if torch.is_tensor(kept) and kept.shape == toy[3].weight.shape:
            assert not kept.numpy()[zeros["3"]].any()


def test_masks_persist_under_autocast(toy: nn.Sequential) -> None:
    optimizer, _ = masked(toy, "adamw")
    with torch.autocast("cpu", torch.bfloat16):
        train(toy, optimizer)
    assert all(broken(toy, name) == 0 for name in SPARSE)


def test_a_checkpoint_carries_the_masks(toy: nn.Sequential) -> None:
    optimizer, masks = masked(toy)
    train(toy, optimizer)
    file = io.BytesIO()
    torch.save({"model": toy.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    zeros = {name: weight(toy, name) == 0 for name in SPARSE}
    resumed = copy.deepcopy(toy)
    masks.fold(resumed)
    for layer in resumed.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight)
    again, others = masked(resumed)
    resumed.load_state_dict(saved["model"])
    again.load_state_dict(saved["optimizer"])
    others.refresh()
    train(resumed, again)
    for name in SPARSE:
        np.testing.assert_array_equal(weight(resumed, name) == 0, zeros[name])


def test_an_averaged_copy_is_masked_exactly(toy: nn.Sequential) -> None:
    optimizer, masks = masked(toy)
    average_of = torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
    average = torch.optim.swa_utils.AveragedModel(toy, multi_avg_fn=average_of)
    train(toy, optimizer, 2)
    average.update_parameters(toy)
    average.module[3].weight.data.add_(0.5)
    masks.apply_to(average)
    for name in SPARSE:
        np.testing.assert_array_equal(weight(average.module, name) == 0, weight(toy, name) == 0)


def test_a_model_that_is_not_a_copy_is_refused(toy: nn.Sequential) -> None:
    _, masks = masked(toy)
    with pytest.raises(SparsityError, match="no layer '3'"):
        masks.apply_to(nn.Sequential(nn.ReLU()))


def test_the_schedule_adds_layers_by_share_and_never_removes_any(toy: nn.Sequential) -> None:
    _, masks = masked(toy, schedule=stepwise(3, until=0.6))
    captured = []
    for progress in (0.0, 0.1, 0.2, 0.45, 1.0, 0.0):
        masks.step(progress)
        captured.append(len(masks.active))
        assert [broken(toy, name) == 0 for name in SPARSE] == [name in masks.active for name in SPARSE]
    assert captured == [1, 1, 2, 3, 3, 3]


def test_refresh_brings_a_pruned_weight_back_until_frozen(toy: nn.Sequential) -> None:
    kernel = toy.get_parameter("7.weight")
    with torch.no_grad():
        kernel[0, :4, 0, 0] = torch.tensor([4.0, 3.0, 2.0, 1.0])
    optimizer, masks = masked(toy)

    def row() -> list[float]:
        return kernel.detach()[0, :4, 0, 0].tolist()

    assert row() == [4, 3, 0, 0]
    with torch.no_grad():
        kernel[0, 1, 0, 0] = 0.5
    masks.refresh()
    assert row() == [4, 0, 2, 0]
    masks.freeze()
    with torch.no_grad():
        kernel[0, 0, 0, 0] = 0.1
    masks.refresh()
    assert row() == pytest.approx([0.1, 0, 2, 0])
    train(toy, optimizer)
    assert broken(toy, "7") == 0


def test_fold_leaves_a_plain_module_with_exact_zeros(toy: nn.Sequential) -> None:
    plain = {name: type(module) for name, module in toy.named_modules()}
    keys = list(toy.state_dict())
    optimizer, masks = masked(toy)
    train(toy, optimizer)
    ema = copy.deepcopy(toy)
    masks.fold(ema)
    assert any("mask" in key for key in toy.state_dict())
    assert masks.fold(toy) is toy
    for model in (toy, ema):
        assert list(model.state_dict()) == keys
        assert {name: type(module) for name, module in model.named_modules()} == plain
        assert all(broken(model, name) == 0 for name in SPARSE)
    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks
    assert repr(masks) == f"Masks(folded, {len(SPARSE)} layers)"
    train(toy, optimizer)
    assert broken(toy, "3") > 0


def test_skip_takes_patterns_and_whole_branches() -> None:
    model = nn.ModuleDict({"body": nn.Conv2d(32, 32, 1), "head": nn.Sequential(nn.Conv2d(32, 32, 1))})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert sparsify(model, optimizer, skip=("he*",)).layers == ("body",)


def test_a_skip_that_matches_nothing_is_refused_with_the_nearest_name(toy: nn.Sequential) -> None:
    optimizer = torch.optim.SGD(toy.parameters(), lr=0.1)
    with pytest.raises(ConfigError, match=r"skip='13' .* nearest is '3'"):
        sparsify(toy, optimizer, skip=("13",))


def test_a_computed_weight_stays_dense() -> None:
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(32, 32, 1)), nn.Conv2d(32, 32, 1))
    masks = sparsify(model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert masks.layers == ("1",) and "weight_norm" in masks.dense["0"]


def test_nothing_to_mask_and_masking_twice_are_refused(toy: nn.Sequential) -> None:
    optimizer, _ = masked(toy)
    with pytest.raises(SparsityError, match="already"):
        sparsify(toy, optimizer)
    narrow = nn.Sequential(nn.Conv2d(8, 8, 1))
    with pytest.raises(SparsityError, match="too narrow"):
        sparsify(narrow, torch.optim.SGD(narrow.parameters(), lr=0.1))


@pytest.mark.parametrize("act", [lambda m: m.step(1.5), lambda m: stepwise(0)])
def test_wrong_numbers_are_refused(toy: nn.Sequential, act: Any) -> None:
    _, masks = masked(toy)
    with pytest.raises(ConfigError):
        act(masks)
