"""Biased matrix factorisation: predicts a rating, by alternating least squares, solved exactly.

The model of Koren, Bell & Volinsky ("Matrix Factorization Techniques for Recommender Systems",
IEEE Computer 2009). With z = (r - μ)/σ a rating less the mean of all, in their standard deviation,
user u's and item i's biases b_u, b_i and vectors p_u, q_i in R^D, it predicts

    r̂_ui = μ + σẑ_ui,   ẑ_ui = b_u + b_i + p_u·q_i,   clipped to the least and greatest rating seen

and minimises, over the ratings S, n_u of user u and n_i of item i,

    Σ_{(u,i) in S} (z_ui - ẑ_ui)²  +  λ Σ_u n_u^ν (b_u² + |p_u|²)  +  λ Σ_i n_i^ν (b_i² + |q_i|²).

With the items fixed, a user's bias and vector together are one ridge regression of z - b_i on
(1, q_i), and so for an item with the users fixed (`least_squares.py`). ν = 0 is the plain ridge,
1 that of ALS-WR (Zhou et al., AAIM 2008). Measuring in σ makes λ the same on any rating scale.

The user's half of a sweep needs nothing but that user's ratings: that is how one is asked
(fold-in), so no user is stored, and a new one is served at once. Who rated nothing has p_u = 0
and b_u = 0; an item that nobody rated has q_i = 0 and b_i = 0. D = 0 leaves the biases alone.

Good at: dense explicit ratings. Bad at: ranking, since it learns nothing from which items were
rated at all. Time a sweep: O(|S|·D² + (M + N)·D³), less for rows shorter than D. Memory: |S|
ratings twice and (M + N)·D floats.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch.nn.functional import pad

from recsys.data.histories import Histories
from recsys.data.ratings import Ratings
from recsys.models.least_squares import LeastSquares, WeightedRows
from recsys.models.model import ModelConfig, Tensors
from recsys.models.rating_model import RatingModel

_ASKED_AT_ONCE = 2**18
"""How many predictions are made at a time: the vectors of both sides are gathered for each."""

_START = 0.1
"""Standard deviation of the items' vectors before the first sweep."""

_CPU = torch.device("cpu")


class BiasedMfConfig(ModelConfig):
    """Hyper-parameters of biased matrix factorisation. The defaults were chosen on validation
    parts of MovieLens 100K and latest-small (benchmarks/RESULTS.md)."""

    kind: ClassVar[str] = "biased_mf"

    dim: int = Field(32, ge=0)
    """Length of a vector, D; 0 for the biases alone."""

    regularization: float = Field(1.2, gt=0)
    """lambda: more for ratings that disagree more."""

    regularization_exponent: float = Field(0.5, ge=0, le=1)
    """nu: how much more the biases and vectors of frequent users and items are held down."""

    epochs: int = Field(12, ge=1)
    """Sweeps over all users and items."""


