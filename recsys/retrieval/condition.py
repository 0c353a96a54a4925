"""Conditions: what the value of an attribute must be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TypeAlias

from infra.errors import RecsysError

Value: TypeAlias = bool | int | float | str
"""What an attribute is compared with."""

SORTS = {bool: "boolean", int: "number", float: "number", str: "string"}


class BadCondition(RecsysError, ValueError):
    """A condition that no item could ever meet: of a name or a type that none has."""


@dataclass(frozen=True)
class Condition:
    """What an attribute's value must be; all that is given must hold.

    Of an attribute that is a list, one element must be in the range, one be `eq`, one in `one_of`.
    Strings are ordered by code point, so that a range of ISO dates is one of time; booleans have no
    order. An item without the attribute, or with null, never meets a condition.

    Raises BadCondition if nothing is given, a number that is none or infinite, or a range that is
    not of numbers or of strings alone.
    """

    eq: Value | None = None
    one_of: Sequence[Value] | None = None
    gte: float | str | None = None
    gt: float | str | None = None
    lte: float | str | None = None
    lt: float | str | None = None

    def __post_init__(self) -> None:
        values = [*self.bounds(), *(self.one_of or ())]
        if self.eq is not None:
            values.append(self.eq)
        if not values or (self.one_of is not None and not self.one_of):
            names = ", ".join(each.name for each in fields(self))
            raise BadCondition(f"a condition compares with nothing; give a value to one of {names}")
        if any(isinstance(value, float) and not math.isfinite(value) for value in values):
            raise BadCondition("a condition compares with what no number is (NaN or infinity)")
        sorts = {SORTS[type(bound)] for bound in self.bounds()}
        if len(sorts) > 1 or "boolean" in sorts:
            raise BadCondition(
                f"a range is of numbers or of strings, not from {' to '.join(sorted(sorts))}"
            )

    def bounds(self) -> list[Value]:
        """What is given of the range."""
        return [b for b in (self.gte, self.gt, self.lte, self.lt) if b is not None]
