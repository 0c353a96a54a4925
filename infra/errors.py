"""The errors that a person reads: what was wrong, where, and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class RecsysError(Exception):
    """A failure that is the input's or the surroundings', not the program's.

    The command line prints its message and exits with 1; the HTTP API answers with a problem
    document. Its message is complete: it names the file, row or field, and the next step.
    """

    @property
    def message(self) -> str:
        return str(self)


def reason(error: Mapping[str, Any]) -> str:
    """What is wrong, for a person, in one of the errors that a pydantic ValidationError lists."""
    message: str = error["msg"]
    return message.removeprefix("Value error, ")
