"""A side that has exchanged packets for months takes up what the newer tables want."""

import hashlib
from datetime import UTC, datetime

import asyncpg
import pytest
from tortoise import Tortoise
from tortoise.migrations.api import migrate

from estation import settings
from estation.inner import database as inner_database
from estation.local import LocalPostgres
from estation.outside.gate import sentlog
from estation.shared.migrating import asyncpg_dsn, migrate_to_newest
from tests.outside.gate_side import bill, query

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
BEFORE = {"online": ("estation", "0010_gate_peers"), "inner": ("inner", "0005_gate_peers")}


@pytest.mark.parametrize("side", BEFORE)
async def test_packets_and_rows_sent_before_the_upgrade_are_counted_and_kept_in_the_log(
    postgres: LocalPostgres, side: str
) -> None:
    postgres.create_database(f"{side}_of_last_month")
    url = postgres.url(f"{side}_of_last_month")
    config = (inner_database.database if side == "inner" else settings.database)(url)
    await migrate(config=config, target=".".join(BEFORE[side]))
    await Tortoise.close_connections()
    await _two_packets(url)

    await migrate_to_newest(config, dsn=asyncpg_dsn(url))

    await Tortoise.init(config=config, _enable_global_fallback=True)
    try:
        while await sentlog.backfill("a-b"):
            pass
        counted = await query(
            "select bytes_upto, contents_upto from gate_outgoing_packet order by seq"
        )
        log = await query("select key, bucket from gate_sent_row")
    finally:
        await Tortoise.close_connections()
    assert counted == [
        {"bytes_upto": 3, "contents_upto": 1},
        {"bytes_upto": 5, "contents_upto": 1},
    ]
    assert log == [{"key": "F000007", "bucket": hashlib.sha256(b"F000007").digest()[0]}]


async def _two_packets(url: str) -> None:
    """One with a bill, one heartbeat, as the version before wrote them."""
    connection = await asyncpg.connect(asyncpg_dsn(url))
    try:
        await connection.execute(
            """insert into gate_outgoing_stream
                 (stream, last_seq, last_digest, written_seq, peer_received_seq, peer_trouble)
               values ('a-b', 2, repeat('2', 64), 2, 0, '')"""
        )
        await connection.executemany(
            """insert into gate_outgoing_packet
                 (id, stream, seq, digest, rows, manifest, body, created_at)
               values (gen_random_uuid(), 'a-b', $1, repeat('1', 64), $2, 'm', $3, $4)""",
            [(1, 1, b"abc", NOW), (2, 0, b"de", NOW)],
        )
        await connection.execute(
            """insert into gate_outgoing_row (stream, topic, body, created_at, packed_seq)
               values ('a-b', 'fee_bill', $1::jsonb, $2, 1)""",
            sentlog.rows.encode_row("fee_bill", bill(7)).decode(),
            NOW,
        )
    finally:
        await connection.close()
