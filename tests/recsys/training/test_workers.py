"""The workers' collectives over a real process group, and the numerics that stand on them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as processes

from infra.errors import RecsysError
from recsys.data.histories import Histories
from recsys.models.model import Alone, Workers
from recsys.models.next_item_fit import NextItemFit
from recsys.models.sasrec import SasrecConfig
from recsys.training.train_loop import AnotherRefused, unanimous
from recsys.training.workers import current_workers

SIZE = 2
LOSSES = ("cross_entropy", "sampled_softmax", "gbce")
CONFIG = SasrecConfig(
    dim=8,
    blocks=1,
    heads=1,
    max_length=10,
    batch_events=12,
    dropout=0.0,
    warmup_steps=0,
    min_steps=1,
)


def histories() -> Histories:
    """31 users of 2 to 9 items: batches that do not halve, of lengths that differ."""
    rng = np.random.default_rng(0)
    return Histories.of([rng.integers(20, size=n) for n in rng.integers(2, 10, size=31)])


def one_worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=SIZE
    )
    workers = current_workers()
    curves = {loss: epochs(workers, loss) for loss in LOSSES}
    how = "agreed"
    try:
        with unanimous(workers):
            if rank == 1:
                raise RecsysError("no such data here")
    except (RecsysError, AnotherRefused) as error:
        how = type(error).__name__
    torch.save(
        {
            "sum": workers.sum(torch.tensor([rank + 1.0, 10.0])),
            "concatenated": workers.concatenate(torch.full((rank + 1, 2), float(rank))),
            **{f"losses.{loss}": torch.tensor(losses) for loss, (losses, _) in curves.items()},
            **{f"items.{loss}": torch.from_numpy(items) for loss, (_, items) in curves.items()},
            "how": how,
        },
        Path(folder) / f"{rank}.pt",
    )
    dist.destroy_process_group()


def epochs(
    workers: Workers, loss: str
) -> tuple[list[float], np.ndarray[tuple[int, int], np.dtype[np.float32]]]:
    config = CONFIG.model_copy(update={"loss": loss, "negatives": 8})
    fit = NextItemFit(config, histories(), 20, workers, torch.device("cpu"))
    losses = [fit.run_epoch(epoch)["loss"] for epoch in range(3)]
    return losses, fit.model().item_vectors


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[dict[str, torch.Tensor]]]:
    """What each of two processes came to."""
    folder = tmp_path_factory.mktemp("group")
    processes.spawn(one_worker, (str(folder),), nprocs=SIZE)
    yield [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(SIZE)]


def test_a_sum_is_the_same_everywhere(found: list[dict[str, torch.Tensor]]) -> None:
    for each in found:
        assert each["sum"].tolist() == [3, 20]


def test_tensors_of_other_lengths_come_end_to_end_by_rank(
    found: list[dict[str, torch.Tensor]],
) -> None:
    for each in found:
        assert each["concatenated"].tolist() == [[0, 0], [1, 1], [1, 1]]


def test_what_one_worker_refuses_all_do_at_once(found: list[dict[str, torch.Tensor]]) -> None:
    assert [each["how"] for each in found] == ["AnotherRefused", "RecsysError"]


@pytest.mark.parametrize("loss", LOSSES)
def test_two_workers_train_the_model_that_one_does(
    found: list[dict[str, torch.Tensor]], loss: str
) -> None:
    losses, items = epochs(Alone(), loss)
    for each in found:
        np.testing.assert_allclose(each[f"losses.{loss}"], losses, rtol=1e-5)
        np.testing.assert_allclose(each[f"items.{loss}"], items, atol=1e-3)
    ours, theirs = (each[f"items.{loss}"] for each in found)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
