"""SimCLR: the loss is the paper's, views are parts of pictures, what is alike comes together."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, multiprocessing, nn
from torch.nn.functional import cosine_similarity
from torch.nn.parallel import DistributedDataParallel

from encoders.contrastive import ContrastiveConfig, Training, contrastive_loss, gathered, views
from encoders.picture import decode
from encoders.resnet import Features, new_resnet
from infra.errors import RecsysError
from recsys.data.genres import GENRES

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pictures() -> NDArray[np.uint8]:
    """UInt8[240, 3, 48, 48]: 20 posters of each of twelve genres, which take turns."""
    rng = np.random.default_rng(0)
    posters = [decode(GENRES[i % len(GENRES)].poster(rng)).resize((48, 48)) for i in range(240)]
    return np.stack([np.asarray(poster) for poster in posters]).transpose(0, 3, 1, 2)


def training(
    pictures: NDArray[np.uint8], config: ContrastiveConfig | None = None, seed: int = 0
) -> Training:
    torch.manual_seed(seed)
    config = config or ContrastiveConfig(pixels=32, batch=40, epochs=4)
    return Training(config, new_resnet(18, 0.125), pictures, device=CPU)


def neighbours_of_the_same_genre(training: Training, pictures: NDArray[np.uint8]) -> float:
    """Of each picture's ten nearest, the share of its genre."""
    pixels = pictures[:, :, 8:40, 8:40].astype(np.float32) / 127.5 - 1
    found = Features(deepcopy(training.learner.net), "cpu")(pixels)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    alike = found @ found.T
    np.fill_diagonal(alike, -1)
    nearest = np.argsort(-alike, axis=1)[:, :10]
    genres = np.arange(len(pictures)) % len(GENRES)
    return float((genres[nearest] == genres[:, None]).mean())


def test_the_loss_is_the_papers_equation() -> None:
    rng = torch.Generator().manual_seed(0)
    first, second = torch.randn(4, 3, generator=rng), torch.randn(4, 3, generator=rng)
    z = torch.cat([first, second])
    total = 0.0
    for i in range(8):
        alike = torch.stack([cosine_similarity(z[i], z[k], dim=0) / 0.5 for k in range(8)])
        rest = [k for k in range(8) if k != i]
        total -= (alike[(i + 4) % 8] - alike[rest].logsumexp(0)).item()
    assert contrastive_loss(first, second, 0.5).item() == pytest.approx(total / 8, rel=1e-5)


def test_the_loss_is_smallest_where_only_views_of_one_picture_are_alike() -> None:
    apart = torch.eye(6)
    matched = contrastive_loss(apart, apart, 0.2)
    assert matched < contrastive_loss(apart, apart.roll(1, 0), 0.2)
    assert matched < contrastive_loss(torch.ones(6, 6), torch.ones(6, 6), 0.2)


