"""The laws that every kind of model keeps. A new kind joins by standing in KINDS and CONFIGS."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load, save

from recsys.data.histories import Histories
from recsys.data.split import Holdout, leave_one_out
from recsys.data.vocabulary import UNKNOWN
from recsys.evaluation.protocol import validate
from recsys.models.catalog import KINDS, UnknownKind, kind_of
from recsys.models.model import Alone, Fit, Model

N_ITEMS, N_CLUSTERS = 60, 6

CONFIGS: dict[str, dict[str, Any]] = {
    "popularity": {},
    "ials": {"dim": 16, "max_epochs": 6},
    "sasrec": {"dim": 16, "max_length": 20, "learning_rate": 5e-3, "max_epochs": 10},
    "gru4rec": {"dim": 16, "max_length": 20, "learning_rate": 5e-3, "max_epochs": 10},
}
PERSONAL = [name for name in KINDS if name != "popularity"]

every_kind = pytest.mark.parametrize("name", list(KINDS))


def tastes(*, planted: bool, n_users: int = 400, length: int = 9, seed: int = 0) -> Histories:
    """Users who each stay within a tenth of the catalogue, in any order; or who do not."""
    rng = np.random.default_rng(seed)
    size = N_ITEMS // N_CLUSTERS
    inside = np.argsort(rng.random((n_users, size if planted else N_ITEMS)), axis=1)[:, :length]
    first = rng.integers(N_CLUSTERS, size=(n_users, 1)) * size if planted else 0
    return Histories.of(list(inside + first))


def started(name: str, histories: Histories, **changed: Any) -> Fit:
    config = KINDS[name].config.model_validate({**CONFIGS[name], **changed})
    return KINDS[name].fit(config, histories, N_ITEMS, Alone(), torch.device("cpu"))


def fitted(name: str, histories: Histories, **changed: Any) -> Model:
    fit = started(name, histories, **changed)
    for epoch in range(fit.max_epochs):
        fit.run_epoch(epoch)
    return fit.model()


@pytest.fixture(scope="module")
def models() -> dict[str, Model]:
    """Every kind, fitted to the training part of planted tastes."""
    train = leave_one_out(tastes(planted=True)).train
    return {name: fitted(name, train) for name in KINDS}


@pytest.fixture
def model(models: dict[str, Model], name: str) -> Model:
    return models[name]


def scores(model: Model, histories: Histories) -> NDArray[np.float32]:
    return model.query_vectors(histories) @ model.item_vectors.T


@every_kind
def test_vectors_are_finite_floats_of_one_length(model: Model) -> None:
    items = model.item_vectors
    queries = model.query_vectors(Histories.of([[1, 2], [], [3]]))
    assert items.dtype == queries.dtype == np.float32
    assert items.shape[0] == N_ITEMS
    assert queries.shape == (3, items.shape[1])
    assert np.isfinite(items).all() and np.isfinite(queries).all()


@every_kind
def test_a_batch_answers_as_its_histories_one_by_one(model: Model) -> None:
    histories = tastes(planted=False, n_users=17, length=40)
    histories = Histories.of([histories[row][: 3 * row] for row in range(17)])
    one_by_one = [scores(model, histories.slice(row, row + 1)) for row in range(17)]
    np.testing.assert_allclose(
        scores(model, histories), np.concatenate(one_by_one), rtol=1e-4, atol=1e-4
    )


@every_kind
def test_a_batch_of_none_is_answered(model: Model) -> None:
    assert model.query_vectors(Histories.of([])).shape == (0, model.item_vectors.shape[1])


@every_kind
def test_an_empty_history_gets_a_finite_answer(model: Model) -> None:
    answer = scores(model, Histories.of([[]]))
    assert np.isfinite(answer).all()


@every_kind
def test_restoring_the_saved_tensors_is_the_identity(name: str, model: Model) -> None:
    kind = KINDS[name]
    config = kind.config.model_validate_json(model.config.model_dump_json())
    again = kind.model.restore(config, load(save(dict(model.tensors()))))
    histories = tastes(planted=True, n_users=10, seed=3)
    assert again.config == model.config
    np.testing.assert_array_equal(again.item_vectors, model.item_vectors)
    np.testing.assert_array_equal(again.query_vectors(histories), model.query_vectors(histories))


@every_kind
def test_restoring_without_a_tensor_names_it(name: str, model: Model) -> None:
    first = next(iter(model.tensors()))
    rest = {key: tensor for key, tensor in model.tensors().items() if key != first}
    with pytest.raises(ValueError, match=first):
        KINDS[name].model.restore(model.config, rest)


@every_kind
def test_restoring_with_another_kinds_config_is_refused(name: str, model: Model) -> None:
    other = next(kind for key, kind in KINDS.items() if key != name)
    with pytest.raises(ValueError, match=name):
        KINDS[name].model.restore(other.config(), model.tensors())


@every_kind
def test_the_same_seed_fits_the_same_model(name: str) -> None:
    histories = tastes(planted=True, n_users=50)
    first, again = (fitted(name, histories, seed=5) for _ in range(2))
    for key, tensor in first.tensors().items():
        np.testing.assert_array_equal(tensor, again.tensors()[key])


@pytest.mark.parametrize("name", PERSONAL)
def test_another_seed_fits_another_model(name: str) -> None:
    histories = tastes(planted=True, n_users=50)
    first, other = (fitted(name, histories, seed=seed) for seed in (5, 6))
    assert not np.array_equal(first.item_vectors, other.item_vectors)


@pytest.mark.parametrize("name", PERSONAL)
def test_a_planted_taste_is_found(models: dict[str, Model], name: str) -> None:
    test = leave_one_out(tastes(planted=True)).test
    found = validate(models[name], test)["ndcg@10"]
    # Of a cluster of 10, 8 have been seen: either of the two left ranks first or second.
    assert found > 0.7
    assert found > 3 * validate(models["popularity"], test)["ndcg@10"]


@pytest.mark.parametrize("name", PERSONAL)
def test_nothing_is_found_where_there_is_nothing(name: str) -> None:
    split = leave_one_out(tastes(planted=False))
    found = validate(fitted(name, split.train), split.test)["ndcg@10"]
    assert found == pytest.approx(_of_chance(split.test), abs=0.05)


def _of_chance(holdout: Holdout) -> float:
    """The expected NDCG@10 of a random ranking of the items that are not seen."""
    unseen = N_ITEMS - holdout.histories.lengths.mean()
    return float((1 / np.log2(np.arange(2, 12))).sum() / unseen)


@every_kind
def test_a_fit_goes_on_from_its_state_as_it_would_have(name: str) -> None:
    histories = tastes(planted=True, n_users=50)
    whole, first, second = (started(name, histories) for _ in range(3))
    for epoch in range(3):
        whole.run_epoch(epoch)
    first.run_epoch(0)
    second.load_state(first.state())
    for epoch in (1, 2):
        second.run_epoch(epoch)
    for key, tensor in whole.model().tensors().items():
        np.testing.assert_array_equal(tensor, second.model().tensors()[key])


@pytest.mark.parametrize("name", PERSONAL)
def test_a_warm_start_knows_every_item_by_its_row(models: dict[str, Model], name: str) -> None:
    histories = tastes(planted=True, n_users=50)
    shuffled = np.random.default_rng(0).permutation(N_ITEMS)
    rows = shuffled.copy()
    rows[7] = UNKNOWN
    fit = started(name, histories)
    fresh = fit.model().item_vectors.copy()
    fit.warm_start(models[name].tensors(), rows)
    vectors = fit.model().item_vectors
    known = rows != UNKNOWN
    np.testing.assert_array_equal(vectors[known], models[name].item_vectors[rows[known]])
    np.testing.assert_array_equal(vectors[7], fresh[7])


@pytest.mark.parametrize("name", PERSONAL)
def test_a_warm_start_is_ahead_of_one_from_nothing(models: dict[str, Model], name: str) -> None:
    split = leave_one_out(tastes(planted=True))
    cold, warm = (started(name, split.train) for _ in range(2))
    warm.warm_start(models[name].tensors(), np.arange(N_ITEMS))
    assert warm.run_epoch(0)["loss"] < cold.run_epoch(0)["loss"]
    assert validate(warm.model(), split.test)["ndcg@10"] > 0.7


@pytest.mark.parametrize("name", PERSONAL)
def test_a_warm_start_from_another_shape_is_refused(models: dict[str, Model], name: str) -> None:
    fit = started(name, tastes(planted=True, n_users=50), dim=8)
    with pytest.raises(ValueError, match=r"items\.weight|item_vectors"):
        fit.warm_start(models[name].tensors(), np.arange(N_ITEMS))


@every_kind
def test_an_unknown_hyper_parameter_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="colour"):
        KINDS[name].config.model_validate({"colour": "red"})


def test_an_unknown_kind_is_refused_with_those_there_are() -> None:
    with pytest.raises(UnknownKind, match=r"no model 'svd'.*popularity, ials, sasrec"):
        kind_of("svd")
