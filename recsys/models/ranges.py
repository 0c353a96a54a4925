"""Ranges: what is worth trying for a hyper-parameter. A config declares them, `recsys tune`
searches them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Between:
    """The numbers from low to high, both included; whole numbers if both ends are."""

    low: float
    high: float
    log: bool = False
    """Whether 1 to 10 is as wide as 10 to 100."""

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}" + (" log" if self.log else "")


@dataclass(frozen=True)
class OneOf:
    """These values and no other."""

    values: tuple[str | int | float, ...]

    def __str__(self) -> str:
        return ", ".join(map(str, self.values))


Range = Between | OneOf
