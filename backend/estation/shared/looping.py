"""Background work: again and again until told to stop, patient after errors."""

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable
from datetime import datetime

import structlog

from estation.shared.clock import Clock

log = structlog.get_logger()

LONGEST_PAUSE_SECONDS = 30.0


def stop_on_signals() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set, so that the work at hand is finished."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stopping.set)
    return stopping


async def repeat(
    name: str,
    run: Callable[[datetime], Awaitable[object]],
    *,
    every_seconds: float,
    clock: Clock,
    stopping: asyncio.Event,
) -> None:
    """Call `run` again `every_seconds` after it ended; an error is logged and waited out."""
    failures = 0
    while not stopping.is_set():
        try:
            await run(clock())
            failures = 0
        except Exception:
            failures += 1
            log.exception("job_failed", job=name, failures=failures)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_seconds(failures, every_seconds)):
                await stopping.wait()


def pause_seconds(failures: int, every_seconds: float) -> float:
    """A dead database or a full disk is not asked in a hot loop: 2 s doubling to half a minute.

    Bounded before it is raised: a night of failures must not overflow a float.
    """
    if not failures:
        return every_seconds
    return min(2.0 ** min(failures, 10), LONGEST_PAUSE_SECONDS)
