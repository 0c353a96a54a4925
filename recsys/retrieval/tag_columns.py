"""Tag columns: the tags of items as numbers, beside the vectors of their contents.

A column a tag, 1 where an item bears it. An encoder reads tags as words among others and blurs
them; where a tag is what taste goes by, as a genre is, a column tells it as it stands
(benchmarks/RESULTS.md). Vectors of contents have unit length, so that a tag weighs as much as all
of a text.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recsys.data.vocabulary import UNKNOWN, Vocabulary

MOST_TAGS = 256
"""So many tags have a column, the commonest: each costs a number an item, and of one that few items
bear a regression learns little."""


def common_tags(tags: pa.ChunkedArray) -> list[str]:
    """The tags that items bear, the commonest first and at most MOST_TAGS.

    tags: List<String>[N]; a list or a tag may be null.
    """
    counted = pc.value_counts(pc.drop_null(pc.list_flatten(tags.combine_chunks())))
    counts = pa.Table.from_struct_array(counted)
    order = [("counts", "descending"), ("values", "ascending")]
    named: list[str] = counts.sort_by(order)["values"].slice(0, MOST_TAGS).to_pylist()
    return named


def with_tags(
    vectors: Sequence[NDArray[np.float32]], tags: pa.ChunkedArray, columns: Sequence[str]
) -> NDArray[np.float32]:
    """Float32[N, Dc]: the vectors of N items side by side, and a column for each of the tags in
    `columns`. A tag without a column is ignored."""
    lists = tags.combine_chunks()
    column = Vocabulary(columns).rows(pc.list_flatten(lists))
    item = pc.list_parent_indices(lists).to_numpy()
    known = column != UNKNOWN
    borne = np.zeros((len(lists), len(columns)), np.float32)
    borne[item[known], column[known]] = 1
    return np.concatenate([*vectors, borne], axis=1)
