"""Popularity: everybody gets what is touched most. The floor that every other model must beat.

score(i) = how often item i stands in the training histories, as a share of the most frequent
item's count. Time O(events), memory O(items). It knows no person, so it answers everybody, also
those with no history; it is the fallback of the service.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray

from recsys.data.histories import Histories
from recsys.models.model import Fit, Model, ModelConfig, Tensors, Workers


class PopularityConfig(ModelConfig):
    """Popularity has nothing to set."""

    kind: ClassVar[str] = "popularity"


class Popularity(Model):
    """A space of one dimension: each item's vector is its share, each query is 1."""

    def __init__(self, config: PopularityConfig, shares: NDArray[np.float32]) -> None:
        """shares: Float32[N, 1], each from 0 to 1."""
        self.config = config
        self._shares = shares

    @property
    def item_vectors(self) -> NDArray[np.float32]:
        return self._shares

    def query_vectors(self, histories: Histories) -> NDArray[np.float32]:
        return np.ones((len(histories), 1), np.float32)

    def tensors(self) -> Tensors:
        return {"shares": self._shares}

    @classmethod
    def restore(cls, config: ModelConfig, tensors: Tensors) -> Self:
        if not isinstance(config, PopularityConfig):
            raise ValueError(f"popularity cannot be restored from a {type(config).__name__}")
        shares = tensors.get("shares")
        if shares is None or shares.ndim != 2 or shares.shape[1] != 1:
            raise ValueError(
                "popularity needs the tensor 'shares' of shape [N, 1], but it "
                + ("is missing" if shares is None else f"has shape {list(shares.shape)}")
            )
        return cls(config, shares)


class PopularityFit(Fit):
    """One epoch: each worker counts its share of the events, and the counts are summed."""

    max_epochs = 1

    def __init__(
        self,
        config: PopularityConfig,
        histories: Histories,
        n_items: int,
        workers: Workers,
        device: torch.device,
    ) -> None:
        self._config = config
        self._workers = workers
        own = np.bincount(histories.items[workers.rank :: workers.size], minlength=n_items)
        self._own = torch.from_numpy(own).to(device)
        self._counts = torch.zeros_like(self._own)

    def warm_start(self, tensors: Tensors, rows: NDArray[np.int64]) -> None:
        """Counting all events takes one pass either way."""

    def run_epoch(self, epoch: int) -> dict[str, float]:
        """The loss is the mean negative log-likelihood of an event, in nats."""
        self._counts = self._workers.sum(self._own)
        counts = self._counts[self._counts > 0].double()
        total = counts.sum()
        return {"loss": float((counts * (total / counts).log()).sum() / total.clamp(min=1))}

    def model(self) -> Popularity:
        shares = self._counts.double() / self._counts.max().clamp(min=1)
        return Popularity(self._config, shares.float().cpu().numpy()[:, None])

    def state(self) -> dict[str, torch.Tensor]:
        return {"counts": self._counts.clone()}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        counts = state["counts"]
        if counts.shape != self._counts.shape:
            raise ValueError(
                f"the state counts {len(counts)} items, this fit has {len(self._counts)}"
            )
        self._counts = counts.to(self._counts)
