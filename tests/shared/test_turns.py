"""Turns of several parties: each at its own pace, none twice at once, a failing one left alone."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from estation.shared.turns import Turns, TurnsFailed, side_by_side

NOW = datetime(2026, 8, 3, 2, 0, 0, tzinfo=UTC)


class Parties:
    """`slow` hangs until it is let go, `broken` fails while it is told to, others are quick."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self.let_go = asyncio.Event()
        self.is_broken = True
        self.had: list[str] = []
        self.turns = Turns("test", self.waiting, self.work)

    async def waiting(self, now: datetime) -> list[str]:
        return list(self.names)

    async def work(self, party: str) -> str:
        self.had.append(party)
        if party == "slow":
            await asyncio.wait_for(self.let_go.wait(), 30)
        if party == "broken" and self.is_broken:
            raise RuntimeError("a bug")
        return party.upper()


async def test_a_slow_party_has_one_turn_while_the_others_have_theirs() -> None:
    parties = Parties("quick", "slow")

    for _ in range(3):
        await parties.turns.start(NOW)
    before = list(parties.had)
    parties.let_go.set()
    await parties.turns.finish()
    await parties.turns.start(NOW)

    assert sorted(before) == ["quick", "quick", "quick", "slow"]
    assert parties.had.count("slow") == 2


async def test_a_party_whose_turn_failed_is_left_alone_for_a_while() -> None:
    parties = Parties("broken", "quick")

    for seconds in (0, 1, 2, 3, 5, 6):
        await parties.turns.start(NOW + timedelta(seconds=seconds))
    with pytest.raises(TurnsFailed, match="broken"):
        await parties.turns.finish()
    parties.is_broken = False
    await parties.turns.start(NOW + timedelta(seconds=60))
    await parties.turns.finish()

    assert parties.had.count("quick") == 7
    assert parties.had.count("broken") == 4  # at 0, 2 and 6 seconds, and when it was mended


async def test_a_turn_that_does_not_end_is_broken_off_at_the_end() -> None:
    parties = Parties("slow")
    await parties.turns.start(NOW)

    await parties.turns.finish(seconds=0)

    assert parties.turns._under_way == {}


async def test_side_by_side_waits_for_all_before_it_tells_of_a_failure() -> None:
    parties = Parties("broken", "quick", "slow")
    parties.let_go.set()

    with pytest.raises(RuntimeError):
        await side_by_side(parties.names, parties.work)
    parties.is_broken = False

    assert sorted(parties.had) == ["broken", "quick", "slow"]
    assert await side_by_side(["quick", "slow"], parties.work) == ["QUICK", "SLOW"]
    assert await side_by_side([], parties.work) == []


async def test_a_pause_set_by_a_clock_that_was_ahead_is_over_once_it_is_right() -> None:
    parties = Parties("broken")
    await parties.turns.start(NOW + timedelta(days=365))
    parties.is_broken = False

    await parties.turns.start(NOW)
    await parties.turns.finish()

    assert parties.had == ["broken", "broken"]
