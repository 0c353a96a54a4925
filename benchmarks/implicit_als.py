"""What `quality.py` runs in the virtual environment of `implicit`: fit, and recommend.

    python implicit_als.py INPUT.npz SETTINGS.json OUTPUT.npz

INPUT: train and query histories as offsets and items, the number of items, k. SETTINGS: a list of
keyword arguments of AlternatingLeastSquares. OUTPUT: `top_0`, `top_1`, ..: for each of them the k
best unseen items Int32[B, k] of every query, and `seconds`, how long each fit took. It imports
nothing of this project, which is not installed where it runs.
"""

import json
import sys
import time

import numpy as np
from implicit.als import AlternatingLeastSquares
from numpy.typing import NDArray
from scipy.sparse import csr_matrix


def matrix(offsets: NDArray[np.int64], items: NDArray[np.int64], n_items: int) -> csr_matrix:
    """Float32 CSR of ones: which user touched which item."""
    cells = csr_matrix(
        (np.ones(len(items), np.float32), items, offsets), shape=(len(offsets) - 1, n_items)
    )
    cells.sum_duplicates()
    cells.data[:] = 1
    return cells


def main() -> None:
    given = np.load(sys.argv[1])
    with open(sys.argv[2], encoding="utf-8") as file:  # noqa: PTH123
        settings = json.load(file)
    n_items, k = int(given["n_items"]), int(given["k"])
    train = matrix(given["train_offsets"], given["train_items"], n_items)
    asked = matrix(given["asked_offsets"], given["asked_items"], n_items)
    found, seconds = {}, []
    for number, setting in enumerate(settings):
        started = time.perf_counter()
        model = AlternatingLeastSquares(random_state=0, **setting)
        model.fit(train, show_progress=False)
        seconds.append(time.perf_counter() - started)
        found[f"top_{number}"], _ = model.recommend(
            np.arange(asked.shape[0]),
            asked,
            N=k,
            filter_already_liked_items=True,
            recalculate_user=True,
        )
    np.savez(sys.argv[3], seconds=np.array(seconds), **found)


if __name__ == "__main__":
    main()
