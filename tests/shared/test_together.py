"""Parts of several contexts make one statement, and each finds its own parameters and answer."""

import pytest
from tortoise import Tortoise
from tortoise.exceptions import IntegrityError

from estation.shared.together import Part, statement

KEPT = Part(
    "kept as (insert into noted values ($1::int, $2::text) returning n)",
    "(select count(*) + $1::int from kept)",
    parameters=2,
)
DROPPED = Part(
    "dropped as (delete from noted where n = $1::int returning n)",
    "(select array_agg(n) from dropped)",
    parameters=1,
)


def test_parameters_are_counted_on_from_part_to_part() -> None:
    many = Part("last as (select $1, $10)", "(select $10 from last)", parameters=10)

    sql = statement(KEPT, DROPPED, many)

    assert "values ($1::int, $2::text)" in sql
    assert "n = $3::int" in sql
    assert "last as (select $4, $13)" in sql
    assert "(select $13 from last)" in sql


async def test_each_part_does_its_work_and_answers_in_its_column(database: str) -> None:
    db = Tortoise.get_connection("default")
    await db.execute_query("create table noted (n int, said text)")
    try:
        await db.execute_query("insert into noted values (7, 'before')")

        _, rows = await db.execute_query(statement(KEPT, DROPPED), [5, "new", 7])

        assert tuple(rows[0]) == (6, [7])
        assert await db.execute_query_dict("select n, said from noted") == [{"n": 5, "said": "new"}]
    finally:
        await db.execute_query("drop table noted")


async def test_a_part_that_fails_leaves_nothing_of_the_others(database: str) -> None:
    db = Tortoise.get_connection("default")
    await db.execute_query("create table noted (n int primary key, said text)")
    try:
        await db.execute_query("insert into noted values (5, 'before'), (7, 'before')")

        with pytest.raises(IntegrityError):
            await db.execute_query(statement(DROPPED, KEPT), [7, 5, "again"])

        assert len(await db.execute_query_dict("select n from noted")) == 2
    finally:
        await db.execute_query("drop table noted")
