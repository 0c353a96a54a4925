"""SimCLR (Chen et al. 2020, arXiv 2002.05709): learn features from pictures without any label.

Two random views of a picture, parts of it in slightly other shades, shall be closer to each other
than to the views of all others of the batch: with z the features through a small projector, of
unit length, and τ a temperature, the loss is the mean over all 2B views of

    -log( exp(zᵢ·zⱼ / τ) / Σ_{k≠i} exp(zᵢ·zₖ / τ) ),   j the other view of i's picture

The projector is thrown away; the features before it are what is kept. What the views differ in,
the features forget: parts of any size, mirrored, but hardly other colours, since what a picture's
colours are tells what it is of more than anything else that a few hundred pictures can teach.

Time per step is linear in the batch but for the B² products, which are small beside the net.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import ResNetModel

from encoders.batches import inference_dtype
from encoders.resnet import features
from infra.errors import RecsysError

_LUMA = (0.299, 0.587, 0.114)
"""How bright red, green and blue are."""

_ASPECT = 4 / 3
"""How much wider or narrower than the picture a part may be."""


class ContrastiveConfig(BaseModel):
    """How a net is trained; every default is for a few hundred to some ten thousand pictures."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    pixels: Annotated[int, Field(ge=32, le=512)] = 64
    """Side of the pictures, square, that the net sees, in training and after it."""

    epochs: Annotated[int, Field(ge=1)] = 60
    """Passes over the pictures."""

    batch: Annotated[int, Field(ge=2)] = 32
    """Pictures of a step, those of all workers together; all there are, if there are fewer. From
    400 posters more was learnt in steps of 32 than in a quarter as many of 128."""

    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """AdamW's at its highest, after the first 5 % of the steps; it falls to 0 as a cosine does."""

    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    """AdamW's, of matrices and kernels alone."""

    smallest_part: Annotated[float, Field(gt=0, le=1)] = 0.1
    """The least of a picture's area that a view shows."""

    shades: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """By how much of itself brightness, contrast and saturation change at most."""

    temperature: Annotated[float, Field(gt=0)] = 0.2
    """τ: the smaller, the more the nearest wrong pictures count."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """The same seed trains the same net on as many workers, up to rounding."""


class Learner(nn.Module):
    """The net and its projector, and what they are to learn."""

    def __init__(self, net: ResNetModel, temperature: float) -> None:
        super().__init__()
        self.net = net
        dim = list(net.config.hidden_sizes or ())[-1]
        self.projector = nn.Sequential(
            nn.Linear(dim, dim, bias=False), nn.BatchNorm1d(dim), nn.ReLU(), nn.Linear(dim, 128)
        )
        self._temperature = temperature

    def forward(self, views: Tensor) -> Tensor:
        """The loss of Float[2B, 3, H, W]: B first views, then the other one of each."""
        projected = self.projector(features(self.net, views))
        with torch.autocast(views.device.type, enabled=False):
            first, second = (gathered(each) for each in projected.float().chunk(2))
            return contrastive_loss(first, second, self._temperature)


def contrastive_loss(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """The equation above, of the projections Float[B, P] of both views, of any length."""
    z = F.normalize(torch.cat([first, second]), dim=1)
    similarities = z @ z.T / temperature
    similarities.fill_diagonal_(-torch.inf)
    n = len(first)
    other = torch.arange(2 * n, device=z.device).roll(n)
    return F.cross_entropy(similarities, other)


def gathered(rows: Tensor) -> Tensor:
    """The rows of all workers, in the order of their ranks; differentiable. Each worker then has
    the loss of all, and the mean that DDP takes of the gradients is that loss's."""
    if not (distributed.is_initialized() and distributed.get_world_size() > 1):
        return rows
    whole: Tensor = _Gathered.apply(rows)  # type: ignore[no-untyped-call]
    return whole


