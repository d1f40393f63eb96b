"""What is past its time goes as fast as it came, in short statements."""

import time
from collections.abc import Awaitable, Callable
from typing import Final

SECONDS: Final = 60.0
"""So long one call may go on: a tenth of the pause between two."""


async def forget_in_rounds(
    one_round: Callable[[int], Awaitable[int]],
    *,
    at_once: int,
    monotonic: Callable[[], float] = time.monotonic,
) -> int:
    """Call `one_round(at_once)`, which says how many went, as long as rounds are full and for at
    most SECONDS; how many went in all. A fixed number per call would grow for ever in a city where
    more than that comes between two calls."""
    gone, went, until = 0, at_once, monotonic() + SECONDS
    while went == at_once and monotonic() < until:
        went = await one_round(at_once)
        gone += went
    return gone
