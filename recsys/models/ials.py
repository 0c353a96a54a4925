"""iALS: implicit alternating least squares, over any number of workers.

The matrix factorisation of Hu, Koren & Volinsky (ICDM 2008) as Rendle, Krichene, Zhang & Koren
revisited it ("Revisiting the Performance of iALS on Item Recommendation Benchmarks", 2021, arXiv
2110.14037). With S the pairs of a user u and an item i in the user's history, I_u and U_i the
items of u and the users of i, M users, N items, and w_u, h_i in R^D, it minimises

    L(W, H) =  Σ_{(u,i) in S} c_ui (w_u·h_i - 1)²  +  α₀ Σ_u Σ_i (w_u·h_i)²
             + λ Σ_u (|I_u| + α₀N)^ν |w_u|²  +  λ Σ_i (|U_i| + α₀M)^ν |h_i|².

With the other side fixed each row is one ridge regression:

    ( Σ_{i in I_u} c_ui h_i h_iᵀ + α₀HᵀH + λ(|I_u| + α₀N)^ν I )  w_u  =  Σ_{i in I_u} c_ui h_i

A sweep takes every row a step of conjugate gradients nearer to its solution, from where it is
(`conjugate_gradients.py`): as the other side moves too, more would be wasted. This keeps large D
affordable. The block-coordinate steps of iALS++ (arXiv 2110.14044) cost as much a sweep, but take
D / block small products one after the other, where this takes one sparse product over all
coordinates.

S is a set: an item that a history holds several times counts once, where it stands last. How
often one comes back to an item says little about what comes next, and seen items are masked.

A query is the same equation with H fixed, solved exactly (`least_squares.py`), so no user is
stored. To ask for the *next* item rather than for any, the a-th newest item of a history has the
confidence (1 + a)^-recency in a query, and half of that exponent in training. The paper has c = 1
(recency 0).

Good at: sparse data, short training, long histories; the vectors make good similar items. Bad at:
the order of items beyond "newer counts more". Time a sweep: O((|S|·D + (M + N)·D²) · STEPS).
Memory: |S| pairs twice and a few times (M + N)·D floats on each worker.

Workers share the sweep as ALX does (Mehta et al. 2021, arXiv 2112.02194): each solves its users,
then its items, factors are gathered and Gramians are summed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from recsys.data.histories import Histories
from recsys.data.vocabulary import UNKNOWN
from recsys.models.conjugate_gradients import SparseRows, improve
from recsys.models.least_squares import LeastSquares, WeightedRows
from recsys.models.model import Fit, Model, ModelConfig, Tensors, Workers
from recsys.models.ranges import Between, Range

STEPS = 1
"""Of conjugate gradients, of every row in a sweep. On MovieLens 1M one is the fastest to any loss:
ten sweeps of one get below ten of two or three (`recsys bench als`)."""


class IalsConfig(ModelConfig):
    """Hyper-parameters of iALS. The defaults were chosen on the validation parts of MovieLens
    100K, 1M and latest-small and Amazon Beauty together."""

    kind: ClassVar[str] = "ials"
    ranges: ClassVar[Mapping[str, Range]] = {
        "dim": Between(16, 512, log=True),
        "unobserved_weight": Between(1.0, 100.0, log=True),
        "regularization": Between(0.003, 3.0, log=True),
        "regularization_exponent": Between(0.0, 1.0),
        "recency": Between(0.0, 2.0),
    }

    dim: int = Field(128, ge=1)
    """Length of an item vector, D."""

    unobserved_weight: float = Field(10.0, gt=0)
    """How much all M·N pairs weigh together against the observed ones:
    α₀ = unobserved_weight · Σ c / (M·N). As a ratio it fits sparse and dense data alike."""

    regularization: float = Field(0.1, gt=0)
    """lambda: more for small data."""

    regularization_exponent: float = Field(0.5, ge=0, le=1)
    """nu: how much more the vectors of frequent users and items are held down."""

    recency: float = Field(1.0, ge=0)
    """How much more a history's newer items count: the a-th newest weighs (1 + a)^-recency in a
    query. 0 asks for items that suit the whole history, in any order."""

    max_epochs: int = Field(24, ge=1)
    """Sweeps over all users and items, if validation does not stop the fit before."""


class Ials(Model):
    """A fitted iALS. An empty history, and an item that nobody touched, is the zero vector."""

    config: IalsConfig

    def __init__(
        self, config: IalsConfig, item_vectors: NDArray[np.float32], unobserved: np.float32
    ) -> None:
        """item_vectors: Float32[N, D]; unobserved: α₀, the weight of a single pair."""
        self.config = config
        self._item_vectors = item_vectors
        self._unobserved = unobserved
        items = torch.from_numpy(item_vectors)
        self._solver = LeastSquares(items, float(unobserved) * (items.T @ items))

    @property
    def item_vectors(self) -> NDArray[np.float32]:
        return self._item_vectors

    def query_vectors(self, histories: Histories) -> NDArray[np.float32]:
        n_items, dim = self._item_vectors.shape
        seen = _distinct(histories, n_items)
        rows = WeightedRows(seen, _confidence(seen, self.config.recency), dim, torch.device("cpu"))
        ridge = _ridge(self.config, rows.lengths, float(self._unobserved) * n_items)
        return self._solver.solve(rows, ridge)[0].numpy()

    def tensors(self) -> Tensors:
        return {
            "item_vectors": self._item_vectors,
            "unobserved": np.array([self._unobserved], np.float32),
        }

    @classmethod
    def restore(cls, config: ModelConfig, tensors: Tensors) -> Self:
        if not isinstance(config, IalsConfig):
            raise ValueError(f"ials needs an IalsConfig, not {type(config).__name__}")
        for name, shape in (("item_vectors", (None, config.dim)), ("unobserved", (1,))):
            if name not in tensors:
                raise ValueError(f"the tensor {name} is missing")
            found = tensors[name].shape
            if len(found) != len(shape) or found[-1] != shape[-1]:
                raise ValueError(f"the tensor {name} has shape {found}, not {shape}")
        return cls(config, tensors["item_vectors"], tensors["unobserved"][0])


class IalsFit(Fit):
    """One epoch is one sweep: all users from the items, then all items from the users."""

    def __init__(
        self,
        config: IalsConfig,
        histories: Histories,
        n_items: int,
        workers: Workers,
        device: torch.device,
    ) -> None:
        self._config = config
        self._workers = workers
        self.max_epochs = config.max_epochs
        seen = _distinct(histories, n_items)
        confidence = _confidence(seen, config.recency / 2)
        by_item, order = seen.transposed(n_items)
        pairs = max(len(seen) * n_items, 1)
        self._unobserved = np.float32(config.unobserved_weight * confidence.sum() / pairs)
        self._own_users = _share(seen, workers)
        self._own_items = _share(by_item, workers)
        self._users = _sparse(seen, confidence, self._own_users, n_items, device)
        self._items = _sparse(by_item, confidence[order], self._own_items, len(seen), device)
        unobserved = float(self._unobserved)
        self._user_ridge = _ridge(config, self._users.lengths, unobserved * n_items)
        self._item_ridge = _ridge(config, self._items.lengths, unobserved * len(seen))
        generator = torch.Generator().manual_seed(config.seed)
        start = torch.randn(n_items, config.dim, generator=generator) * 0.1 / config.dim**0.5
        start[np.bincount(seen.items, minlength=n_items) == 0] = 0
        self._vectors = start.to(device)
        self._user_vectors = torch.zeros(len(seen), config.dim, device=device)

    def warm_start(self, tensors: Tensors, rows: NDArray[np.int64]) -> None:
        before = tensors.get("item_vectors")
        if before is None or before.ndim != 2 or before.shape[1] != self._config.dim:
            raise ValueError(
                f"the model to start from has no item_vectors of dim {self._config.dim}"
            )
        known = torch.from_numpy(np.flatnonzero(rows != UNKNOWN))
        self._vectors[known] = torch.from_numpy(before[rows[rows != UNKNOWN]]).to(self._vectors)

    def run_epoch(self, epoch: int) -> dict[str, float]:
        """The loss is L(W, H) after the sweep, over the number of pairs in S."""
        before = self._user_vectors[self._own_users]
        users, _ = self._improve(self._users, self._user_ridge, self._vectors, before)
        user_penalty = (self._user_ridge @ users.square().sum(dim=1)).double()
        self._user_vectors = self._workers.concatenate(users)
        before = self._vectors[self._own_items]
        # What the items minimise holds every term of L but the users' penalty.
        items, rest = self._improve(self._items, self._item_ridge, self._user_vectors, before)
        self._vectors = self._workers.concatenate(items)
        pairs = float(self._items.lengths.sum())
        own = torch.tensor([float(user_penalty) + rest, pairs], dtype=torch.float64)
        loss, pairs = self._workers.sum(own.to(items.device)).tolist()
        return {"loss": loss / max(pairs, 1)}

    def model(self) -> Ials:
        return Ials(self._config, self._vectors.cpu().numpy(), self._unobserved)

    def state(self) -> dict[str, torch.Tensor]:
        return {"item_vectors": self._vectors.clone(), "user_vectors": self._user_vectors.clone()}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        for name, own in (("item_vectors", self._vectors), ("user_vectors", self._user_vectors)):
            if name not in state or state[name].shape != own.shape:
                raise ValueError(f"the state needs {name} of shape {list(own.shape)}")
        self._vectors = state["item_vectors"].to(self._vectors)
        self._user_vectors = state["user_vectors"].to(self._user_vectors)

    def _improve(
        self, rows: SparseRows, ridge: torch.Tensor, others: torch.Tensor, before: torch.Tensor
    ) -> tuple[torch.Tensor, float]:
        """This worker's rows given all vectors of the other side, whose Gramian the workers
        share."""
        own = others.tensor_split(self._workers.size)[self._workers.rank]
        gramian = float(self._unobserved) * self._workers.sum(own.T @ own)
        return improve(rows, ridge, others, gramian, before, STEPS)


def _ridge(config: IalsConfig, lengths: torch.Tensor, unobserved: float) -> torch.Tensor:
    """λ(length + unobserved)^ν of each row, Float32[B]."""
    return config.regularization * (lengths.float() + unobserved) ** (
        config.regularization_exponent
    )


def _distinct(histories: Histories, n_items: int) -> Histories:
    """Each history with each item once, where it stands last."""
    kept = histories.last_mentions(n_items)
    lengths = np.bincount(histories.rows()[kept], minlength=len(histories))
    return Histories.from_lengths(lengths, histories.items[kept])


def _confidence(histories: Histories, recency: float) -> NDArray[np.float32]:
    """Float32[nnz]: (1 + a)^-recency of the a-th newest item of each history."""
    newest = np.repeat(histories.offsets[1:], histories.lengths)
    ages = newest - np.arange(len(histories.items))  # 1 for the newest
    return (ages.astype(np.float32)) ** np.float32(-recency)


def _share(rows: Histories, workers: Workers) -> slice:
    """This worker's run of the rows, such that all workers have about the same work."""
    work = np.cumsum(rows.lengths + 1)
    cuts = np.searchsorted(work, work[-1:] * np.arange(1, workers.size) / workers.size)
    cuts = np.concatenate([[0], cuts, [len(rows)]])
    return slice(int(cuts[workers.rank]), int(cuts[workers.rank + 1]))


def _sparse(
    rows: Histories,
    confidence: NDArray[np.float32],
    share: slice,
    n_columns: int,
    device: torch.device,
) -> SparseRows:
    """A run of the rows, with the confidences of all rows' items."""
    of_share = confidence[rows.offsets[share.start] : rows.offsets[share.stop]]
    return SparseRows(rows.slice(share.start, share.stop), of_share, n_columns, device)
