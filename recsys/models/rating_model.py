"""The contract of what predicts a rating: what a user thought of some items in, of others out.

It is no `Model`: it ranks nothing and makes no space, so it is sealed in a bundle of its own
(recsys/rating_bundle.py) and nothing serves it. How well it does is measured in ratings
(recsys/evaluation/ratings.py). As in a `Model`, no user is stored.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

import numpy as np
from numpy.typing import NDArray

from recsys.data.histories import Histories
from recsys.data.ratings import Ratings
from recsys.models.model import ModelConfig, Tensors


class RatingModel(ABC):
    """Predicts what users would rate items from what they rated before.

    A batch answers as its users one by one; `restore(config, tensors())` is the identity; the
    same seed fits the same model.
    """

    config: ModelConfig

    @property
    @abstractmethod
    def n_items(self) -> int:
        """N: it predicts ratings of the items 0 .. N - 1."""

    @abstractmethod
    def predict(self, rated: Ratings, asked: Histories) -> NDArray[np.float32]:
        """Float32[nnz of asked], within the scale of the ratings that it was fitted on.

        rated: all that is known of B users; asked: the items in question, row b for user b. The
        users need not be those of the fit. Raises ValueError for other than B rows in `asked`
        and for an item that the model has no row for.
        """

    @abstractmethod
    def tensors(self) -> Tensors:
        """Everything `restore` needs, by name."""

    @classmethod
    @abstractmethod
    def restore(cls, config: ModelConfig, tensors: Tensors) -> Self:
        """The model that gave these tensors; raises ValueError naming one missing or misshapen."""
