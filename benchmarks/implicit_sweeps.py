"""What `train.py` runs in the virtual environment of `implicit`: fit its ALS a sweep at a time.

    python implicit_sweeps.py INPUT.npz SETTINGS.json OUTPUT

Input and output are as of `rectools_sasrec.py`; SETTINGS: keyword arguments of
AlternatingLeastSquares, and `seed`. Every query is folded in.
It imports nothing of this project, which is not installed where it runs.
"""

import json
import resource
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from implicit.als import AlternatingLeastSquares
from implicit_als import matrix
from numpy.typing import NDArray
from scipy.sparse import csr_matrix


def top(model: AlternatingLeastSquares, asked: csr_matrix, k: int) -> NDArray[np.int64]:
    """Int64[B, k], the best unseen items of each history."""
    rows = np.arange(asked.shape[0])
    found, _ = model.recommend(
        rows, asked, N=k, filter_already_liked_items=True, recalculate_user=True
    )
    return np.asarray(found, np.int64)


def main() -> None:
    given = np.load(sys.argv[1])
    settings = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    output, n_items, k = Path(sys.argv[3]), int(given["n_items"]), int(given["k"])
    train = matrix(given["train_offsets"], given["train_items"], n_items)
    asked = matrix(given["asked_offsets"], given["asked_items"], n_items)
    model = AlternatingLeastSquares(random_state=settings.pop("seed"), **settings)
    started, spent = time.perf_counter(), 0.0  # spent: on what is not the fit

    def after(sweep: int, *_: float) -> None:
        nonlocal spent
        ended = time.perf_counter()
        model._YtY = None  # of the item factors as they were when it was last asked
        part = output / f"{sweep:04d}.part.npz"
        np.savez(
            part,
            label=f"implicit {version('implicit')}, d = {model.factors}",
            numbers=str(model.item_factors.dtype),
            validation=top(model, train[given["users"]], k),
            test=top(model, asked, k),
            seconds=ended - started - spent,
            peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        )
        part.rename(output / f"{sweep:04d}.npz")
        spent += time.perf_counter() - ended

    model.fit(train, show_progress=False, callback=after)
    (output / "ended").touch()


if __name__ == "__main__":
    main()
