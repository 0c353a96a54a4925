"""Options that several commands share, and how a wrong value is told by its option's name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from pydantic import ValidationError

from infra.errors import reason


def _url(url: str | None) -> str | None:
    from services.client import Unreachable, parse_url

    if url is not None:
        try:
            parse_url(url)
        except Unreachable as error:
            raise typer.BadParameter(error.message) from None
    return url


Url = Annotated[
    str | None, typer.Option(callback=_url, help="The service; by default what the settings say.")
]


@contextmanager
def typed_as(**options: str) -> Iterator[None]:
    """Where a schema refuses what is made of options, raise wrong usage of those options.

    options: for each field of the schema, the option that its value came from.
    """
    try:
        yield
    except ValidationError as error:
        wrong = [f"{options[str(each['loc'][0])]}: {reason(each)}" for each in error.errors()]
        raise typer.BadParameter("; ".join(wrong)) from None
