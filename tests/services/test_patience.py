"""How contents are given to an encoder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from services import patience
from services.patience import Patience, in_batches
from tests.hashing_encoder import HashingEncoder


@pytest.mark.parametrize(
    ("sizes", "batches"),
    [
        ([], []),
        ([3, 3, 3, 3, 3], [[3, 3, 3], [3, 3]]),
        ([11, 1, 12, 12], [[11], [1], [12], [12]]),
        ([0, 10, 0, 1], [[0, 10, 0], [1]]),
    ],
)
def test_a_batch_has_no_more_bytes_than_may_be_unless_it_is_of_one(
    sizes: list[int], batches: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "MOST_BYTES", 10)
    assert list(in_batches(sizes, lambda size: size)) == batches


def test_no_more_is_read_than_a_batch_and_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "MOST_BYTES", 10)
    read: list[int] = []

    def reading() -> Iterator[int]:
        for number in range(10):
            read.append(number)
            yield number

    next(in_batches(reading(), lambda _: 5))
    assert read == [0, 1, 2]


def test_an_encoder_that_fails_over_each_of_a_batch_is_out_of_order_though_it_recovers() -> None:
    patience, encoder = Patience(), HashingEncoder()
    patience.encode(encoder, ["fine"])
    with pytest.raises(RuntimeError, match="explodes"):
        patience.encode(encoder, ["explode", "explode again"])
