"""What `ratings.py` runs in the virtual environment of Surprise: choose, fit and predict.

    python surprise_svd.py INPUT.npz ALGORITHM GRID OUTPUT.npz

INPUT: known ratings as `users`, `items`, `values`, which of them are the `validation` part, and
`asked_users`, `asked_items`. ALGORITHM: SVD or SVDpp. GRID: a list of its keyword arguments, as
JSON; of several, those with the least RMSE on the validation part are fitted on all that is known.
OUTPUT: `predicted`, `best` (which of the grid), `rmse` (on the validation part) and `seconds` (of
one core, for the last fit). It imports nothing of this project, which is not installed there.
"""

import json
import sys
import time

import numpy as np
import surprise
from numpy.typing import NDArray

given = np.load(sys.argv[1])
Algorithm = getattr(surprise, sys.argv[2])
grid = json.loads(sys.argv[3])


def trainset(kept: NDArray[np.bool_]) -> surprise.Trainset:
    users, items, values = (given[name][kept].tolist() for name in ("users", "items", "values"))
    reader = surprise.Reader(rating_scale=(min(values), max(values)))
    rows = [(*row, None) for row in zip(users, items, values, strict=True)]
    return surprise.Dataset(reader).construct_trainset(rows)


def predictions(
    model: surprise.AlgoBase, users: NDArray[np.int64], items: NDArray[np.int64]
) -> NDArray[np.float64]:
    pairs = zip(users.tolist(), items.tolist(), strict=True)
    return np.array([model.predict(user, item).est for user, item in pairs])


def main() -> None:
    held_out = given["validation"]
    asked = given["users"][held_out], given["items"][held_out]
    rmse = []
    for settings in grid:
        model = Algorithm(random_state=0, **settings).fit(trainset(~held_out))
        errors = predictions(model, *asked) - given["values"][held_out]
        rmse.append(np.sqrt(np.square(errors).mean()))
    best = int(np.argmin(rmse))
    known = trainset(np.ones_like(held_out))
    started = time.process_time()
    model = Algorithm(random_state=0, **grid[best]).fit(known)
    seconds = time.process_time() - started
    predicted = predictions(model, given["asked_users"], given["asked_items"])
    np.savez(sys.argv[4], predicted=predicted, best=best, rmse=rmse[best], seconds=seconds)


if __name__ == "__main__":
    main()
