"""2:4 masks for a user's own PyTorch training loop.

The procedure is that of Mishra et al. ("Accelerating Sparse Deep Neural Networks", 2021, arXiv:2104.08378): take a
trained dense model, keep the two largest of each four weights along the input channels, and continue training with the
zeros fixed. Each mask is a bool buffer `mask_2to4` of its layer, so it follows `.to()`, `state_dict()` and deepcopy.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from edgesparse.errors import ConfigError, SparsityError
from edgesparse.sparsity.mask import ineligible, mask_2to4

Schedule = Callable[[float], float]
"""Maps the training progress (0 to 1) to the share of layers that are 2:4 by then."""

BUFFER = "mask_2to4"


def immediate(progress: float) -> float:
    """A schedule with every layer from the start."""
    return 1.0


def stepwise(steps: int, until: float = 0.5) -> Schedule:
    """Return a schedule in `steps` equal shares: the first at progress 0, the last before progress `until`."""
    if steps < 1 or not 0 < until <= 1:
        raise ConfigError(f"stepwise({steps}, until={until}): needed at least 1 step and 0 < until <= 1")
    return lambda progress: min(1.0, (math.floor(progress / until * steps) + 1) / steps)


def sparsify(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    skip: Sequence[str] = (),
    schedule: Schedule = immediate,
) -> Masks:
    """Put 2:4 masks on every eligible Conv2d and Linear of `model` and apply them after each `optimizer.step()`.

    Call it on a trained dense model. `skip`: names of modules that stay dense, as in `named_modules()`, with `*` and
    `?`; a name includes its submodules. List the layers that compute the outputs there. The first layer always stays
    dense, as do all layers that `edgesparse.sparsity.mask.ineligible` rules out. Raises ConfigError if a name in `skip`
    matches no layer, SparsityError if no layer is left.
    """
    if any(hasattr(module, BUFFER) for module in model.modules()):
        raise SparsityError("this model already has 2:4 masks: fold() them before calling sparsify() again")
    candidates: dict[str, nn.Module] = {
        _unwrapped(name): module for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)
    }
    for pattern in skip:
        if not any(_names(pattern, name) for name in candidates):
            near = difflib.get_close_matches(pattern, candidates, 1, 0)
            hint = f"; the nearest is {near[0]!r}" if near else ""
            raise ConfigError(f"skip={pattern!r} matches no Conv2d or Linear of the model{hint}")
    reasons = {name: _dense_because(name, module, skip) for name, module in candidates.items()}
    layers = {name: candidates[name] for name, reason in reasons.items() if reason is None}
    if not layers:
        raise SparsityError("no Conv2d or Linear of this model can be 2:4: " + _counted(reasons))
    dense = {name: reason for name, reason in reasons.items() if reason is not None}
    return Masks(layers, dense, optimizer, schedule)


class Masks:
    """The masks of one model, created by `sparsify`.

    `layers`: names of the layers that are 2:4, or will be by the schedule. `dense`: name -> why it stays dense.
    """

    def __init__(
        self,
        layers: dict[str, nn.Module],
        dense: dict[str, str],
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
    ) -> None:
        self.layers, self.dense = tuple(layers), dense
        self._modules, self._optimizer, self._schedule = layers, optimizer, schedule
        self._dropped: dict[str, torch.Tensor] = {}
        self._frozen = False
        for module in layers.values():
            module.register_buffer(BUFFER, torch.ones_like(_weight(module), dtype=torch.bool))
        self._order = sorted(layers, key=lambda name: _lost(_weight(layers[name])))
        self._hooks = [
            optimizer.register_step_pre_hook(self._mask_gradients),
            optimizer.register_step_post_hook(self._mask_weights),
        ]
        self.step(0.0)

    @property
    def active(self) -> tuple[str, ...]:
        """The layers that are currently 2:4."""
        return tuple(name for name, module in self._modules.items() if not bool(_mask(module).all()))

    def __repr__(self) -> str:
        if not self._hooks:
            return f"Masks(folded, {len(self.layers)} layers)"
        return f"Masks({len(self.active)} of {len(self.layers)} layers 2:4, {len(self.dense)} dense)"

    def step(self, progress: float) -> None:
        """Raise the share of 2:4 layers to the schedule's value at `progress` (0 to 1); it never decreases.

        Layers that lose the smallest share of their magnitude come first.
        """
        if not 0 <= progress <= 1:
            raise ConfigError(f"masks.step({progress}): needed a progress from 0 to 1")
        due = math.ceil(self._schedule(progress) * len(self._order) - 1e-9)
        active = set(self.active)
        for name in self._order[:due]:
            if name not in active:
                self._remask(name)

    def refresh(self) -> None:
        """Choose the masks of the active layers again by magnitude; does nothing after `freeze()`.

        A pruned weight competes with the value it had when it was pruned, so it returns once the weights kept in
        its place have become smaller. These values are not in checkpoints: a resumed training starts with fixed masks.
        """
        if not self._frozen:
            for name in self.active:
                self._remask(name)

    def freeze(self) -> None:
        """Fix the masks of the active layers permanently, and release the pruned values."""
        self._frozen = True
        self._dropped.clear()

    @torch.no_grad()
    def apply_to(self, model: nn.Module) -> None:
        """Mask a copy of the model, such as an EMA model: its weights, and its own masks if it has them.

        The copy may be wrapped (AveragedModel, DistributedDataParallel, torch.compile).
        """
        for name, module in _same_layers(model, self.layers):
            mask = _mask(self._modules[name]).to(_weight(module).device)
            _weight(module).mul_(mask)
            if hasattr(module, BUFFER):
                _mask(module).copy_(mask)

    def fold(self, model: nn.Module) -> nn.Module:
        """Write the zeros into the weights of `model` (the trained model or a copy) and remove its masks.

        The result is a plain model without extra buffers and hooks. Folding the trained model stops masking in its
        optimizer. Returns `model`.
        """
        self.apply_to(model)
        for name, module in _same_layers(model, self.layers):
            module._buffers.pop(BUFFER, None)
            if module is self._modules[name]:
                self._end()
        return model

    def _end(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    @torch.no_grad()
    def _remask(self, name: str) -> None:
        module = self._modules[name]
        weight = _weight(module)
        whole = weight + self._remembered(name)
        mask = _two_of_four(whole)
        _mask(module).copy_(mask)
        weight.copy_(whole * mask)
        if not self._frozen:
            self._dropped[name] = whole * ~mask

    def _remembered(self, name: str) -> torch.Tensor | float:
        """Return the values pruned from this layer; 0 where a checkpoint has since replaced the masks."""
        module = self._modules[name]
        dropped = self._dropped.get(name)
        if dropped is None or bool(dropped.to(_mask(module).device)[_mask(module)].any()):
            return 0.0
        return dropped.to(_weight(module))

    @torch.no_grad()
    def _mask_gradients(self, *_: object) -> None:
        for module in self._modules.values():
            gradient = _weight(module).grad
            if gradient is not None:
                gradient.mul_(_mask(module))

    @torch.no_grad()
    def _mask_weights(self, *_: object) -> None:
        """After a step, mask the weights and all optimizer state of the same shape (momentum, variances)."""
        for module in self._modules.values():
            weight, mask = _weight(module), _mask(module)
            weight.mul_(mask)
            state: dict[str, Any] = self._optimizer.state.get(weight, {})
            for value in state.values():
                if isinstance(value, torch.Tensor) and value.shape == mask.shape:
                    value.mul_(mask)


def _dense_because(name: str, module: nn.Module, skip: Sequence[str]) -> str | None:
    pattern = next((pattern for pattern in skip if _names(pattern, name)), None)
    if pattern is not None:
        return f"named by skip={pattern!r}"
    if "weight" not in module._parameters:
        return "its weight is computed (weight_norm or another parametrization): remove that first"
    groups = module.groups if isinstance(module, nn.Conv2d) else 1
    return ineligible(tuple(_weight(module).shape), groups)


def _names(pattern: str, name: str) -> bool:
    """Whether `pattern` matches this module or one that contains it."""
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[: n + 1]), pattern) for n in range(len(parts)))


def _counted(reasons: dict[str, str | None]) -> str:
    first = next(iter(reasons.items()), None)
    if first is None:
        return "it has none"
    return f"{len(reasons)} examined, for example {first[0]}: {first[1]}"


def _same_layers(model: nn.Module, names: Sequence[str]) -> Iterator[tuple[str, nn.Module]]:
    modules = {_unwrapped(name): module for name, module in model.named_modules()}
    missing = [name for name in names if name not in modules]
    if missing:
        raise SparsityError(f"this model is not a copy of the masked one: it has no layer {missing[0]!r}")
    return ((name, modules[name]) for name in names)


def _unwrapped(name: str) -> str:
    """Return `name` without the prefixes of AveragedModel, DistributedDataParallel and torch.compile."""
    while name.startswith(("module.", "_orig_mod.")):
        name = name.split(".", 1)[1]
    return name


def _weight(module: nn.Module) -> torch.Tensor:
    weight = module.weight
    assert isinstance(weight, torch.Tensor)
    return weight


def _mask(module: nn.Module) -> torch.Tensor:
    mask = getattr(module, BUFFER)
    assert isinstance(mask, torch.Tensor)
    return mask


def _two_of_four(weight: torch.Tensor) -> torch.Tensor:
    mask = mask_2to4(weight.detach().float().cpu().numpy())
    return torch.from_numpy(mask).to(weight.device)


def _lost(weight: torch.Tensor) -> float:
    """Return the share of a layer's magnitude that 2:4 removes."""
    magnitude = weight.detach().abs().float()
    return float((magnitude * ~_two_of_four(weight)).sum() / magnitude.sum().clamp_min(1e-12))
