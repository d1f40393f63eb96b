"""A column of texts arrives in PostgreSQL exactly as it was."""

import pytest
from tortoise import Tortoise

from estation.shared.columns import array_text, json_lines
from estation.shared.jsonb import jsonb_text

COLUMNS = [
    [],
    [""],
    ["", ""],
    ["plain", "two words", "comma, brace {}"],
    ['quote "', 'only "quotes" and "more"', "back\\slash", "\\", '"', "\\N", '\\"'],
    ["null", "NULL", " leading and trailing "],
    ["两个字", "line\nend", "tab\t", "\x1f\x7f"],
    [None, "a", 'b"', None],
    [None],
]


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("values", COLUMNS)
async def test_every_text_arrives_as_it_was(values: list[str | None]) -> None:
    db = Tortoise.get_connection("default")

    rows = await db.execute_query_dict(
        "select value from unnest($1::text::text[]) with ordinality as t(value, n) order by n",
        [array_text(values)],
    )

    assert [row["value"] for row in rows] == values


@pytest.mark.usefixtures("database")
async def test_what_text_cannot_hold_is_replaced_and_nothing_is_lost() -> None:
    db = Tortoise.get_connection("default")

    rows = await db.execute_query_dict(
        "select value from unnest($1::text::text[]) as t(value)",
        [array_text(["nul \x00", "surrogate \ud800", "字"])],
    )

    assert [row["value"] for row in rows] == ["nul \ufffd", "surrogate ?", "字"]


@pytest.mark.usefixtures("database")
async def test_documents_arrive_one_by_one() -> None:
    db = Tortoise.get_connection("default")
    documents = [{"note": "line\nend"}, {"note": "\u2028 \x1f"}, {"note": "\x00"}, {}]

    rows = await db.execute_query_dict(
        r"""select value::jsonb ->> 'note' as note
            from unnest(string_to_array($1::text, E'\n')) as t(value)""",
        [json_lines([jsonb_text(document) for document in documents])],
    )

    assert [row["note"] for row in rows] == ["line\nend", "\u2028 \x1f", "\ufffd", None]
