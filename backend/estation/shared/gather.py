"""Gather -> one flush: callers wait together, the database is asked once (group commit).

No timer: while one flush runs, the next batch gathers. A batch that fails is retried one by
one, so a poisoned item fails alone (measured in DESIGN §10).
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Overloaded(Exception):
    """The queue is full: the caller should be told to come back, not wait for ever."""


class Gatherer(Generic[Item, Answer]):
    """Collects items from many callers and hands them to `flush` in batches.

    `flush` gets 1..limit items and returns one answer (or exception) per item, in order.
    """

    def __init__(
        self,
        flush: Callable[[Sequence[Item]], Awaitable[Sequence[Answer | Exception]]],
        *,
        flushers: int = 2,
        limit: int = 64,
        waiting: int = 4096,
    ) -> None:
        self._flush = flush
        self._limit = limit
        self._flushers = flushers
        self._queue: asyncio.Queue[tuple[Item, asyncio.Future[Answer]]] = asyncio.Queue(waiting)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._run()) for _ in range(self._flushers)]

    async def stop(self) -> None:
        """Ends the flushers; callers still waiting get CancelledError."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        while not self._queue.empty():
            self._queue.get_nowait()[1].cancel()

    async def submit(self, item: Item) -> Answer:
        """Wait for this item's answer. Raises Overloaded at once when the queue is full."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        try:
            self._queue.put_nowait((item, answer))
        except asyncio.QueueFull:
            raise Overloaded from None
        return await answer

    async def _run(self) -> None:
        while True:
            batch = [await self._queue.get()]
            while len(batch) < self._limit and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            try:
                for (_, waiter), answer in zip(batch, await self._answers(batch), strict=True):
                    _deliver(waiter, answer)
            except asyncio.CancelledError:
                for _, waiter in batch:
                    waiter.cancel()
                raise

    async def _answers(
        self, batch: list[tuple[Item, asyncio.Future[Answer]]]
    ) -> Sequence[Answer | Exception]:
        items = [item for item, _ in batch]
        try:
            return await self._flush(items)
        except Exception as failure:
            if len(items) == 1:
                return [failure]
        answers: list[Answer | Exception] = []
        for item in items:
            try:
                answers.extend(await self._flush([item]))
            except Exception as failure:
                answers.append(failure)
        return answers


def _deliver(waiter: "asyncio.Future[Answer]", answer: Answer | Exception) -> None:
    if waiter.done():
        return
    if isinstance(answer, Exception):
        waiter.set_exception(answer)
    else:
        waiter.set_result(answer)
