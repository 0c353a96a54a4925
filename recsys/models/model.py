"""The contract of every recommender: histories in, query vectors out, one inner product scores.

A model is pure numerics. It holds no user, no id, no file and no index: rows of the item
vocabulary go in, vectors come out. What fits it and what serves it live elsewhere.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from recsys.data.histories import Histories
from recsys.models.ranges import Range

Tensors = Mapping[str, NDArray[np.float32]]


class ModelConfig(BaseModel):
    """A model's hyper-parameters: frozen, validated, every field with a default that works."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    kind: ClassVar[str]
    """The name of the model and of the space it makes."""

    ranges: ClassVar[Mapping[str, Range]] = {}
    """What `recsys tune` tries for each hyper-parameter that is worth a search."""

    seed: int = Field(0, ge=0, lt=2**63)
    """Seed of every random choice of the fit; the same seed gives the same model."""


class Model(ABC):
    """Turns histories into query vectors; scores are inner products with `item_vectors`.

    Laws (tests/recsys/models/test_laws.py): a batch answers as its histories one by one;
    `restore(config, tensors())` is the identity; the same seed fits the same model.
    """

    config: ModelConfig

    @property
    @abstractmethod
    def item_vectors(self) -> NDArray[np.float32]:
        """Float32[N, D]."""

    @abstractmethod
    def query_vectors(self, histories: Histories) -> NDArray[np.float32]:
        """Float32[B, D], one for each history; a zero vector where a history is empty and the
        model has nothing to say of it."""

    @abstractmethod
    def tensors(self) -> Tensors:
        """Everything `restore` needs, by name."""

    @classmethod
    @abstractmethod
    def restore(cls, config: ModelConfig, tensors: Tensors) -> Self:
        """The model that gave these tensors; raises ValueError naming one missing or misshapen."""


class Workers(Protocol):
    """The training processes that share one fit, as the numerics see them."""

    rank: int
    size: int

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The element-wise sum over all workers, on each of them."""
        ...

    def concatenate(self, tensor: torch.Tensor) -> torch.Tensor:
        """The workers' tensors end to end in order of rank, on each of them; their first
        dimensions may differ."""
        ...


class Alone:
    """The Workers of a fit in one process."""

    rank = 0
    size = 1

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor

    def concatenate(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor


class Fit(ABC):
    """One fit in progress on one of `workers.size` workers, an epoch at a time.

    The loop around it (recsys/training) validates, checkpoints, reports and stops; it knows no
    model, and a Fit knows no loop. Constructed as `Fit(config, histories, n_items, workers,
    device)`, where `histories` are those of *all* users: the Fit takes its own share by rank.
    """

    max_epochs: int

    @abstractmethod
    def warm_start(self, tensors: Tensors, rows: NDArray[np.int64]) -> None:
        """Begin from a fitted model of the same kind instead of from nothing.

        tensors: that model's. rows: Int64[N], the row there of each item here, UNKNOWN for a new
        one. To be called before the first epoch. Raises ValueError if they are of another shape.
        """

    @abstractmethod
    def run_epoch(self, epoch: int) -> dict[str, float]:
        """One pass over this worker's share; returns what there is to log, `loss` first, the
        same on every worker."""

    @abstractmethod
    def model(self) -> Model:
        """The model as it stands now, the same on every worker."""

    @abstractmethod
    def state(self) -> dict[str, torch.Tensor]:
        """What a fit that `load_state` is given needs to go on as this one would have."""

    @abstractmethod
    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from a `state`; raises ValueError if it is of another shape."""
