"""MovieLens as GroupLens lays it out: 100K (`u.data`), the CSV editions, and `::` files.

F. M. Harper & J. A. Konstan, "The MovieLens Datasets: History and Context" (TiiS 2015).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.readers.blocks import Member, Meter, blocks, parse, split_list
from recsys.data.readers.catalogue import films
from recsys.data.readers.rows import BadRows, RowChecks, events

RATINGS = ("user_id", "item_id", "value", "timestamp")

GENRES_100K = (
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)
"""The flags of u.item, in order (u.genre)."""


@dataclass(frozen=True)
class Layout:
    """One of GroupLens' layouts."""

    ratings: str
    movies: str
    delimiter: str
    header: bool
    encoding: str


LAYOUTS = (
    Layout("u.data", "u.item", "\t", header=False, encoding="latin1"),
    Layout("ratings.csv", "movies.csv", ",", header=True, encoding="utf-8"),
    Layout("ratings.dat", "movies.dat", "::", header=False, encoding="latin1"),
)


def layout_of(files: Mapping[str, Member]) -> Layout | None:
    """The layout whose ratings are among these files."""
    return next((layout for layout in LAYOUTS if layout.ratings in files), None)


class MovieLens:
    """Reads one of the layouts."""

    def __init__(self, files: Mapping[str, Member], layout: Layout) -> None:
        self._layout = layout
        self._ratings = files[layout.ratings]
        self._movies = files.get(layout.movies)
        self.size = self._ratings.size

    def events(self, bad: BadRows, meter: Meter) -> Iterator[pa.Table]:
        """Every rating, as an event of kind `rating`."""
        header = self._layout.header
        for line, block in blocks(self._ratings, meter):
            if header:
                _, _, block = block.partition(b"\n")
                line, header = line + 1, False
            if self._layout.delimiter == "::":
                block = block.replace(b"::", b"\t")
            delimiter = "," if self._layout.delimiter == "," else "\t"
            table, lines = parse(
                block, line, source=str(self._ratings), names=RATINGS, delimiter=delimiter, bad=bad
            )
            checks = RowChecks(table, str(self._ratings), lines, bad)
            columns = events(
                checks.text("user_id"),
                checks.text("item_id"),
                checks.moment("timestamp"),
                checks.number("value"),
                pa.repeat("rating", len(table)),
            )
            yield checks.keep(columns)

    def catalogue(self, bad: BadRows) -> pa.Table | None:
        """The films with their genres as tags, or None where there is no such file."""
        if self._movies is None:
            return None
        return read_films(self._movies, self._layout, bad)


def read_films(movies: Member, layout: Layout, bad: BadRows) -> pa.Table:
    """`movies.dat`, `movies.csv` or `u.item` as a catalogue."""
    names = ["item_id", "title", "genres"]
    delimiter = "," if layout.delimiter == "," else "\t"
    if layout.movies == "u.item":
        names, delimiter = ["item_id", "title", "date", "video_date", "url", *GENRES_100K], "|"
    parts = []
    header = layout.header
    for line, block in blocks(movies):
        if header:
            _, _, block = block.partition(b"\n")
            line, header = line + 1, False
        if layout.encoding != "utf-8":
            block = block.decode(layout.encoding).encode()
        table, lines = parse(
            block.replace(b"::", b"\t") if layout.delimiter == "::" else block,
            line,
            source=str(movies),
            names=names,
            delimiter=delimiter,
            bad=bad,
            quoted=layout.delimiter == ",",
        )
        checks = RowChecks(table, str(movies), lines, bad)
        columns = {"item_id": checks.text("item_id"), "title": checks.text("title")}
        columns["genres"] = _flags(table) if layout.movies == "u.item" else _split(table["genres"])
        parts.append(checks.keep(columns))
    whole = pa.concat_tables(parts).combine_chunks()
    return films(*(whole[name].combine_chunks() for name in ("item_id", "title", "genres")))


def _split(genres: pa.ChunkedArray) -> pa.Array:
    none = pc.equal(genres, "(no genres listed)")
    return split_list(pc.if_else(none, "", genres).combine_chunks(), "|")


def _flags(table: pa.Table) -> pa.Array:
    """The genres that are flagged with 1, as list<string>."""
    flags = np.stack([pc.equal(table[genre], "1").to_numpy() for genre in GENRES_100K[1:]], axis=1)
    offsets = np.concatenate([[0], np.cumsum(flags.sum(1))]).astype(np.int32)
    names = pa.array(GENRES_100K[1:]).take(pa.array(np.nonzero(flags)[1]))
    return pa.ListArray.from_arrays(pa.array(offsets), names)
