"""MovieLens as GroupLens lays it out: 100K (`u.data`), the CSV editions, and `::` files.

F. M. Harper & J. A. Konstan, "The MovieLens Datasets: History and Context" (TiiS 2015).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.readers.blocks import Member, Meter, blocks, whole
from recsys.data.readers.catalogue import films, split_list
from recsys.data.readers.delimited import Format, is_utf8, parse
from recsys.data.readers.rows import BadRows, BadSource, RowChecks, events

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

MARK = "\x1f"
"""What stands for `::` where one character must part the fields: no text has it."""


@dataclass(frozen=True)
class Layout:
    """One of GroupLens' layouts."""

    ratings: str
    movies: str
    delimiter: str
    """Of the ratings, and of the movies but in 100K."""
    header: tuple[bytes, bytes] | None = None
    """The first lines of the ratings and of the movies, if they say what follows."""


LAYOUTS = (
    Layout("u.data", "u.item", "\t"),
    Layout(
        "ratings.csv",
        "movies.csv",
        ",",
        header=(b"userId,movieId,rating,timestamp", b"movieId,title,genres"),
    ),
    Layout("ratings.dat", "movies.dat", "::"),
)


def layout_of(files: Mapping[str, Member]) -> Layout | None:
    """The layout whose ratings are among these files."""
    return next((layout for layout in LAYOUTS if _is_in(layout, files)), None)


def _is_in(layout: Layout, files: Mapping[str, Member]) -> bool:
    member = files.get(layout.ratings)
    return member is not None and (
        layout.header is None or _first_line(member.head()) == layout.header[0]
    )


class MovieLens:
    """Reads one of the layouts."""

    def __init__(self, files: Mapping[str, Member], layout: Layout) -> None:
        self._layout = layout
        self._ratings = files[layout.ratings]
        self._movies = files.get(layout.movies)
        self.size = self._ratings.size

    def events(self, bad: BadRows, meter: Meter) -> Iterator[pa.Table]:
        """Every rating, as an event of kind `rating`."""
        colons = self._layout.delimiter == "::"
        form = Format(RATINGS, MARK if colons else self._layout.delimiter, quoted=False)
        header = self._layout.header is not None
        for line, block in blocks(self._ratings, meter):
            if header:
                _, _, block = block.partition(b"\n")
                line, header = line + 1, False
            if colons:
                block = block.replace(b"::", MARK.encode())
            if not block:
                continue
            rows = parse(block, line, str(self._ratings), form, bad)
            checks = RowChecks(rows, bad)
            columns = events(
                checks.text("user_id"),
                checks.text("item_id"),
                checks.moment("timestamp"),
                checks.number("value"),
                pa.repeat("rating", len(rows.table)),
            )
            yield checks.keep(columns)

    def catalogue(self, bad: BadRows) -> pa.Table | None:
        """The films with their genres as tags, or None where there is no such file."""
        if self._movies is None:
            return None
        return read_films(self._movies, self._layout, bad)


def read_films(movies: Member, layout: Layout, bad: BadRows) -> pa.Table:
    """`movies.dat`, `movies.csv` or `u.item` as a catalogue; raises BadSource if a film stands
    twice. The text is UTF-8, or else Latin-1 as that of the old editions."""
    block, line = whole(movies), 1
    if layout.header is not None:
        if _first_line(block) != layout.header[1]:
            raise BadSource(f"{movies}, line 1: it is not {layout.header[1].decode()}")
        _, _, block = block.partition(b"\n")
        line = 2
    elif not is_utf8(block):
        block = block.decode("latin1").encode()
    names: tuple[str, ...] = ("item_id", "title", "genres")
    delimiter = layout.delimiter
    if layout.movies == "u.item":
        names, delimiter = ("item_id", "title", "date", "video_date", "url", *GENRES_100K), "|"
    if delimiter == "::":
        # A title may begin or end with a colon; an id does not hold one.
        block = re.sub(rb"(?m)(^[^:\n]*)::|::(?!:)", rb"\1" + MARK.encode(), block)
        delimiter = MARK
    form = Format(names, delimiter, quoted=delimiter == ",")
    rows = parse(block, line, str(movies), form, bad)
    checks = RowChecks(rows, bad)
    flagged = layout.movies == "u.item"
    kept = checks.keep(
        {
            "item_id": checks.text("item_id"),
            "title": checks.text("title"),
            "genres": _flags(rows.table) if flagged else _split(rows.table["genres"]),
            "line": pa.array(rows.lines),
        }
    ).combine_chunks()
    ids, titles, genres = (kept[name].combine_chunks() for name in ("item_id", "title", "genres"))
    return films(ids, titles, genres, str(movies), kept["line"].to_pylist())


def _first_line(text: bytes) -> bytes:
    return text.partition(b"\n")[0].rstrip(b"\r")


def _split(genres: pa.ChunkedArray) -> pa.Array:
    none = pc.equal(genres, "(no genres listed)")
    return split_list(pc.if_else(none, "", genres).combine_chunks(), "|")


def _flags(table: pa.Table) -> pa.Array:
    """The genres that are flagged with 1, as list<string>; `unknown` is none."""
    flags = np.stack([pc.equal(table[genre], "1").to_numpy() for genre in GENRES_100K[1:]], axis=1)
    offsets = np.concatenate([[0], np.cumsum(flags.sum(1))]).astype(np.int32)
    names = pa.array(GENRES_100K[1:]).take(pa.array(np.nonzero(flags)[1]))
    return pa.ListArray.from_arrays(pa.array(offsets), names)
