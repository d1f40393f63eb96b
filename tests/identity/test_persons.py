"""Whose word about a person counts: of whoever registered it, and whoever reaches further."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from msgspec import structs
from tortoise import Tortoise

from estation.identity.actions.persons import upsert_persons
from estation.identity.api import (
    Speaker,
    choose_person,
    login_with_code,
    send_login_code,
)
from estation.identity.errors import WrongPerson
from estation.outside.gate.rows import PartyRow
from tests.identity.people import ANNA, BO, CENTRE, COUNTY, NOW, OTHER_COUNTY, VAULT, Sms

MOVED = structs.replace(ANNA, phone="13999999999", name="林晓州")


async def query(sql: str, *values: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = await Tortoise.get_connection("default").execute_query_dict(
        sql, list(values)
    )
    return rows


async def say(party: PartyRow, by: Speaker, at: datetime = NOW) -> None:
    await upsert_persons([party], vault=VAULT, by=by, now=at)


async def person() -> tuple[str, str, str]:
    """(name, phone, said_by)"""
    (row,) = await query("select name_sealed, phone_sealed, phone_index, said_by from person")
    phone = VAULT.open(row["phone_sealed"])
    assert row["phone_index"] == VAULT.index(f"phone:{phone}")
    return VAULT.open(row["name_sealed"]), phone, row["said_by"]


async def words() -> list[tuple[str, str, str]]:
    rows = await query("select * from person_word order by said_by")
    return [
        (row["said_by"], VAULT.open(row["name_sealed"]), VAULT.open(row["phone_sealed"]))
        for row in rows
    ]


@pytest.mark.parametrize("first", [CENTRE, OTHER_COUNTY])
async def test_no_county_changes_a_person_that_another_registered(
    database: str, first: Speaker
) -> None:
    await say(ANNA, first)
    before = await query("select * from person")

    await say(MOVED, COUNTY, NOW + timedelta(days=1))

    assert await query("select * from person") == before
    assert await words() == [("lj-county", MOVED.name, MOVED.phone)]


async def test_who_registered_a_person_goes_on_speaking_for_it(database: str) -> None:
    await say(ANNA, COUNTY)

    await say(MOVED, COUNTY, NOW + timedelta(days=1))
    await say(ANNA, COUNTY, NOW)  # older news

    assert await person() == (MOVED.name, MOVED.phone, "lj-county")
    assert await words() == []


async def test_the_city_takes_over_whom_a_county_registered(database: str) -> None:
    """However new the county's word is: else registering citizens early would own them."""
    await say(MOVED, COUNTY, NOW + timedelta(days=1))

    await say(ANNA, CENTRE)
    await say(MOVED, COUNTY, NOW + timedelta(days=2))

    assert await person() == (ANNA.name, ANNA.phone, "jc-center")
    assert await words() == [("lj-county", MOVED.name, MOVED.phone)]


async def test_a_word_is_the_newest_of_its_speaker(database: str) -> None:
    await say(ANNA, CENTRE)
    await say(MOVED, COUNTY, NOW + timedelta(days=1))

    await say(structs.replace(MOVED, phone="13700000000"), COUNTY, NOW)
    await say(structs.replace(MOVED, phone="13600000000"), COUNTY, NOW + timedelta(days=2))

    assert await words() == [("lj-county", MOVED.name, "13600000000")]


async def test_both_get_the_same_person_for_their_rows(database: str) -> None:
    known = await upsert_persons([ANNA, BO], vault=VAULT, by=CENTRE, now=NOW)

    found = await upsert_persons([MOVED, BO], vault=VAULT, by=COUNTY, now=NOW)

    assert found == known


async def test_new_refreshed_and_older_news_in_one_packet_each_get_their_own_id(
    database: str,
) -> None:
    cyra = structs.replace(BO, name="沈知远", id_type="3", id_no="E12345678")
    before = await upsert_persons([ANNA, BO], vault=VAULT, by=CENTRE, now=NOW)

    refreshed = await upsert_persons([MOVED, cyra], vault=VAULT, by=CENTRE, now=NOW)
    mixed = await upsert_persons(
        [BO, MOVED, cyra], vault=VAULT, by=CENTRE, now=NOW - timedelta(days=1)
    )

    stored = {
        (row["id_type"], VAULT.open(row["id_no_sealed"])): row["id"]
        for row in await query("select id, id_type, id_no_sealed from person")
    }
    assert mixed == stored
    assert before.items() <= stored.items()
    assert refreshed.items() <= stored.items()
    assert await words() == []


async def test_nobody_logs_in_as_another_by_a_countys_word(database: str) -> None:
    await say(ANNA, CENTRE)
    await say(MOVED, COUNTY, NOW + timedelta(days=1))
    sms = Sms()
    await send_login_code(phone=MOVED.phone, address="1", vault=VAULT, sms=sms, now=NOW)
    opened = await login_with_code(phone=MOVED.phone, code=sms.code, vault=VAULT, now=NOW)
    (session,) = await query("select id from session")

    with pytest.raises(WrongPerson):
        await choose_person(
            session_id=session["id"], id_tail=ANNA.id_no[-6:], vault=VAULT, appid="wx", now=NOW
        )

    assert opened.needs_person
    assert await query("select person_id from session") == [{"person_id": None}]
