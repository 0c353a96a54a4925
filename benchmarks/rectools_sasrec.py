"""What `train.py` runs in the virtual environment of RecTools: fit SASRec an epoch at a time.

    python rectools_sasrec.py INPUT.npz SETTINGS.json OUTPUT

INPUT: the training and the test queries' histories as offsets and items, k. SETTINGS: keyword
arguments of SASRecModel, of which `epochs` is the most there are, and `seed`. Writes
OUTPUT/NNNN.npz after each epoch: the k best unseen items of every validation query (`validation`,
Int64[B, k]), of every test query (`test`), the seconds spent in training so far, the peak memory,
a label that says who it is, and the number format that it trains in. OUTPUT/ended follows the last
one. It stops early when its caller is gone. It imports nothing of this project, which is not
installed where it runs.
"""

import json
import os
import resource
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from lightning_fabric import seed_everything
from numpy.typing import NDArray
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel

warnings.filterwarnings("ignore")


def interactions(
    users: NDArray[np.int64], offsets: NDArray[np.int64], items: NDArray[np.int64]
) -> Dataset:
    """One row an event, in order."""
    users = np.repeat(users, np.diff(offsets))
    days = pd.Timestamp("2000-01-01") + pd.to_timedelta(np.arange(len(items)), unit="s")
    columns = (Columns.User, Columns.Item, Columns.Weight, Columns.Datetime)
    values = (users, items, np.ones(len(items)), days)
    return Dataset.construct(pd.DataFrame(dict(zip(columns, values, strict=True))))


def top(
    model: SASRecModel, dataset: Dataset, users: NDArray[np.int64], k: int
) -> NDArray[np.int64]:
    """The k best unseen items of each user; -1 where there are fewer."""
    found = model.recommend(users, dataset, k=k, filter_viewed=True)
    row_of = {user: row for row, user in enumerate(users.tolist())}
    ranked = np.full((len(users), k), -1, np.int64)
    rows = found[Columns.User].map(row_of).to_numpy()
    ranked[rows, found[Columns.Rank].to_numpy() - 1] = found[Columns.Item].to_numpy()
    return ranked


def main() -> None:
    given = np.load(sys.argv[1])
    settings = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    output = Path(sys.argv[3])
    torch.set_num_threads(os.cpu_count() or 1)
    k, users = int(given["k"]), given["users"]
    everyone = np.arange(len(given["train_offsets"]) - 1)
    train = interactions(everyone, given["train_offsets"], given["train_items"])
    known = interactions(users, given["asked_offsets"], given["asked_items"])
    seed_everything(settings.pop("seed"))
    epochs, caller = settings.pop("epochs"), os.getppid()
    model = SASRecModel(**settings, epochs=1, deterministic=True)
    seconds = 0.0
    for epoch in range(epochs):
        started = time.perf_counter()
        model.fit_partial(train, min_epochs=1, max_epochs=1)
        seconds += time.perf_counter() - started
        part = output / f"{epoch:04d}.part.npz"
        precision = model.fit_trainer.precision
        np.savez(
            part,
            label=f"RecTools {version('rectools')} SASRec, d = {model.n_factors}",
            numbers={"32-true": "float32"}.get(precision, precision),
            validation=top(model, train, users, k),
            test=top(model, known, users, k),
            seconds=seconds,
            peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        )
        part.rename(output / f"{epoch:04d}.npz")
        if os.getppid() != caller:
            return  # nobody reads on
    (output / "ended").touch()


if __name__ == "__main__":
    main()
