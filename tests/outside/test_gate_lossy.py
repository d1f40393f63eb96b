"""A medium that loses, doubles, delays, cuts and flips: after it calms down both sides agree."""

import random
from pathlib import Path

import pytest

from estation.outside.gate import sending
from tests.outside.gate_side import STREAM, Sides, names, position, query

ROUNDS = 40


@pytest.fixture
def sides(database: str, tmp_path: Path) -> Sides:
    return Sides(tmp_path)


@pytest.mark.parametrize("seed", range(5))
async def test_every_row_arrives_once_and_in_order_over_a_bad_medium(
    sides: Sides, seed: int
) -> None:
    dice = random.Random(seed)  # noqa: S311 -- a repeatable world, not a secret
    delayed: list[tuple[str, bytes]] = []
    sent = 0
    for _ in range(ROUNDS):
        if dice.random() < 0.7:
            amount = dice.randint(1, 5)
            await sides.put(*range(sent + 1, sent + amount + 1))
            sent += amount
        packed = await sides.pack(max_rows=3)
        if packed and dice.random() < 0.5:
            await sending.write_again(
                STREAM, folder=sides.outgoing, first=max(1, packed[-1] - 15), last=packed[-1]
            )
        delayed += _carry_badly(sides, dice)
        for name, data in _some(delayed, dice):
            (sides.incoming / name).write_bytes(data)
        await sides.receive()
        sides.later(dice.choice([0.1, 1, 12]))

    last = (await query("select last_seq from gate_outgoing_stream"))[0]["last_seq"]
    await sending.write_again(STREAM, folder=sides.outgoing, first=1, last=last)
    sides.carry()
    for _ in range(1 + last // 25):
        await sides.receive()

    heads = await query(
        """select o.last_digest = i.last_digest as equal from gate_outgoing_stream o
           join gate_incoming_stream i using (stream)"""
    )
    faults = await query(
        """select duplicates > 0 as doubled,
                  exists (select from gate_incoming_file where state = 'quarantined') as damaged
           from gate_incoming_stream"""
    )
    assert faults == [{"doubled": True, "damaged": True}]
    assert sides.seen == names(*range(1, sent + 1))
    assert await position() == (last, "")
    assert heads == [{"equal": True}]
    assert list(sides.incoming.iterdir()) == []


def _carry_badly(sides: Sides, dice: random.Random) -> list[tuple[str, bytes]]:
    """Take what waits away; returns what will come later (if ever), some of it damaged."""
    late = []
    sides.incoming.mkdir(parents=True, exist_ok=True)
    for path in sorted(sides.outgoing.iterdir()):
        data = path.read_bytes()
        path.unlink()
        fate = dice.random()
        if fate < 0.1:
            continue  # lost
        if fate < 0.2:
            data = data[: dice.randrange(len(data))]
        elif fate < 0.3:
            place = dice.randrange(len(data))
            data = (
                data[:place] + bytes([data[place] ^ (1 << dice.randrange(8))]) + data[place + 1 :]
            )
        if dice.random() < 0.3:
            late.append((path.name, data))
        if dice.random() < 0.7:
            (sides.incoming / path.name).write_bytes(data)
    return late


def _some(delayed: list[tuple[str, bytes]], dice: random.Random) -> list[tuple[str, bytes]]:
    dice.shuffle(delayed)
    count = dice.randint(0, len(delayed))
    arriving, delayed[:] = delayed[:count], delayed[count:]
    return arriving
