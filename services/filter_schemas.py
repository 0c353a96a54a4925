"""Filters of recommendations and searches: by tags, and by conditions on attributes."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, StrictBool, StrictFloat, StrictInt, model_validator

from recsys.retrieval import condition
from services.bodies import Name, RequestBody

Scalar = StrictBool | StrictInt | StrictFloat | Annotated[str, Field(max_length=1000)]
"""What an attribute is compared with."""

Bound = StrictInt | StrictFloat | Annotated[str, Field(max_length=1000)]


class Condition(RequestBody):
    """What the value of an attribute must be; all that is given must hold.

    Of an attribute that is a list, one element must meet it. Strings are ordered by code point, so
    that dates as `2026-01-31` are ordered by time. A bare value is short for `eq`, a list of them
    for `in`.
    """

    model_config = RequestBody.model_config | {"populate_by_name": True}

    eq: Scalar | None = None
    one_of: list[Scalar] | None = Field(None, alias="in", min_length=1, max_length=1000)
    gte: Bound | None = None
    gt: Bound | None = None
    lte: Bound | None = None
    lt: Bound | None = None

    @model_validator(mode="before")
    @classmethod
    def _short(cls, given: Any) -> Any:
        if isinstance(given, dict | Condition):
            return given
        return {"in": given} if isinstance(given, list) else {"eq": given}

    @model_validator(mode="after")
    def _compares(self) -> Self:
        if not self.model_dump(exclude_none=True):
            names = [field.alias or name for name, field in type(self).model_fields.items()]
            raise ValueError(
                f"a condition compares with nothing; give a value to one of {', '.join(names)}"
            )
        self.rule()
        return self

    def rule(self) -> condition.Condition:
        """The same for the catalogue's rules; raises BadCondition where nothing can be so."""
        return condition.Condition(
            eq=self.eq,
            one_of=self.one_of,
            gte=self.gte,
            gt=self.gt,
            lte=self.lte,
            lt=self.lt,
        )


class Filters(RequestBody):
    """What an item must have to be recommended or found; every filter that is given must hold."""

    model_config = RequestBody.model_config | {
        "json_schema_extra": {
            "examples": [
                {"tags": ["Comedy", "Drama"]},
                {"attributes": {"year": {"gte": 1990, "lt": 2000}, "country": ["fr", "it"]}},
            ]
        }
    }

    tags: list[Name] | None = Field(None, min_length=1, max_length=100)
    """The item bears at least one of these tags."""

    attributes: dict[Name, Condition] = Field({}, max_length=20)
    """What the attributes of these names must be."""

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not self.tags and not self.attributes:
            raise ValueError("give tags or attributes to filter by, or no filters")
        return self
