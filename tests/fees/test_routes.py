"""The JSON interface to one's bills says up to when they are known, as every page does."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from tortoise import Tortoise

from tests.identity.doors import NOW, Doors, open_doors
from tests.identity.people import ANNA
from tests.identity.test_guards import make_bill


@pytest.fixture
async def doors(database: str) -> AsyncIterator[Doors]:
    async with open_doors() as opened:
        yield opened


async def known_up_to(moment: datetime) -> None:
    """The centre's stream, which is late after ten minutes."""
    db = Tortoise.get_connection("default")
    await db.execute_query(
        """insert into gate_peer (name, title, folder, stream_in, stream_out, regions,
             late_after_seconds, state, trouble, created_at, changed_at)
           values ('jc', '市中心', '/x', 'jc-online', 'online-jc', '[]', 600, 'active', '', $1, $1)
        """,
        [NOW],
    )
    await db.execute_query("insert into gate_peer_source (source, peer) values ('jc', 'jc')")
    await db.execute_query(
        """insert into gate_incoming_stream
             (stream, last_seq, last_digest, watermark, stopped_reason, stopped_detail, failures,
              parked_files, duplicates, content_seq, reported_seq)
           values ('jc-online', 1, '', $1, '', '', 0, 0, 0, 0, 0)""",
        [moment],
    )


def shown(answer: dict[str, Any]) -> tuple[datetime, list[str]]:
    late = answer["copy"]["late"]
    return datetime.fromisoformat(answer["copy"]["as_of"]), [one["title"] for one in late]


@pytest.mark.parametrize(
    ("age", "late"), [(timedelta(minutes=1), []), (timedelta(hours=1), ["市中心"])]
)
async def test_bills_come_with_the_age_of_the_copy_and_the_sources_that_are_late(
    doors: Doors, age: timedelta, late: list[str]
) -> None:
    bill = await make_bill(ANNA, 1)
    await doors.log_in()
    moment = doors.clock[0] - age
    await known_up_to(moment)

    _, listed = await doors.ask("GET", "/api/bills")
    _, one = await doors.ask("GET", f"/api/bills/{bill.id}")

    assert shown(listed) == shown(one) == (moment, late)


async def test_that_there_are_no_bills_is_known_up_to_a_moment_too(doors: Doors) -> None:
    await make_bill(ANNA, 1)
    await Tortoise.get_connection("default").execute_query("delete from bill")
    await doors.log_in()
    moment = doors.clock[0] - timedelta(hours=2)
    await known_up_to(moment)

    _, listed = await doors.ask("GET", "/api/bills")

    assert listed["bills"] == []
    assert shown(listed) == (moment, ["市中心"])
