"""Conditions on attributes as they are typed: `year>=1990`, `country=fr,it`, `rare=true`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import typer

_OPERATORS = {">=": "gte", ">": "gt", "<=": "lte", "<": "lt"}

_CONDITION = re.compile(r"(?P<name>[^<>=]+)(?P<operator>>=|<=|=|>|<)(?P<value>.*)", re.DOTALL)


def conditions(typed: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The conditions by attribute, as a request has them; raises typer.BadParameter."""
    found: dict[str, dict[str, Any]] = {}
    for each in typed:
        match = _CONDITION.fullmatch(each)
        if match is None:
            raise typer.BadParameter(
                f"--where {each}: write NAME=VALUE, NAME=VALUE,VALUE or NAME>=VALUE"
            )
        condition = found.setdefault(match["name"].strip(), {})
        operator, value = match["operator"], match["value"].strip()
        if operator != "=":
            condition[_OPERATORS[operator]] = _value(value)
        elif "," in value:
            condition["in"] = [_value(part.strip()) for part in value.split(",")]
        else:
            condition["eq"] = _value(value)
    return found


def _value(typed: str) -> bool | int | float | str:
    """A truth value, a number, or the text itself; text in quotes is text."""
    if typed in ("true", "false"):
        return typed == "true"
    if len(typed) > 1 and typed[0] == typed[-1] == '"':
        return typed[1:-1]
    for kind in (int, float):
        try:
            return kind(typed)
        except ValueError:
            continue
    return typed
