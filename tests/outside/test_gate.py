"""Rows put on one side arrive on the other: all, once, in order."""

from pathlib import Path

import pytest

from tests.outside.gate_side import Sides, names, position


@pytest.fixture
def sides(database: str, tmp_path: Path) -> Sides:
    return Sides(tmp_path)


async def test_rows_put_on_one_side_arrive_on_the_other_in_order(sides: Sides) -> None:
    await sides.send(3, 1, 2)

    report = await sides.receive()

    assert sides.seen == names(3, 1, 2)
    assert (report.applied, report.rows) == ([1], 3)
    assert await position() == (1, "")
    assert list(sides.incoming.iterdir()) == []
