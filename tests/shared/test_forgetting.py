"""As fast as it came, and not for ever."""

from estation.shared.forgetting import SECONDS, forget_in_rounds


async def test_rounds_end_with_one_that_was_not_full_or_with_the_time() -> None:
    left, clock = [25], [0.0]

    async def one_round(at_once: int) -> int:
        clock[0] += SECONDS / 4
        went = min(at_once, left[0])
        left[0] -= went
        return went

    first = await forget_in_rounds(one_round, at_once=10, monotonic=lambda: clock[0])
    left[0] = 1000
    bounded = await forget_in_rounds(one_round, at_once=10, monotonic=lambda: clock[0])

    assert (first, bounded) == (25, 40)
