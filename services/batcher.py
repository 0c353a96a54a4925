"""Many callers answered by one call: what arrives while a call is under way goes with the next.

A batch is as large as the load makes it, and nobody waits for others to arrive: alone, a question
is asked at once. (`serve.batch` cuts a batch before the call ahead of it is done, so that without
a waiting time every batch is of one.)
"""

from __future__ import annotations

import asyncio
import contextvars
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from services.problems import Overloaded, ServiceError

Q = TypeVar("Q")
R = TypeVar("R")


class Batcher(Generic[Q, R]):
    """Asks `ask`, which answers a batch in its order, for one caller at a time."""

    def __init__(
        self,
        ask: Callable[[Sequence[Q]], Awaitable[Sequence[R]]],
        *,
        max_batch: int,
        max_waiting: int,
        max_calls: int = 2,
    ) -> None:
        """max_calls: calls under way at a time; two, so that one is on its way while one is
        computed."""
        self._ask = ask
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._max_calls = max_calls
        self._waiting: deque[tuple[Q, asyncio.Future[R]]] = deque()
        self._calls: set[asyncio.Task[None]] = set()

    async def __call__(self, question: Q) -> R:
        """The answer; raises what `ask` raises over this question, or over any where that is a
        ServiceError; Overloaded where `max_waiting` wait already."""
        [answer] = self._enqueue([question])
        return await answer

    async def many(self, questions: Sequence[Q]) -> list[R]:
        """The answers; raises as for one if one of them has none. Those of others come between."""
        return await asyncio.gather(*self._enqueue(questions))

    def _enqueue(self, questions: Sequence[Q]) -> list[asyncio.Future[R]]:
        """Where the answers will be; raises Overloaded, and then asks none of the questions."""
        if len(self._waiting) + len(questions) > self._max_waiting:
            raise Overloaded(
                f"{len(self._waiting)} requests are waiting already; try again in a second"
            )
        loop = asyncio.get_running_loop()
        answers: list[asyncio.Future[R]] = [loop.create_future() for _ in questions]
        self._waiting.extend(zip(questions, answers, strict=True))
        batches = math.ceil(len(questions) / self._max_batch)
        for _ in range(min(batches, self._max_calls - len(self._calls))):
            # A batch is of many requests, and carries the context of none.
            call = asyncio.create_task(self._work(), context=contextvars.Context())
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
        return answers

    async def _work(self) -> None:
        """Ask batch after batch until nobody waits."""
        while batch := self._next_batch():
            await self._answer(batch)

    async def _answer(self, batch: Sequence[tuple[Q, asyncio.Future[R]]]) -> None:
        """Ask the questions together or, if that fails, one by one: one that cannot be answered
        does not take the others with it. What the service knows to fail, it does for all of them.
        """
        questions, answers = zip(*batch, strict=True)
        try:
            replies = await self._ask(questions)
        except Exception as error:  # noqa: BLE001 - whatever it is, each caller is told
            if len(batch) > 1 and not isinstance(error, ServiceError):
                for question, answer in batch:
                    if not answer.done():
                        await self._answer([(question, answer)])
                return
            for answer in answers:
                if not answer.done():
                    answer.set_exception(error)
            return
        for answer, reply in zip(answers, replies, strict=True):
            if not answer.done():
                answer.set_result(reply)

    def _next_batch(self) -> list[tuple[Q, asyncio.Future[R]]]:
        """Those who have waited longest, without the ones who gave up."""
        batch: list[tuple[Q, asyncio.Future[R]]] = []
        while self._waiting and len(batch) < self._max_batch:
            question, answer = self._waiting.popleft()
            if not answer.done():
                batch.append((question, answer))
        return batch
