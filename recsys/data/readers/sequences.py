"""Sequence files, as the sequential-recommendation papers publish them.

One `user item` a line, or one `user item item …` line a user, both in time order and without
times. The folder of ML-1M in that form also joins its item numbers to `movies.dat`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.histories import ragged_positions
from recsys.data.readers.blocks import Member, Meter, blocks
from recsys.data.readers.movielens import LAYOUTS, read_films
from recsys.data.readers.rows import BadRows, BadSource, events

JOIN = "sas_to_original_items.txt"
"""Joins the item numbers of ml-1m.txt to those of movies.dat, one pair a line."""


def sequence_file_of(files: Mapping[str, Member]) -> Member | None:
    """The one file that holds sequences: a .txt whose first lines are ids parted by blanks."""
    texts = [
        member
        for name, member in files.items()
        if name.endswith(".txt") and name != JOIN and not name.lower().startswith("readme")
    ]
    looks_right = [member for member in texts if _holds_sequences(member)]
    return looks_right[0] if len(looks_right) == 1 else None


class Sequences:
    """Reads a sequence file."""

    def __init__(self, files: Mapping[str, Member], member: Member) -> None:
        self._member = member
        self._join, self._movies = files.get(JOIN), files.get("movies.dat")
        self.size = member.size

    def events(self, bad: BadRows, meter: Meter) -> Iterator[pa.Table]:
        """Every user and item in the order of the file, without times."""
        for line, block in blocks(self._member, meter):
            fields, counts, lines = _fields(block, line, str(self._member))
            short = counts < 2
            if short.any():
                first = int(np.argmax(short))
                reason = "a user and at least one item belong on it"
                source = str(self._member)
                bad.add(source, int(lines[first]), "the line", reason, int(short.sum()))
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
        _, block = next(blocks(self._join))
        fields, counts, lines = _fields(block, 1, str(self._join))
        if (counts != 2).any():
            wrong = int(lines[np.argmax(counts != 2)])
            raise BadSource(f"{self._join}, line {wrong}: two item numbers belong on it")
        ours, theirs = (
            fields.take(pa.array(np.arange(0, len(fields), 2))),
            fields.take(pa.array(np.arange(1, len(fields), 2))),
        )
        rows = pc.index_in(theirs, value_set=films["item_id"].combine_chunks())
        known = pc.is_valid(rows)
        joined = films.take(rows.filter(known))
        return joined.set_column(0, films.schema.field(0), ours.filter(known))


def _fields(
    block: bytes, first_line: int, source: str
) -> tuple[
    pa.Array, np.ndarray[tuple[int], np.dtype[np.int64]], np.ndarray[tuple[int], np.dtype[np.int64]]
]:
    """All fields of the block, how many each line holds, and the lines; blank lines left out."""
    try:
        text = block.decode()
    except UnicodeDecodeError as error:
        line = first_line + block[: error.start].count(b"\n")
        raise BadSource(f"{source}, line {line}: it is not UTF-8; convert the file") from None
    rows = pa.array(text.split("\n"), pa.string())
    parts = pc.split_pattern_regex(pc.utf8_trim_whitespace(rows), r"\s+")
    counts = pc.list_value_length(parts).to_numpy().astype(np.int64)
    blank = pc.equal(pc.list_element(parts, 0), "").to_numpy(zero_copy_only=False)
    lines = first_line + np.flatnonzero(~blank)
    return parts.filter(pa.array(~blank)).flatten(), counts[~blank], lines


def _holds_sequences(member: Member) -> bool:
    with member.open() as file:
        head = [line.split() for line in file.read(65_536).splitlines()[:100]]
    ids = [field for fields in head for field in fields[:3]]
    return any(len(fields) > 1 for fields in head) and all(field.isdigit() for field in ids)
