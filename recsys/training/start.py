"""Start: the fitted model that a run begins from, instead of from nothing.

Items are matched by their ids, so the new data may have them in another order, lack some and have
new ones: what is known of an item never moves to another.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file, save_file

from infra.errors import RecsysError
from infra.storage import atomic_folder
from recsys.data.vocabulary import Vocabulary
from recsys.models.model import Fit, Tensors

ITEMS, TENSORS = "items.parquet", "tensors.safetensors"


@dataclass(frozen=True, eq=False)
class Start:
    """A fitted model, as a run needs it."""

    name: str
    """Of the model and version, for people."""

    items: Vocabulary
    """Row i of its item vectors is item i."""

    tensors: Tensors

    def save(self, folder: Path) -> None:
        """Write it where every worker reads it."""
        with atomic_folder(folder) as unfinished:
            pq.write_table(pa.table({"item_id": self.items.to_arrow()}), unfinished / ITEMS)
            save_file(dict(self.tensors), unfinished / TENSORS, {"name": self.name})

    @classmethod
    def load(cls, folder: Path, name: str) -> Start:
        """What `save` wrote."""
        items = Vocabulary(pq.read_table(folder / ITEMS)["item_id"])
        return cls(name, items, load_file(folder / TENSORS))

    def give(self, fitting: Fit, items: Vocabulary) -> None:
        """Start the fit of these items; raises RecsysError if the model is of another shape."""
        try:
            fitting.warm_start(self.tensors, self.items.rows(items.to_arrow()))
        except ValueError as error:
            raise RecsysError(
                f"cannot start from {self.name}: {error}. Train with its hyper-parameters, or "
                "without --warm-start"
            ) from None