class BiasedMf(RatingModel):
    """A fitted biased matrix factorisation."""

    config: BiasedMfConfig

    def __init__(
        self,
        config: BiasedMfConfig,
        scale: NDArray[np.float32],
        item_biases: NDArray[np.float32],
        item_vectors: NDArray[np.float32],
    ) -> None:
        """scale: Float32[4], μ, σ, the least and the greatest rating; item_biases: Float32[N];
        item_vectors: Float32[N, D]."""
        self.config = config
        self._scale = scale
        self._items = _Side(torch.from_numpy(item_biases), torch.from_numpy(item_vectors))

    @classmethod
    def fit(cls, config: BiasedMfConfig, ratings: Ratings, n_items: int) -> Self:
        """The model of these ratings of items 0 .. n_items - 1. Raises ValueError if there are
        none, or one of another item."""
        if len(ratings.values) == 0:
            raise ValueError("there are no ratings to fit on")
        _check_items(ratings.histories, n_items)
        values = ratings.values
        mean, deviation = values.mean(dtype=np.float64), values.std(dtype=np.float64) or 1.0
        scale = np.array([mean, deviation, values.min(), values.max()], np.float32)
        standard = _standardised(values, scale)
        by_item, order = ratings.histories.transposed(n_items)
        of_users = _Rows(config, ratings.histories, standard)
        of_items = _Rows(config, by_item, standard[order])
        generator = torch.Generator().manual_seed(config.seed)
        start = torch.randn(n_items, config.dim, generator=generator) * _START
        items = _Side(torch.zeros(n_items), start)
        for _ in range(config.epochs):
            items = of_items.given(of_users.given(items))
        return cls(config, scale, items.biases.numpy(), items.vectors.numpy())

    @property
    def n_items(self) -> int:
        return len(self._items.biases)

    def predict(self, rated: Ratings, asked: Histories) -> NDArray[np.float32]:
        if len(rated) != len(asked):
            raise ValueError(f"{len(asked)} rows of items are asked of {len(rated)} users")
        for histories in (rated.histories, asked):
            _check_items(histories, self.n_items)
        given = _standardised(rated.values, self._scale)
        users = _Rows(self.config, rated.histories, given).given(self._items)
        all_users, all_items = torch.from_numpy(asked.rows()), torch.from_numpy(asked.items)
        standard = torch.empty(len(all_items))
        for start in range(0, len(all_items), _ASKED_AT_ONCE):
            part = slice(start, start + _ASKED_AT_ONCE)
            of_users, of_items = all_users[part], all_items[part]
            standard[part] = (
                users.biases[of_users]
                + self._items.biases[of_items]
                + (users.vectors[of_users] * self._items.vectors[of_items]).sum(dim=1)
            )
        mean, deviation, least, greatest = self._scale
        predicted = mean + deviation * standard.numpy()
        return np.asarray(predicted.clip(least, greatest), np.float32)

    def tensors(self) -> Tensors:
        return {
            "item_biases": self._items.biases.numpy(),
            "item_vectors": self._items.vectors.numpy(),
            "scale": self._scale,
        }

    @classmethod
    def restore(cls, config: ModelConfig, tensors: Tensors) -> Self:
        if not isinstance(config, BiasedMfConfig):
            raise ValueError(f"biased_mf needs a BiasedMfConfig, not {type(config).__name__}")
        for name in ("item_biases", "item_vectors", "scale"):
            if name not in tensors:
                raise ValueError(f"the tensor {name} is missing")
        n_items = tensors["item_biases"].size
        shapes = {"item_biases": (n_items,), "item_vectors": (n_items, config.dim), "scale": (4,)}
        for name, shape in shapes.items():
            if tensors[name].shape != shape:
                raise ValueError(f"the tensor {name} has shape {tensors[name].shape}, not {shape}")
        return cls(config, tensors["scale"], tensors["item_biases"], tensors["item_vectors"])


@dataclass(frozen=True, eq=False)
class _Side:
    """The users, or the items: their biases Float32[B] and their vectors Float32[B, D]."""

    biases: torch.Tensor
    vectors: torch.Tensor

    @cached_property
    def solver(self) -> LeastSquares:
        """Solves for the biases and vectors of the other side, a bias before its vector."""
        features = pad(self.vectors, (1, 0), value=1.0)
        return LeastSquares(features, features.new_zeros(features.shape[1], features.shape[1]))


class _Rows:
    """The standardised ratings of one side, row by row."""

    def __init__(
        self, config: BiasedMfConfig, histories: Histories, standard: NDArray[np.float32]
    ) -> None:
        """standard: Float32[nnz] beside the histories' items."""
        ones = np.ones_like(standard)
        self._rows = WeightedRows(histories, ones, config.dim + 1, _CPU)
        self._others = torch.from_numpy(histories.items)
        self._standard = torch.from_numpy(standard)
        frequency = self._rows.lengths.float() ** config.regularization_exponent
        self._ridge = config.regularization * frequency

    def given(self, others: _Side) -> _Side:
        """The best this side can be for what the others are."""
        targets = self._standard - others.biases[self._others]
        solutions, _ = others.solver.solve(self._rows, self._ridge, targets)
        return _Side(solutions[:, 0].contiguous(), solutions[:, 1:].contiguous())


def _standardised(values: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray((values - scale[0]) / scale[1], np.float32)


def _check_items(histories: Histories, n_items: int) -> None:
    items = histories.items
    if len(items) and (items.min() < 0 or items.max() >= n_items):
        raise ValueError(f"there is an item row outside 0 .. {n_items - 1}")
