"""Many callers, few calls; nobody waits without need and nobody gets another's answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from services.batcher import Batcher
from services.problems import Overloaded, Unavailable


class Doubling:
    """Doubles numbers once it may, and remembers what it was asked at a time."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.may = asyncio.Event()
        self.away = False

    async def __call__(self, numbers: Sequence[int]) -> list[int]:
        self.asked.append(list(numbers))
        await self.may.wait()
        if 13 in numbers:
            raise ArithmeticError("13")
        if 0 in numbers and self.away:
            raise Unavailable("away")
        return [2 * number for number in numbers]


def batcher(ask: Doubling, max_batch: int = 64, max_waiting: int = 100) -> Batcher[int, int]:
    return Batcher(ask, max_batch=max_batch, max_waiting=max_waiting, max_calls=1)


def test_one_alone_is_asked_at_once() -> None:
    async def story() -> None:
        ask = Doubling()
        ask.may.set()
        assert await batcher(ask)(3) == 6
        assert ask.asked == [[3]]

    asyncio.run(story())


def test_what_arrives_during_a_call_goes_together_with_the_next() -> None:
    async def story() -> None:
        ask = Doubling()
        batched = batcher(ask, max_batch=4)
        first = asyncio.create_task(batched(0))
        await asyncio.sleep(0.01)
        others = [asyncio.create_task(batched(i)) for i in range(1, 8)]
        await asyncio.sleep(0.01)
        ask.may.set()
        assert await asyncio.gather(first, *others) == [2 * i for i in range(8)]
        assert ask.asked == [[0], [1, 2, 3, 4], [5, 6, 7]]

    asyncio.run(story())


def test_a_question_that_cannot_be_answered_fails_alone() -> None:
    async def story() -> None:
        ask = Doubling()
        batched = batcher(ask, max_batch=3)
        tasks = [asyncio.create_task(batched(i)) for i in (1, 13, 2, 3)]
        ask.may.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(answer) for answer in answers] == [int, ArithmeticError, int, int]
        assert ask.asked == [[1, 13, 2], [1], [13], [2], [3]]

    asyncio.run(story())


def test_what_the_service_knows_to_fail_is_told_to_all_and_not_asked_again() -> None:
    async def story() -> None:
        ask = Doubling()
        ask.away = True
        batched = batcher(ask)
        tasks = [asyncio.create_task(batched(i)) for i in range(2)]
        ask.may.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(answer) for answer in answers] == [Unavailable, Unavailable]
        assert ask.asked == [[0, 1]]

    asyncio.run(story())


def test_who_gave_up_waiting_is_not_asked_for() -> None:
    async def story() -> None:
        ask = Doubling()
        batched = batcher(ask)
        first, gone, kept = (asyncio.create_task(batched(i)) for i in range(3))
        await asyncio.sleep(0.01)
        assert ask.asked == [[0, 1, 2]]
        gone.cancel()
        late = asyncio.create_task(batched(4))
        never = asyncio.create_task(batched(5))
        await asyncio.sleep(0.01)
        never.cancel()
        ask.may.set()
        assert await asyncio.gather(first, kept, late) == [0, 4, 8]
        assert ask.asked == [[0, 1, 2], [4]]

    asyncio.run(story())


def test_many_of_one_caller_go_in_pieces_with_what_others_asked() -> None:
    async def story() -> None:
        ask = Doubling()
        batched = batcher(ask, max_batch=4)
        many = asyncio.create_task(batched.many(range(6)))
        await asyncio.sleep(0.01)
        one = asyncio.create_task(batched(10))
        await asyncio.sleep(0.01)
        ask.may.set()
        assert await many == [0, 2, 4, 6, 8, 10]
        assert await one == 20
        assert ask.asked == [[0, 1, 2, 3], [4, 5, 10]]

    asyncio.run(story())


def test_many_are_refused_together_where_not_all_may_wait() -> None:
    async def story() -> None:
        ask = Doubling()
        ask.may.set()
        batched = batcher(ask, max_waiting=3)
        with pytest.raises(Overloaded):
            await batched.many(range(4))
        assert ask.asked == []
        assert await batched.many(range(3)) == [0, 2, 4]

    asyncio.run(story())


def test_more_than_may_wait_are_refused() -> None:
    async def story() -> None:
        ask = Doubling()
        batched = batcher(ask, max_waiting=2)
        first = asyncio.create_task(batched(0))
        await asyncio.sleep(0.01)
        waiting = [asyncio.create_task(batched(i)) for i in (1, 2)]
        await asyncio.sleep(0.01)
        with pytest.raises(Overloaded):
            await batched(3)
        ask.may.set()
        assert await asyncio.gather(first, *waiting) == [0, 2, 4]

    asyncio.run(story())
