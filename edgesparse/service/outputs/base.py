"""How an output of the service fares."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Output:
    """`waiting`: messages that are not delivered yet; `dropped`: given up; `failed`: attempts that did not succeed;
    `state`: in words, empty when all is well."""

    name: str
    sent: int = 0
    dropped: int = 0
    failed: int = 0
    waiting: int = 0
    state: str = ""