class _Gathered(torch.autograd.Function):
    """All workers' rows; a row's gradient is the sum of what it is to all of them."""

    @staticmethod
    def forward(context: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        distributed.all_reduce(total)
        return total.chunk(distributed.get_world_size())[distributed.get_rank()]


def views(pictures: Tensor, config: ContrastiveConfig, generator: torch.Generator) -> Tensor:
    """One random view of each picture: Float[B, 3, S, S] within ±1, where S is `config.pixels`.

    pictures: UInt8[B, 3, H, W]. generator: a CPU's, whatever the pictures lie on.
    """

    def uniform(low: float, high: float, count: int = len(pictures)) -> Tensor:
        drawn = torch.rand(count, generator=generator) * (high - low) + low
        return drawn.to(pictures.device)

    area, aspect = uniform(config.smallest_part, 1), uniform(-1, 1).mul(math.log(_ASPECT)).exp()
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    place = torch.zeros(len(pictures), 2, 3, device=pictures.device)
    place[:, 0, 0] = width * uniform(-1, 1).sign()  # half of them mirrored
    place[:, 1, 1] = height
    place[:, 0, 2] = uniform(-1, 1) * (1 - width)
    place[:, 1, 2] = uniform(-1, 1) * (1 - height)
    grid = F.affine_grid(
        place, [len(pictures), 3, config.pixels, config.pixels], align_corners=False
    )
    seen = F.grid_sample(
        pictures.float() / 255, grid, padding_mode="reflection", align_corners=False
    )

    def factor() -> Tensor:
        return uniform(1 - config.shades, 1 + config.shades).view(-1, 1, 1, 1)

    seen = seen * factor()
    seen = _between(_grey(seen).mean((2, 3), keepdim=True), seen, factor())
    seen = _between(_grey(seen), seen, factor())
    return seen.clamp(0, 1) * 2 - 1


def _grey(pictures: Tensor) -> Tensor:
    """Float[B, 1, H, W]."""
    weights = torch.tensor(_LUMA, device=pictures.device).view(1, 3, 1, 1)
    return (pictures * weights).sum(1, keepdim=True)


def _between(base: Tensor, pictures: Tensor, how_much: Tensor) -> Tensor:
    return base + (pictures - base) * how_much


class Training:
    """A training in progress on one of W workers, an epoch at a time.

    Each worker has an equal part of every batch, and batch normalisation sees that part alone.
    """

    def __init__(
        self,
        config: ContrastiveConfig,
        net: ResNetModel,
        pictures: NDArray[np.uint8],
        *,
        device: torch.device,
        rank: int = 0,
        workers: int = 1,
    ) -> None:
        """net: what to begin from; pictures: UInt8[N, 3, H, W], which may be mapped from a file.

        Raises RecsysError if there are too few pictures to compare.
        """
        self.check_enough(len(pictures), workers)
        self._config, self._pictures, self._device = config, pictures, device
        self._rank, self._workers = rank, workers
        self._half = inference_dtype(device) != torch.float32  # twice as fast where it is at all
        self._share = max(2, min(config.batch, len(pictures)) // workers)
        self._steps = len(pictures) // (self._share * workers)
        net.train().to(memory_format=torch.channels_last)
        self.learner = Learner(net, config.temperature).to(device)
        self._model = self.learner if workers == 1 else DistributedDataParallel(self.learner)
        parameters = list(self.learner.parameters())
        decaying = [each for each in parameters if each.ndim > 1]
        others = [each for each in parameters if each.ndim <= 1]
        self._optimizer = torch.optim.AdamW(
            [
                {"params": decaying, "weight_decay": config.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=config.learning_rate,
        )

    @staticmethod
    def check_enough(pictures: int, workers: int) -> None:
        """Raises RecsysError if so many pictures are too few for so many workers."""
        if pictures < 2 * workers:
            raise RecsysError(
                f"{pictures} pictures are too few to learn from with {workers} workers: it takes "
                "two for each, and some hundreds to learn anything"
            )

    def epoch(self, number: int) -> float:
        """Go once over the pictures, for the `number`-th time from 0; returns the mean loss."""
        config = self._config
        order = np.random.default_rng([config.seed, number]).permutation(len(self._pictures))
        used = order[: self._steps * self._workers * self._share]
        batches = used.reshape(self._steps, self._workers, self._share)[:, self._rank]
        drawn = np.random.SeedSequence([config.seed, number, self._rank]).generate_state(1)
        generator = torch.Generator().manual_seed(int(drawn[0]))
        self._model.train()
        total = torch.zeros((), device=self._device)
        for step, rows in enumerate(batches, start=number * self._steps):
            for group in self._optimizer.param_groups:
                group["lr"] = config.learning_rate * self._rate(step)
            pictures = torch.from_numpy(self._pictures[np.sort(rows)]).to(self._device)
            both = torch.cat([views(pictures, config, generator) for _ in range(2)])
            self._optimizer.zero_grad(set_to_none=True)
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self._half):
                loss = self._model(both)
            loss.backward()
            self._optimizer.step()
            total += loss.detach()
        mean = total.item() / self._steps
        if not math.isfinite(mean):
            raise RecsysError(
                f"the loss of epoch {number + 1} is no number any more: lower the learning rate"
            )
        return mean

    def state(self) -> dict[str, Tensor]:
        """All that it takes to go on."""
        state = {f"learner.{name}": each for name, each in self.learner.state_dict().items()}
        for i, values in self._optimizer.state_dict()["state"].items():
            state |= {f"optimizer.{i}.{name}": each for name, each in values.items()}
        return {name: each.detach().cpu().contiguous() for name, each in state.items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        values: dict[int, dict[str, Tensor]] = {}
        learner = {}
        for name, each in state.items():
            part, _, rest = name.partition(".")
            if part == "learner":
                learner[rest] = each
            else:
                i, _, key = rest.partition(".")
                values.setdefault(int(i), {})[key] = each
        self.learner.load_state_dict(learner)
        self._optimizer.load_state_dict(self._optimizer.state_dict() | {"state": values})

    def _rate(self, step: int) -> float:
        """Of the learning rate, at this step of all: a short rise, then a cosine to 0."""
        steps = self._config.epochs * self._steps
        warm = 0.05 * steps + 1
        return min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / steps))
