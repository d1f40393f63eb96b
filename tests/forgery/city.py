"""Open orders at the real channels' accounts, and whether anything about them changed."""

import asyncio
from collections.abc import Iterator
from typing import Any

from tortoise import Tortoise

from tests.forgery.forging import Genuine
from tests.payments.city import City

AT_ONCE = 12


async def open_orders(many: int, *, channel: str = "wechat_pay") -> list[Genuine]:
    """Orders with one live attempt each, of different sums."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(n: int) -> Genuine:
        async with gate:
            fen = 817_524 + n
            _, _, number = await City().opened({"treasury": fen})
            return Genuine(number, fen)

    orders = await asyncio.gather(*(one(n) for n in range(many)))
    if channel == "alipay":
        await _query(
            "update pay_attempt set channel = 'alipay', scene = 'precreate',"
            " account_id = 'alipay:2021000000000109' where out_trade_no = any($1)",
            [order.number for order in orders],
        )
    return orders


async def digest() -> dict[str, str]:
    """Table -> what stands in it, every row of it."""
    tables = await _query(
        "select tablename from pg_tables where schemaname = 'public' order by tablename"
    )
    names = [row["tablename"] for row in tables]
    rows = await _query(" union all ".join(_digested(names)))
    return {row["name"]: row["digest"] for row in rows}


def _digested(names: list[str]) -> Iterator[str]:
    for name in names:
        yield (
            f"select '{name}' as name, count(*) || ':' ||"
            f" coalesce(md5(string_agg(md5(t::text), '' order by md5(t::text))), '') as digest"
            f' from "{name}" t'
        )


async def _query(sql: str, *values: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = await Tortoise.get_connection("default").execute_query_dict(
        sql, list(values)
    )
    return rows