class Projected(nn.Module):
    """A projector without batch normalisation, whose gradient is known on any number of workers."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3, bias=False)
        nn.init.eye_(self.linear.weight)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return contrastive_loss(gathered(self.linear(first)), gathered(self.linear(second)), 0.5)


def projected_views() -> Tensor:
    """Float32[2, 8, 3]."""
    return torch.randn(2, 8, 3, generator=torch.Generator().manual_seed(0))


def gradient_of_half(rank: int) -> Tensor:
    model = DistributedDataParallel(Projected())
    model(*projected_views()[:, rank * 4 : rank * 4 + 4]).backward()
    gradient: Tensor = model.module.linear.weight.grad
    return gradient


def one_of_two(rank: int, folder: str) -> None:
    """A worker that has half of the pictures, and leaves its gradient in the folder."""
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    # In a function of its own: a model that outlives its process group may never end.
    torch.save(gradient_of_half(rank), f"{folder}/{rank}")
    distributed.destroy_process_group()


def test_two_workers_have_the_gradient_of_all_their_pictures_together(tmp_path: Path) -> None:
    multiprocessing.spawn(one_of_two, (str(tmp_path),), nprocs=2)
    alone = Projected()
    alone(*projected_views()).backward()
    for rank in range(2):
        gradient = torch.load(tmp_path / str(rank))
        torch.testing.assert_close(gradient, alone.linear.weight.grad)


def test_views_show_parts_of_the_picture_that_is_theirs() -> None:
    """Each picture holds two shades of its own; a view holds no others, but for being shaded."""
    config = ContrastiveConfig(pixels=32, shades=0)
    pictures = torch.arange(0, 200, 20, dtype=torch.uint8).view(10, 1, 1, 1).repeat(1, 3, 40, 60)
    pictures[:, :, :, 30:] += 10
    seen = views(pictures, config, torch.Generator().manual_seed(0))
    assert seen.shape == (10, 3, 32, 32)
    shades = (seen.flatten(1) + 1) / 2 * 255
    base = torch.arange(0, 200, 20).float()
    assert torch.allclose(shades.amin(1), base, atol=10.1)
    assert (shades.amin(1) >= base - 0.1).all()
    assert (shades.amax(1) <= base + 10.1).all()


def test_a_view_of_the_whole_picture_is_the_picture_or_its_mirror_image() -> None:
    config = ContrastiveConfig(pixels=32, shades=0, smallest_part=1)
    ramp = torch.arange(0, 256, 8, dtype=torch.uint8).expand(40, 3, 32, 32)
    seen = views(ramp, config, torch.Generator().manual_seed(0))
    falling = seen[:, 0, 16, 0] > seen[:, 0, 16, -1]
    assert 5 < falling.sum() < 35
    # As wide or as high as the picture, and up to a quarter less in the other direction.
    assert (seen[:, 0, 16].diff().abs().mean(1) * 127.5 > 5.9).all()


def test_the_same_generator_draws_the_same_views_and_another_others(
    pictures: NDArray[np.uint8],
) -> None:
    config = ContrastiveConfig(pixels=32)
    drawn = [
        views(torch.from_numpy(pictures[:8]), config, torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert drawn[0].abs().max() <= 1


def test_pictures_of_a_genre_come_together_without_a_label(pictures: NDArray[np.uint8]) -> None:
    config = ContrastiveConfig(pixels=32, batch=60, epochs=15, learning_rate=1e-2)
    fitting = training(pictures, config)
    before = neighbours_of_the_same_genre(fitting, pictures)
    losses = [fitting.epoch(number) for number in range(config.epochs)]
    after = neighbours_of_the_same_genre(fitting, pictures)
    assert losses[-1] < 0.8 * losses[0]
    assert before < 0.5
    assert after > 0.9


def test_a_resumed_training_ends_as_one_that_was_not_disturbed(
    pictures: NDArray[np.uint8],
) -> None:
    whole = training(pictures)
    losses = [whole.epoch(number) for number in range(4)]
    begun = training(pictures)
    for number in range(2):
        begun.epoch(number)
    resumed = training(pictures, seed=9)
    resumed.load_state(begun.state())
    assert [resumed.epoch(number) for number in (2, 3)] == pytest.approx(losses[2:], rel=1e-4)
    for name, tensor in whole.state().items():
        torch.testing.assert_close(resumed.state()[name], tensor, rtol=1e-2, atol=1e-3)


def test_a_batch_larger_than_the_catalogue_is_the_catalogue(pictures: NDArray[np.uint8]) -> None:
    config = ContrastiveConfig(pixels=32, batch=1000, epochs=1)
    assert training(pictures[:7], config).epoch(0) > 0


def test_too_few_pictures_are_refused(pictures: NDArray[np.uint8]) -> None:
    with pytest.raises(RecsysError, match="1 pictures are too few to learn from"):
        training(pictures[:1])


def test_a_loss_that_is_no_number_ends_the_training(pictures: NDArray[np.uint8]) -> None:
    fitting = training(pictures)
    with torch.no_grad():
        next(fitting.learner.parameters()).fill_(torch.nan)
    with pytest.raises(RecsysError, match="lower the learning rate"):
        fitting.epoch(0)
