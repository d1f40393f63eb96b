"""Gather -> one flush: callers wait together, the database is asked once (group commit).

While one flush runs, the next batch gathers; who comes to an idle desk is served at once. A second
flush starts beside a running one when three quarters as many wait (an eighth to a half of a full
batch), or when its first caller has been patient: two half-empty flushes cost the database almost
twice as much as a fuller one. A fixed number has an edge: where callers for two batches are one
short of it, each flush waits for the other one's end. A batch that fails is retried one by one, so
a poisoned item fails alone (measured in DESIGN §10).
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")

PATIENCE_SECONDS: Final = 0.02
"""How long a waiting batch stays behind a flush that is held up, for instance by a locked row."""


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
        self._enough = self._beside(0)
        self._flushers = flushers
        self._most_waiting = waiting
        self._waiting: deque[tuple[Item, asyncio.Future[Answer]]] = deque()
        self._flushing = 0
        self._turn = asyncio.Lock()  # one flusher gathers, the others flush
        self._news = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._run()) for _ in range(self._flushers)]

    async def stop(self) -> None:
        """Ends the flushers; callers still waiting get CancelledError."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        while self._waiting:
            self._waiting.popleft()[1].cancel()

    async def submit(self, item: Item) -> Answer:
        """Wait for this item's answer. Raises Overloaded at once when the queue is full."""
        if len(self._waiting) >= self._most_waiting:
            raise Overloaded
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, answer))
        if len(self._waiting) == 1 or len(self._waiting) >= self._enough:
            self._news.set()
        return await answer

    async def _run(self) -> None:
        while True:
            batch = await self._next_batch()
            try:
                for (_, waiter), answer in zip(batch, await self._answers(batch), strict=True):
                    _deliver(waiter, answer)
            except asyncio.CancelledError:
                for _, waiter in batch:
                    waiter.cancel()
                raise
            finally:
                self._flushing -= 1
                self._news.set()

    async def _next_batch(self) -> list[tuple[Item, "asyncio.Future[Answer]"]]:
        """Counts as flushing from here on. Nothing is taken before it is worth while, so that a
        cancelled flusher leaves everybody in the queue."""
        async with self._turn:
            while not self._waiting:
                self._news.clear()
                await self._news.wait()
            if self._flushing and len(self._waiting) < self._enough:
                self._news.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(PATIENCE_SECONDS):
                        await self._news.wait()
            self._flushing += 1
            size = min(self._limit, len(self._waiting))
            self._enough = self._beside(size)
            return [self._waiting.popleft() for _ in range(size)]

    def _beside(self, running: int) -> int:
        """How many must wait for a flush of their own beside one of so many."""
        return max(1, self._limit // 8, min(3 * running // 4, self._limit // 2))

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
