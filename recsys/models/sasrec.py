"""SASRec: self-attention over the history asks for the next item.

Kang & McAuley, "Self-Attentive Sequential Recommendation" (ICDM 2018, arXiv 1808.09781), with
the output tied to the item embeddings and trained by the full softmax over every position, which
Klenitskiy & Vasilev (arXiv 2309.07602) found to be what makes it strong:

    score(history, i) = norm(blocks(e_{h_1} .. e_{h_L}))_L · e_i
    loss = -Σ_t log softmax_i(score(h_1 .. h_t, i))_{h_{t+1}}

Good at: order and recency; new users at once. Bad at: items with few events, and histories of no
order. Time an epoch: O(positions · (N·D + L·D + D²)); the N·D of the softmax is most of it until
it is sampled. Memory: three times the N·D of the embeddings (Adam), and the batch's activations.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import ClassVar, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator

from infra.errors import RecsysError
from recsys.data.histories import Histories
from recsys.models.attention import SelfAttention
from recsys.models.losses import cross_entropy, sampled_softmax
from recsys.models.model import Fit, Model, ModelConfig, Tensors, Workers

QUERY_BATCH = 256
"""Histories that go through the network together when a model answers."""

BUCKET = 16
"""Batches whose users are sorted by length together, so that a batch is little padded."""


class SasrecConfig(ModelConfig):
    """Hyper-parameters of SASRec."""

    kind: ClassVar[str] = "sasrec"

    dim: int = Field(64, ge=1)
    """Length of an item vector; a multiple of `heads`."""

    blocks: int = Field(2, ge=1)
    """Self-attention blocks, one upon the other."""

    heads: int = Field(2, ge=1)
    """Attention heads of a block."""

    max_length: int = Field(200, ge=1)
    """The newest so many items of a history are looked at."""

    dropout: float = Field(0.2, ge=0, lt=1)
    """Share of activations that are dropped in training."""

    learning_rate: float = Field(1e-3, gt=0)
    """Adam's step after the warm-up."""

    warmup_steps: int = Field(100, ge=0)
    """Steps over which the learning rate rises to its full height."""

    batch_size: int = Field(64, ge=1)
    """Users in a step, over all workers."""

    min_steps: int = Field(20, ge=1)
    """An epoch passes over the users as often as makes so many steps, so that few users are not
    validated on, and stopped by, the noise of a handful of steps."""

    max_epochs: int = Field(100, ge=1)
    """At most so many epochs, if validation does not stop the fit before."""

    full_softmax_below: int = Field(50_000, ge=0)
    """Catalogues of fewer items are trained with the full softmax, others with a sampled one."""

    negatives: int = Field(4096, ge=1)
    """Items drawn a step for the sampled softmax."""

    @model_validator(mode="after")
    def _whole_heads(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(f"dim ({self.dim}) must be a multiple of heads ({self.heads})")
        return self


class Sasrec(Model):
    """A fitted SASRec. An empty history gives the zero vector."""

    config: SasrecConfig

    def __init__(self, config: SasrecConfig, network: SelfAttention) -> None:
        self.config = config
        self._network = network.eval()
        self._device = network.items.weight.device
        self._item_vectors = network.items.weight.detach().float().cpu().numpy()

    @property
    def item_vectors(self) -> NDArray[np.float32]:
        return self._item_vectors

    @torch.inference_mode()
    def query_vectors(self, histories: Histories) -> NDArray[np.float32]:
        recent = histories.last(self.config.max_length)
        vectors = np.zeros((len(recent), self.config.dim), np.float32)
        by_length = np.argsort(recent.lengths, kind="stable")
        by_length = by_length[recent.lengths[by_length] > 0]
        for start in range(0, len(by_length), QUERY_BATCH):
            rows = by_length[start : start + QUERY_BATCH]
            sequences, lengths = _left_aligned(recent.take(rows), self._device)
            hidden = self._network(sequences, lengths)
            last = hidden[torch.arange(len(rows), device=self._device), lengths - 1]
            vectors[rows] = last.float().cpu().numpy()
        return vectors

    def tensors(self) -> Tensors:
        return {
            name: tensor.detach().float().cpu().numpy()
            for name, tensor in self._network.state_dict().items()
        }

    @classmethod
    def restore(cls, config: ModelConfig, tensors: Tensors) -> Self:
        if not isinstance(config, SasrecConfig):
            raise ValueError(f"sasrec needs a SasrecConfig, not {type(config).__name__}")
        if "items.weight" not in tensors:
            raise ValueError("the tensor items.weight is missing")
        network = _network(config, len(tensors["items.weight"]))
        _load(network, {name: torch.from_numpy(np.array(t)) for name, t in tensors.items()})
        return cls(config, network)


class SasrecFit(Fit):
    """Fits SASRec. Every worker takes its share of each batch's users, and the gradients are
    added up before the step: W workers do what one would with the same `batch_size`, but for the
    dropout, which each draws by itself."""

    def __init__(
        self,
        config: SasrecConfig,
        histories: Histories,
        n_items: int,
        workers: Workers,
        device: torch.device,
    ) -> None:
        self.config = config
        self.max_epochs = config.max_epochs
        self._workers, self._device = workers, device
        recent = histories.last(config.max_length + 1)
        self._sequences = recent.take(np.flatnonzero(recent.lengths > 1))
        self._counts = np.bincount(histories.items, minlength=n_items)
        if len(self._sequences) == 0:
            raise RecsysError(
                "sasrec learns an order and needs users with at least two events to train on; "
                "there is none. Train popularity, or give it longer histories"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self._network = _network(config, n_items).to(device)
        self._optimizer = torch.optim.Adam(
            self._network.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), foreach=True
        )
        self._step = 0
        q = torch.from_numpy((self._counts + 1) / (self._counts + 1).sum()).float().to(device)
        self._q, self._log_q = q, q.log()
        self._half = device.type == "cuda" and torch.cuda.is_bf16_supported()

    def run_epoch(self, epoch: int) -> dict[str, float]:
        self._network.train()
        total, positions = torch.zeros(1, device=self._device), 0
        with torch.random.fork_rng(devices=[self._device] if self._device.type == "cuda" else []):
            torch.manual_seed(hash((self.config.seed, epoch, self._workers.rank)) % 2**63)
            for batch in self._batches(epoch):
                n = int((self._sequences.lengths[batch] - 1).sum())
                own = batch[self._workers.rank :: self._workers.size]
                total += self._train_step(own, n) * n
                positions += n
        loss = self._workers.sum(total).item() / positions
        return {"loss": loss}

    def _batches(self, epoch: int) -> Iterator[NDArray[np.int64]]:
        """The users of each step, the same on every worker: shuffled, then of similar length."""
        rng = np.random.default_rng((self.config.seed, epoch))
        size = self.config.batch_size
        passes = -(-self.config.min_steps * size // len(self._sequences))
        for _ in range(max(1, passes)):
            users = rng.permutation(len(self._sequences))
            batches: list[NDArray[np.int64]] = []
            for start in range(0, len(users), size * BUCKET):
                bucket = users[start : start + size * BUCKET]
                lengths = self._sequences.lengths[bucket]
                bucket = bucket[np.argsort(lengths, kind="stable")]
                batches += [bucket[i : i + size] for i in range(0, len(bucket), size)]
            for i in rng.permutation(len(batches)):
                yield batches[i]

    def _train_step(self, users: NDArray[np.int64], n: int) -> torch.Tensor:
        """One step of all workers; returns this worker's part of the mean loss over n positions."""
        self._step += 1
        warmth = min(1.0, self._step / max(1, self.config.warmup_steps))
        for group in self._optimizer.param_groups:
            group["lr"] = self.config.learning_rate * warmth
        self._optimizer.zero_grad(set_to_none=False)
        loss = torch.zeros((), device=self._device)
        if len(users):
            loss = self._loss(self._sequences.take(users), n)
            loss.backward()  # type: ignore[no-untyped-call]
        self._add_up_gradients()
        self._optimizer.step()
        return loss.detach()

    def _loss(self, sequences: Histories, n: int) -> torch.Tensor:
        inputs, targets = sequences.without_last(1), _without_first(sequences)
        table, lengths = _left_aligned(inputs, self._device)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._half):
            hidden = self._network(table, lengths)
        real = torch.arange(table.shape[1], device=self._device) < lengths[:, None]
        queries = hidden[real].float()
        wanted = torch.from_numpy(targets).to(self._device)
        items = self._network.items.weight
        if len(items) < self.config.full_softmax_below:
            return cross_entropy(queries, items, wanted, n)
        drawn = torch.multinomial(self._q, self.config.negatives, replacement=True)
        return sampled_softmax(queries, items, wanted, n, negatives=drawn, log_q=self._log_q)

    def _add_up_gradients(self) -> None:
        parameters = list(self._network.parameters())
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if self._workers.size == 1:
            return
        gradients = [cast(torch.Tensor, parameter.grad) for parameter in parameters]
        flat = self._workers.sum(torch.cat([gradient.flatten() for gradient in gradients]))
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def model(self) -> Sasrec:
        return Sasrec(self.config, copy.deepcopy(self._network))

    def state(self) -> dict[str, torch.Tensor]:
        state = {f"network.{name}": t for name, t in self._network.state_dict().items()}
        for i, parameter in enumerate(self._network.parameters()):
            for name, value in self._optimizer.state[parameter].items():
                state[f"adam.{i}.{name}"] = value
        state["step"] = torch.tensor(self._step)
        return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        if "step" not in state:
            raise ValueError("the tensor step is missing")
        moments = [self._moments(i, state) for i in range(len(list(self._network.parameters())))]
        prefix = "network."
        network = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        _load(self._network, network)
        for parameter, of_parameter in zip(self._network.parameters(), moments, strict=True):
            self._optimizer.state[parameter] = of_parameter
        self._step = int(state["step"])

    def _moments(self, i: int, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What Adam remembers of the i-th parameter: nothing before the first step."""
        if int(state["step"]) == 0:
            return {}
        shape = list(self._network.parameters())[i].shape
        found: dict[str, torch.Tensor] = {}
        for name in ("step", "exp_avg", "exp_avg_sq"):
            key = f"adam.{i}.{name}"
            if key not in state:
                raise ValueError(f"the tensor {key} is missing")
            if name == "step":  # Adam keeps it beside the processor
                found[name] = state[key].clone()
                continue
            if state[key].shape != shape:
                raise ValueError(f"the tensor {key} is not of the shape {tuple(shape)}")
            found[name] = state[key].to(self._device, copy=True)
        return found


def _network(config: SasrecConfig, n_items: int) -> SelfAttention:
    return SelfAttention(
        n_items,
        dim=config.dim,
        blocks=config.blocks,
        heads=config.heads,
        max_length=config.max_length,
        dropout=config.dropout,
    )


def _load(network: SelfAttention, tensors: Mapping[str, torch.Tensor]) -> None:
    try:
        network.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise ValueError(f"the tensors are not those of this network: {error}") from None


def _left_aligned(histories: Histories, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Int64[B, L] with the items from the left and row 0 after their end, and Int64[B] lengths."""
    lengths = histories.lengths
    table = np.zeros((len(histories), int(lengths.max())), np.int64)
    table[np.arange(table.shape[1]) < lengths[:, None]] = histories.items
    return torch.from_numpy(table).to(device), torch.from_numpy(lengths).to(device)


def _without_first(histories: Histories) -> NDArray[np.int64]:
    """The items of all histories end to end, but the first of each."""
    keep = np.ones(len(histories.items), bool)
    keep[histories.offsets[:-1]] = False
    return histories.items[keep]
