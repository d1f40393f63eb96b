"""What settling asks of the database is found by key, however large and quiet the tables."""

import json
from collections.abc import Iterator
from typing import Any

from estation.bench import orders
from estation.fees import actions as fees
from estation.local import LocalPostgres
from estation.payments.actions import locking, statements
from estation.shared.migrating import asyncpg_dsn

HOT = {
    "lock": locking._LOCK_FOR_NEWS,
    "lock bills": fees._LOCK,
    "write": statements._WRITE,
}
LOOKED_UP = {
    "lock": {"pay_attempt", "pay_order", "pay_order_bill", "pay_order_split", "bill"},
    "lock bills": {"bill"},
    "write": {"pay_attempt", "pay_order", "pay_order_bill", "bill"},
}


async def test_every_row_is_found_by_its_key_where_nothing_is_open(
    postgres: LocalPostgres, own_database_url: str
) -> None:
    # A quiet night in an old city: the partial indexes of what is open look empty and cheap.
    await orders.make_history(
        asyncpg_dsn(own_database_url), last=4000, account_id="wechat_pay:1900000109"
    )
    database = own_database_url.partition("?")[0].rpartition("/")[2]
    postgres.psql("vacuum analyze", database=database)

    plans = {
        name: json.loads(
            postgres.psql(f"explain (generic_plan, format json) {sql}", database=database)
        )[0]["Plan"]
        for name, sql in HOT.items()
    }

    for name, plan in plans.items():
        scans = [node for node in _nodes(plan) if _is_scan_of_a_table(node)]
        assert {node["Relation Name"] for node in scans} == LOOKED_UP[name], name
        assert [node for node in scans if not {"Index Cond", "Recheck Cond"} & set(node)] == [], (
            name
        )


def _is_scan_of_a_table(node: dict[str, Any]) -> bool:
    return "Relation Name" in node and node["Node Type"].endswith("Scan")


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from _nodes(inner)
