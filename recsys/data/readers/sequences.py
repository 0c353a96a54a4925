"""Sequence files, as the sequential-recommendation papers publish them.

One `user item` a line, or one `user item item …` line a user, both in time order and without
times. The folder of ML-1M in that form also joins its item numbers to `movies.dat`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recsys.data.histories import ragged_positions
from recsys.data.readers.blocks import Member, Meter, blocks, whole
from recsys.data.readers.delimited import Format, parse
from recsys.data.readers.movielens import LAYOUTS, read_films
from recsys.data.readers.rows import BadRows, BadSource, Rows, events

JOIN = "sas_to_original_items.txt"
"""Joins the item numbers of ml-1m.txt to those of movies.dat, one pair a line."""

# A line is one field: nothing parts it but a character that no text has.
LINE = Format(("line",), "\x1f", quoted=False)


def sequence_file_of(files: Mapping[str, Member]) -> Member | None:
    """The one file that holds sequences: a .txt that was named by itself, or the one in a folder
    whose first lines are numbers parted by blanks."""
    texts = {name: member for name, member in files.items() if name.lower().endswith(".txt")}
    if len(files) == 1:
        return next(iter(texts.values()), None)
    found = [member for name, member in texts.items() if name != JOIN and _holds_numbers(member)]
    return found[0] if len(found) == 1 else None


class Sequences:
    """Reads a sequence file."""

    def __init__(self, files: Mapping[str, Member], member: Member) -> None:
        self._member = member
        self._join, self._movies = files.get(JOIN), files.get("movies.dat")
        self.size = member.size

    def events(self, bad: BadRows, meter: Meter) -> Iterator[pa.Table]:
        """Every user and item in the order of the file, without times."""
        for line, block in blocks(self._member, meter):
            rows = parse(block, line, str(self._member), LINE, bad)
            fields, counts = _fields(rows)
            short = counts < 2
            if short.any():
                where = rows.where(int(np.argmax(short)))
                reason = "a user and at least one item belong on it, parted by blanks"
                bad.add(where, "the line", reason, int(short.sum()))
            starts = np.cumsum(counts) - counts
            starts, counts = starts[~short], counts[~short]
            users = np.repeat(starts, counts - 1)
            items = ragged_positions(starts + 1, counts - 1)
            yield pa.table(events(fields.take(pa.array(users)), fields.take(pa.array(items))))

    def catalogue(self, bad: BadRows) -> pa.Table | None:
        """The films of ML-1M under the item numbers of the file, or None for other files."""
        if self._join is None or self._movies is None:
            return None
        dat = next(layout for layout in LAYOUTS if layout.movies == "movies.dat")
        films = read_films(self._movies, dat, bad)
        rows = parse(whole(self._join), 1, str(self._join), LINE, bad)
        fields, counts = _fields(rows)
        if (counts != 2).any():
            where = rows.where(int(np.argmax(counts != 2)))
            raise BadSource(f"{where}: two item numbers belong on it")
        ours = fields.take(pa.array(np.arange(0, len(fields), 2)))
        first = pc.index_in(ours, value_set=ours).to_numpy()
        again = np.flatnonzero(first != np.arange(len(ours)))
        if len(again):
            where, number = rows.where(int(again[0])), ours[int(again[0])].as_py()
            raise BadSource(
                f"{where}: the item number {number!r} stands twice; keep one line of it"
            )
        theirs = fields.take(pa.array(np.arange(1, len(fields), 2)))
        film_of = pc.index_in(theirs, value_set=films["item_id"].combine_chunks())
        known = pc.is_valid(film_of)
        joined = films.take(film_of.filter(known))
        return joined.set_column(0, films.schema.field(0), ours.filter(known))


def _fields(rows: Rows) -> tuple[pa.Array, NDArray[np.int64]]:
    """The fields of all lines end to end, and how many each line has."""
    lines = rows.table["line"].combine_chunks()
    fields = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(lines))
    counts = pc.list_value_length(fields).to_numpy(zero_copy_only=False).astype(np.int64)
    return fields.flatten(), counts


def _holds_numbers(member: Member) -> bool:
    """Whether its first lines are of numbers, two or more on some."""
    head = [line.split() for line in member.head().splitlines()[:100]]
    ids = [field for fields in head for field in fields[:3]]
    return any(len(fields) > 1 for fields in head) and all(field.isdigit() for field in ids)
