"""A side that has exchanged packets for months takes up what the newer tables want."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest
from tortoise import Tortoise
from tortoise.migrations.api import migrate

from estation import settings
from estation.inner import database as inner_database
from estation.local import LocalPostgres
from estation.outside.gate import keys, sending, sentlog
from estation.outside.gate.format import read_made
from estation.shared.migrating import asyncpg_dsn, migrate_to_newest
from estation.shared.transactions import in_transaction
from tests.outside.gate_side import PRIVATE, bill, query

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
BEFORE = {"online": ("estation", "0010_gate_peers"), "inner": ("inner", "0005_gate_peers")}
BEFORE_PACKING = {
    "online": ("estation", "0020_proof_rounds"),
    "inner": ("inner", "0010_proof_rounds"),
}


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


@pytest.mark.parametrize("side", BEFORE_PACKING)
async def test_rows_that_waited_before_the_upgrade_leave_first_and_as_they_are_digested(
    postgres: LocalPostgres, side: str, tmp_path: Path
) -> None:
    postgres.create_database(f"{side}_with_rows_waiting")
    url = postgres.url(f"{side}_with_rows_waiting")
    config = (inner_database.database if side == "inner" else settings.database)(url)
    await migrate(config=config, target=".".join(BEFORE_PACKING[side]))
    await Tortoise.close_connections()
    await _rows_waiting(url)

    await migrate_to_newest(config, dsn=asyncpg_dsn(url))

    await Tortoise.init(config=config, _enable_global_fallback=True)
    try:
        kept = await query(
            "select stream, topic from gate_outgoing_row where packed_seq = 1 order by id"
        )
        async with in_transaction():
            await sending.put_rows("a-b", "fee_bill", [bill(4)], now=NOW)
        key = keys.load_seal_key(PRIVATE)
        packed = await sending.pack_waiting("a-b", folder=tmp_path, key=key, now=NOW)
        sent = await query("select manifest, body from gate_outgoing_packet where stream = 'a-b'")
        left = await query("select stream, topic from gate_outgoing_row order by id")
    finally:
        await Tortoise.close_connections()
    lines = [bytes(line.row) for line in read_made(sent[0]["manifest"], sent[0]["body"])]
    assert kept == [
        {"stream": "no-log", "topic": "fee_bill"},
        {"stream": "a-b", "topic": "drawing_part"},
    ]
    assert packed == [1]
    assert lines == [sentlog.rows.encode_row("fee_bill", bill(number)) for number in (2, 3, 4)]
    assert left == kept


def body_of(number: int) -> str:
    return sentlog.rows.encode_row("fee_bill", bill(number)).decode()


async def _rows_waiting(url: str) -> None:
    """A packed bill of a stream whose log lacks it, one of a stream whose log is whole, two that
    wait, and a packed part of a file of a later topic, all as the version before wrote them."""
    connection = await asyncpg.connect(asyncpg_dsn(url))
    try:
        await connection.execute(
            """insert into gate_upkeep
                 (stream, peer_seq, peer_is_behind, resent_from, resend_pause_seconds,
                  proof_is_due, paused_reason, log_is_complete, backfill_id)
               values ('no-log', 0, false, 0, 0, false, '', true, 0),
                      ('a-b', 0, false, 0, 0, false, '', true, null)"""
        )
        await connection.executemany(
            """insert into gate_outgoing_row (stream, topic, body, created_at, packed_seq)
               values ($1, $2, $3::jsonb, $4, $5)""",
            [
                (stream, topic, body_of(number), NOW, seq)
                for stream, topic, number, seq in (
                    ("no-log", "fee_bill", 1, 1), ("a-b", "fee_bill", 1, 1),
                    ("a-b", "fee_bill", 2, None), ("a-b", "fee_bill", 3, None),
                    ("a-b", "drawing_part", 1, 1),
                )
            ],
        )  # fmt: skip
    finally:
        await connection.close()


async def test_persons_of_before_are_spoken_for_by_the_widest_peer_that_has_rows_of_theirs(
    postgres: LocalPostgres,
) -> None:
    postgres.create_database("online_with_persons")
    url = postgres.url("online_with_persons")
    config = settings.database(url)
    await migrate(config=config, target="estation.0015_sent_sources")
    await Tortoise.close_connections()
    await _persons(url)

    await migrate_to_newest(config, dsn=asyncpg_dsn(url))

    connection = await asyncpg.connect(asyncpg_dsn(url))
    try:
        found = await connection.fetch(
            "select id_no_index, said_by, reach from person order by id_no_index"
        )
    finally:
        await connection.close()
    assert [tuple(row) for row in found] == [
        ("both", "city", 4),
        ("county only", "county", 6),
        ("no rows", "", 6),
    ]


async def _persons(url: str) -> None:
    """One with rows of two peers, one with a county's case alone, one with none."""
    connection = await asyncpg.connect(asyncpg_dsn(url))
    try:
        await connection.execute(
            """
            insert into gate_peer (name, title, folder, stream_in, stream_out, regions,
                                   late_after_seconds, state, trouble, created_at, changed_at)
            select name, name, '/' || name, name || '-online', 'online-' || name, regions::jsonb,
                   600, 'active', '', now(), now()
            from (values ('city', '["3601"]'), ('county', '["360121"]')) as t(name, regions);
            insert into gate_peer_source (source, peer)
            values ('jc-center', 'city'), ('lj-county', 'county');
            insert into person (id, id_type, id_no_index, id_no_sealed, id_tail_index, name_sealed,
                                phone_index, phone_sealed, updated_at)
            select gen_random_uuid(), '1', no, '', '', '', '', '', now()
            from unnest(array['both', 'county only', 'no rows']) as t(no);
            insert into bill (id, source, source_id, version, region, bill_no, case_source_id,
                              payer_id, title, state, total_fen, issued_at, data_as_of)
            select gen_random_uuid(), source, source, 1, region, source, '', p.id, '', 'issued',
                   0, now(), now()
            from person p, (values ('jc-center', '360102'), ('lj-county', '360121'))
              as t(source, region)
            where p.id_no_index = 'both';
            insert into case_record (id, source, source_id, version, region, case_no, matter, hall,
                                     unit_code, address, opened_at, state, stages, data_as_of)
            values (gen_random_uuid(), 'lj-county', 'C1', 1, '360121', 'C1', '', '', '', '', now(),
                    'open', '[]', now());
            insert into case_party (id, case_id, person_id, role)
            select gen_random_uuid(), c.id, p.id, 'buyer' from case_record c, person p
            where p.id_no_index = 'county only';
            """
        )
    finally:
        await connection.close()
