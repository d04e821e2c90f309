"""Stand-ins for TensorRT's objects, created from the real classes of the bindings, so that they lack what those lack.

The real objects can only be created with the library and a GPU. As with the real class, reading or setting a missing
attribute raises AttributeError, and a call or value that does not match the signature raises TypeError.
"""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import tensorrt


class Double:
    """An object of the class `kind`. `does`: return values of its methods, or functions to call; `has`: its
    properties."""

    def __init__(self, kind: str, does: dict[str, Any] | None = None, /, **has: Any) -> None:
        for key, value in (("cls", getattr(tensorrt, kind)), ("does", does or {}), ("has", has), ("calls", [])):
            object.__setattr__(self, key, value)
        for known in (*self.does, *self.has):
            assert hasattr(self.cls, known), f"the real {kind} has no {known}"

    def __getattr__(self, name: str) -> Any:
        real = getattr(self.cls, name)
        if isinstance(real, property):
            return self.has.get(name)
        if not callable(real):
            return real

        def call(*values: Any, **named: Any) -> Any:
            _check(real, name, values, named)
            self.calls.append((name, (*values, *named.values())))
            done = self.does.get(name)
            return done(*values, **named) if callable(done) else done

        return call

    def __setattr__(self, name: str, value: Any) -> None:
        real = getattr(self.cls, name)
        assert isinstance(real, property) and real.fset is not None, f"{self.cls.__name__}.{name} cannot be set"
        kind = re.search(r"arg1: ([\w.]+)", real.fset.__doc__ or "")
        if kind and not _fits(kind[1], value):
            raise TypeError(f"{self.cls.__name__}.{name} is {kind[1]}, found {value!r}")
        self.has[name] = value

    def called(self, name: str) -> list[tuple[Any, ...]]:
        """Arguments of each call to that method."""
        return [values for called, values in self.calls if called == name]


class Plan(bytes):
    """Serialized bytes in place of IHostMemory."""

    nbytes = property(len)


def module(**replaced: Any) -> Any:
    """The real module with some classes replaced by functions that create doubles."""
    real = {name: getattr(tensorrt, name) for name in dir(tensorrt)}
    return SimpleNamespace(**{**real, **replaced})


def _check(real: Any, name: str, values: tuple[Any, ...], named: dict[str, Any]) -> None:
    """Raise TypeError unless one of the signatures in the method's docstring accepts these arguments."""
    signatures = re.findall(rf"^(?:\d+\. )?{name}\(self: [^,)]+(?:, )?(.*)\) -> ", real.__doc__ or "", re.M)
    assert signatures, f"no signature of {name}: {real.__doc__}"
    if not any(_takes(_parameters(signature), values, named) for signature in signatures):
        raise TypeError(f"{name}{values}{named or ''} does not fit {name}({') or ('.join(signatures)})")


def _parameters(text: str) -> list[tuple[str, str, bool]]:
    """(name, type, whether it is optional) of each parameter."""
    parts = re.findall(r"(\w+): ((?:[^,\[]|\[[^\]]*\])+)", text)
    return [(name, kind.partition(" = ")[0].strip(), " = " in kind) for name, kind in parts]


def _takes(parameters: list[tuple[str, str, bool]], values: tuple[Any, ...], named: dict[str, Any]) -> bool:
    if len(values) > len(parameters):
        return False
    arguments = {**{name: value for (name, _, _), value in zip(parameters, values, strict=False)}, **named}
    if set(arguments) - {name for name, _, _ in parameters}:
        return False
    return all(_fits(kind, arguments[name]) if name in arguments else optional for name, kind, optional in parameters)


def _fits(kind: str, value: Any) -> bool:
    kind = kind.rpartition(".")[2]
    if kind in ("float", "SupportsFloat"):
        return isinstance(value, float)
    if kind in ("int", "SupportsInt"):
        return isinstance(value, int) and not isinstance(value, bool)
    if kind in ("str", "bool"):
        return type(value).__name__ == kind
    if kind in ("buffer", "Buffer"):
        return bool(memoryview(value) is not None)
    if kind == "IHostMemory":
        return isinstance(value, Plan)
    if kind == "Dims":
        return all(isinstance(size, int) for size in value)
    real = getattr(tensorrt, kind, None)
    if real is None:
        raise AssertionError(f"a type that is not known here: {kind}")
    return isinstance(value, real) or (isinstance(value, Double) and issubclass(value.cls, real))
