"""Tests that take many minutes run when they are asked for by their marker, and not with the rest."""

from __future__ import annotations

import pytest

ASKED_FOR = ("debootstrap", "fleet")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    asked = str(config.getoption("-m"))
    for item in items:
        for name in ASKED_FOR:
            if item.get_closest_marker(name) and name not in asked:
                item.add_marker(pytest.mark.skip(f"takes minutes: pytest -m {name}"))
