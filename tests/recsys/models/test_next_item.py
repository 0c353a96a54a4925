"""What next-item models promise beyond the laws of all models, which are in test_laws.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from infra.errors import RecsysError
from recsys.data.histories import Histories
from recsys.models.gru4rec import Gru4recConfig
from recsys.models.model import Alone
from recsys.models.nets import Dropout, Recurrent, SelfAttention
from recsys.models.next_item import NextItem, NextItemConfig
from recsys.models.next_item_fit import FULL_SOFTMAX_BELOW, NextItemFit
from recsys.models.sasrec import SasrecConfig

CPU = torch.device("cpu")


def ring(n_items: int, n_users: int, length: int) -> Histories:
    """Users who walk around a ring of items: the next item is told by the last one alone."""
    starts = np.random.default_rng(0).integers(n_items, size=n_users)
    steps = (starts[:, None] + np.arange(length)) % n_items
    return Histories.of(list(steps))


NETWORKS: dict[str, NextItemConfig] = {
    "classic": SasrecConfig(
        dim=16, max_length=10, dropout=0.5, block="classic", positions="absolute"
    ),
    "gated": SasrecConfig(dim=16, max_length=10, dropout=0.5, block="gated"),
    "gru": Gru4recConfig(dim=16, max_length=10, dropout=0.5, hidden=24, cell="gru"),
    "lstm": Gru4recConfig(dim=16, max_length=10, dropout=0.5, hidden=24, layers=2, cell="lstm"),
}


@pytest.fixture(params=NETWORKS.values(), ids=list(NETWORKS))
def config(request: pytest.FixtureRequest) -> NextItemConfig:
    found: NextItemConfig = request.param
    return found


@pytest.fixture
def network(config: NextItemConfig) -> SelfAttention | Recurrent:
    """One with nothing at the zero that some of it starts from."""
    torch.manual_seed(0)
    network = config.network(20).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return network


def test_a_position_does_not_see_what_comes_after_it(network: SelfAttention | Recurrent) -> None:
    lengths = torch.tensor([6])
    before = network(torch.tensor([[1, 2, 3, 4, 5, 6]]), lengths)
    after = network(torch.tensor([[1, 2, 3, 4, 19, 18]]), lengths)
    torch.testing.assert_close(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4:], after[:, 4:])


def test_padding_changes_nothing(network: SelfAttention | Recurrent) -> None:
    alone = network(torch.tensor([[1, 2, 3]]), torch.tensor([3]))
    padded = network(torch.tensor([[1, 2, 3, 7, 7]]), torch.tensor([3]))
    torch.testing.assert_close(alone[0, :3], padded[0, :3])


def test_the_last_position_alone_is_what_it_is_among_all(
    network: SelfAttention | Recurrent,
) -> None:
    sequences, lengths = torch.randint(20, (5, 9)), torch.tensor([9, 1, 4, 8, 2])
    every = network(sequences, lengths)
    torch.testing.assert_close(network.last(sequences, lengths), every[range(5), lengths - 1])


def test_the_order_of_the_history_matters(
    config: NextItemConfig, network: SelfAttention | Recurrent
) -> None:
    model = NextItem(config, network)
    forth, back = model.query_vectors(Histories.of([[1, 2, 3, 4], [4, 3, 2, 1]]))
    assert not np.allclose(forth, back)


def test_only_the_newest_max_length_items_are_looked_at(
    config: NextItemConfig, network: SelfAttention | Recurrent
) -> None:
    model = NextItem(config, network)
    long, recent = model.query_vectors(Histories.of([[5, 5, *range(10)], list(range(10))]))
    np.testing.assert_allclose(long, recent, atol=1e-6)


@pytest.mark.parametrize("loss", ["cross_entropy", "sampled_softmax", "gbce"])
@pytest.mark.parametrize("kind", list(NETWORKS))
def test_it_learns_an_order_that_no_co_occurrence_tells(kind: str, loss: str) -> None:
    config = NETWORKS[kind].model_copy(
        update={
            "max_length": 20,
            "batch_events": 512,
            "dropout": 0.0,
            "learning_rate": 5e-3,
            "warmup_steps": 0,
            "negatives": 64,
            "loss": loss,
        }
    )
    fit = NextItemFit(config, ring(40, 200, 20), 40, Alone(), CPU)
    losses = [fit.run_epoch(epoch)["loss"] for epoch in range(20)]
    model = fit.model()
    queries = model.query_vectors(Histories.of([[7, 8, 9], [38, 39]]))
    assert (queries @ model.item_vectors.T).argmax(1).tolist() == [10, 0]
    assert losses[-1] < losses[0] / 2


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(
    not torch.cuda.is_available(), reason="PyTorch sees no GPU"
))]  # fmt: skip


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", list(NETWORKS))
def test_it_learns_in_either_number_format_and_goes_on_from_its_state(
    kind: str, dtype: torch.dtype, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recsys.models.next_item_fit.fast_dtype", lambda _: dtype)
    config = NETWORKS[kind].model_copy(
        update={"max_length": 20, "batch_events": 512, "dropout": 0.0, "learning_rate": 5e-3}
    )
    histories, where = ring(40, 200, 20), torch.device(device)
    fit = NextItemFit(config, histories, 40, Alone(), where)
    for epoch in range(10):
        fit.run_epoch(epoch)
    resumed = NextItemFit(config, histories, 40, Alone(), where)
    resumed.load_state(fit.state())
    for epoch in range(10, 20):
        resumed.run_epoch(epoch)
    model = resumed.model()
    queries = model.query_vectors(Histories.of([[7, 8, 9], [38, 39]]))
    assert (queries @ model.item_vectors.T).argmax(1).tolist() == [10, 0]


@pytest.mark.parametrize("share", [0.0, 0.7])
def test_older_windows_teach_what_is_older_than_max_length(share: float) -> None:
    old = ring(20, 200, 20)
    new = Histories.of([row + 20 for row in old.items.reshape(200, 20)])
    both = np.concatenate((old.items.reshape(200, 20), new.items.reshape(200, 20)), axis=1)
    config = SasrecConfig(
        dim=16, max_length=10, batch_events=512, dropout=0, learning_rate=5e-3, older_windows=share
    )
    fit = NextItemFit(config, Histories.of(list(both)), 40, Alone(), CPU)
    for epoch in range(15):
        fit.run_epoch(epoch)
    model = fit.model()
    queries = model.query_vectors(Histories.of([[7, 8, 9], [27, 28, 29]]))
    after_old, after_new = (queries @ model.item_vectors.T).argmax(1).tolist()
    assert (after_old == 10) == (share > 0)
    assert after_new == 30


def test_large_catalogues_are_trained_with_a_sampled_softmax() -> None:
    config = SasrecConfig(dim=8, negatives=16, min_steps=1)
    fit = NextItemFit(config, ring(FULL_SOFTMAX_BELOW, 5, 5), FULL_SOFTMAX_BELOW, Alone(), CPU)
    full = np.log(FULL_SOFTMAX_BELOW)
    assert fit.run_epoch(0)["loss"] == pytest.approx(full, rel=0.05)  # an estimate of the full one


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    dropped = Dropout(0.25)(torch.ones(1000, 999))
    assert (dropped == 0).double().mean().item() == pytest.approx(0.25, abs=0.003)
    assert dropped.double().mean().item() == pytest.approx(1, abs=0.005)
    assert torch.equal(Dropout(0.25).eval()(torch.ones(3)), torch.ones(3))
    assert Dropout(0.9999)(torch.ones(100_000)).unique().tolist() == [0, 256]


def test_heads_that_do_not_divide_the_dimension_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"dim \(10\) must be a multiple of heads \(3\)"):
        SasrecConfig(dim=10, heads=3)


def test_users_of_one_event_cannot_teach_an_order() -> None:
    with pytest.raises(RecsysError, match="at least two events"):
        NextItemFit(SasrecConfig(), Histories.of([[1], [2]]), 3, Alone(), CPU)


@pytest.mark.parametrize("name", ["step", "network.norm.weight", "adam.0.exp_avg", "adam.3.step"])
def test_a_state_that_lacks_a_tensor_is_refused_by_its_name(name: str) -> None:
    fit, other = (
        NextItemFit(SasrecConfig(dim=8, min_steps=1), ring(10, 20, 5), 10, Alone(), CPU)
        for _ in range(2)
    )
    fit.run_epoch(0)
    state = {key: tensor for key, tensor in fit.state().items() if key != name}
    with pytest.raises(ValueError, match=name.removeprefix("network.")):
        other.load_state(state)


def test_a_state_before_the_first_step_is_taken() -> None:
    fit = NextItemFit(SasrecConfig(dim=8, min_steps=1), ring(10, 20, 5), 10, Alone(), CPU)
    fit.load_state(fit.state())
    assert np.isfinite(fit.run_epoch(0)["loss"])


def test_tensors_of_another_network_are_refused(
    config: NextItemConfig, network: SelfAttention | Recurrent
) -> None:
    tensors = dict(NextItem(config, network).tensors())
    del tensors["norm.weight"]
    with pytest.raises(ValueError, match=r"norm\.weight"):
        NextItem.restore(config, tensors)


@pytest.mark.parametrize("loss", ["cross_entropy", "sampled_softmax", "gbce"])
def test_the_same_seed_fits_the_same_model_on_any_threads(loss: str) -> None:
    config = SasrecConfig(dim=32, loss=loss, negatives=256, min_steps=4)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        fits = [NextItemFit(config, ring(800, 300, 30), 800, Alone(), CPU) for _ in range(2)]
        for fit in fits:
            fit.run_epoch(0)
    finally:
        torch.set_num_threads(threads)
    first, second = (fit.model().tensors() for fit in fits)
    for name, tensor in first.items():
        np.testing.assert_array_equal(tensor, second[name])


def test_every_step_has_as_many_events_however_long_its_histories() -> None:
    rng = np.random.default_rng(0)
    lengths = np.minimum(2 + rng.geometric(0.1, size=3000), 60)
    histories = Histories.of([rng.integers(50, size=n) for n in lengths])
    config = SasrecConfig(dim=8, heads=1, max_length=60, batch_events=500)
    steps = list(NextItemFit(config, histories, 50, Alone(), CPU)._batches(0))
    predictions = np.array([(step.lengths - 1).sum() for step in steps])
    assert predictions.sum() == (lengths - 1).sum(), "an epoch passes over each event once"
    assert predictions.min() > 0.8 * predictions.mean()
    assert predictions.max() < 1.2 * predictions.mean()
    padded = sum(len(step) * (step.lengths.max() - 1) for step in steps)
    assert padded < 1.3 * predictions.sum(), "histories of a step are of about the same length"


@pytest.mark.parametrize("lengths", [(2,), (2, 900, 2, 900, 2, 2), (3, 3, 3)])
def test_an_epoch_of_few_histories_has_as_many_steps_as_it_must(lengths: tuple[int, ...]) -> None:
    histories = Histories.of([np.arange(n) % 50 for n in lengths])
    config = SasrecConfig(dim=8, heads=1, max_length=1000, batch_events=256)
    steps = list(NextItemFit(config, histories, 50, Alone(), CPU)._batches(0))
    assert len(steps) >= config.min_steps
    assert sum(map(len, steps)) % len(lengths) == 0, "each history is passed over as often"
