"""What `als.py` runs in the virtual environment of `implicit`: fit, timed, and keep the factors.

    python implicit_factors.py INPUT.npz SETTINGS.json OUTPUT.npz

INPUT: histories as offsets and items, the number of items. SETTINGS: keyword arguments of
AlternatingLeastSquares. OUTPUT: `users` Float32[M, D], `items` Float32[N, D], `seconds`.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
from implicit.als import AlternatingLeastSquares
from scipy.sparse import csr_matrix


def main() -> None:
    given = np.load(sys.argv[1])
    settings = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    offsets, items, n_items = given["offsets"], given["items"], int(given["n_items"])
    started = time.perf_counter()
    ones = np.ones(len(items), np.float32)
    pairs = csr_matrix((ones, items, offsets), shape=(len(offsets) - 1, n_items))
    model = AlternatingLeastSquares(random_state=0, **settings)
    model.fit(pairs, show_progress=False)
    seconds = time.perf_counter() - started
    np.savez(sys.argv[3], users=model.user_factors, items=model.item_factors, seconds=seconds)


if __name__ == "__main__":
    main()
