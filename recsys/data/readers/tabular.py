"""Events from CSV, TSV, Parquet and JSON Lines with a column mapping."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, astuple, dataclass

import pyarrow as pa

from recsys.data.readers.blocks import Member, Meter
from recsys.data.readers.rows import BadRows, BadSource, RowChecks, events
from recsys.data.readers.tables import tables


@dataclass(frozen=True)
class Columns:
    """What the columns of an events file are called. The last three may be missing in it, if
    they are not named."""

    user_id: str = "user_id"
    item_id: str = "item_id"
    timestamp: str = "timestamp"
    value: str = "value"
    event: str = "event"


class Tabular:
    """Reads one events file."""

    def __init__(self, member: Member, columns: Columns) -> None:
        self._member = member
        self._columns = columns
        self.size = member.size

    def events(self, bad: BadRows, meter: Meter) -> Iterator[pa.Table]:
        """Every row as an event."""
        names = self._columns
        for rows in tables(self._member, astuple(names), bad, meter):
            self._check(rows.columns)
            checks, present = RowChecks(rows, bad), set(rows.columns)
            columns = events(
                checks.text(names.user_id),
                checks.text(names.item_id),
                checks.moment(names.timestamp) if names.timestamp in present else None,
                checks.number(names.value) if names.value in present else None,
                checks.text(names.event) if names.event in present else None,
            )
            yield checks.keep(columns)

    def _check(self, present: Sequence[str]) -> None:
        defaults = asdict(Columns())
        for field, name in asdict(self._columns).items():
            needed = field in ("user_id", "item_id") or name != defaults[field]
            if needed and name not in present:
                option = f"--{field.removesuffix('_id')} COLUMN"
                raise BadSource(
                    f"{self._member} has no column {name!r}; its columns are "
                    f"{', '.join(present)}. Say which one it is with {option}"
                )

    def catalogue(self, bad: BadRows) -> pa.Table | None:
        """An events file brings none."""
        return None
