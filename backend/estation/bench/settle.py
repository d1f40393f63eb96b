"""`scripts/bench settle`: settling a batch against the bare SQL of the same rows, as tables grow.

Ours: `settle_batch` (lock, judge, write) on one connection, batches of 64, synchronous commit on.
Floor: the very rows and updates that a batch causes, by COPY and three keyed updates in one
transaction, with nothing locked before, judged or encoded. Both at 10^4 orders of history, then
ours again at each larger size: the cost must not grow with the tables. At last a reconciliation,
number by number, as the load test of callbacks has it.
"""

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import asyncpg
from rich.console import Console
from rich.table import Table
from tortoise import Tortoise

from estation import settings as settings_module
from estation.bench import orders
from estation.bench.notices import amount_fen, trade_number
from estation.local import LocalPostgres
from estation.outside.pay_channels import Channel, ChannelReport, ChannelState, VerifiedNotice
from estation.payments.api import SettleItem, settle_batch
from estation.shared.clock import system_clock
from estation.shared.migrating import asyncpg_dsn, migrate_to_newest

ACCOUNT: Final = "wechat_pay:1900000109"
BATCH: Final = 64
BATCHES: Final = 150
WARM_UP: Final = 20
ROUNDS: Final = 3
GOAL: Final = 0.5
GOAL_FLAT: Final = 0.8
SIZES: Final = (10_000, 100_000, 1_000_000)

console = Console()


def run(*, as_json: bool, sizes: tuple[int, ...] = SIZES) -> None:
    """Measure, print a table, and with `as_json` one object as the last line. Exit code 1: what
    was settled is not what was sent."""
    with tempfile.TemporaryDirectory(prefix="estation-bench-") as folder:
        Path(folder).chmod(0o711)  # PostgreSQL's unprivileged user walks through it
        postgres = LocalPostgres(Path(folder) / "pg", settings=_ROOM).start()
        try:
            postgres.create_database("online")
            summary, proof = asyncio.run(_measure(postgres.url("online"), sizes))
        finally:
            postgres.stop(mode="immediate")
    _print(summary)
    console.print(f"Sent against stored, number by number: {proof.words()}")
    if as_json:
        sys.stdout.write(json.dumps(summary) + "\n")
    if not summary["settled_once"]:
        raise SystemExit(1)


_ROOM: Final = {"shared_buffers": "1GB", "max_wal_size": "8GB", "checkpoint_timeout": "30min"}


Proof = orders.Reconciliation


async def _measure(url: str, sizes: tuple[int, ...]) -> tuple[dict[str, Any], Proof]:
    config, dsn = settings_module.database(url), asyncpg_dsn(url)
    await migrate_to_newest(config, dsn=dsn)
    await Tortoise.init(config=config, _enable_global_fallback=True)
    ours: dict[int, float] = {}
    floor = 0.0
    milliseconds: list[float] = []
    made = history = 0
    try:
        for size in sizes:
            await orders.make_history(dsn, first=history, last=size, account_id=ACCOUNT)
            history = size
            speeds = []
            for _ in range(ROUNDS):
                count = BATCH * (WARM_UP + BATCHES)
                await orders.make_orders(dsn, first=made, count=count, account_id=ACCOUNT)
                speed, waits = await _settle_all(made, count)
                made += count
                speeds.append(speed)
                if size == sizes[0]:
                    milliseconds += waits
                    floor = max(floor, await _floor(dsn))
            ours[size] = statistics.median(speeds)
    finally:
        await Tortoise.close_connections()
    proof = await orders.reconcile(dsn, _sent(made))
    milliseconds.sort()
    smallest = ours[sizes[0]]
    summary = {
        "name": "settle",
        "ours": round(smallest, 1),
        "floor": round(floor, 1),
        "ratio": round(smallest / floor, 3),
        "goal": GOAL,
        "unit": "payments/s",
        "p50_ms": round(milliseconds[len(milliseconds) // 2], 2),
        "p99_ms": round(milliseconds[len(milliseconds) * 99 // 100], 2),
        "by_orders_in_the_tables": {str(size): round(speed, 1) for size, speed in ours.items()},
        "flat": {str(size): round(speed / smallest, 3) for size, speed in ours.items()},
        "goal_flat": GOAL_FLAT,
        "settled_once": proof.is_whole,
        "reconciliation": proof.counts(),
    }
    return summary, proof


def _sent(made: int) -> dict[str, int]:
    """Every payment of the run: `_settle_all` settles all that were made."""
    return {trade_number(number): amount_fen(number) for number in range(made)}


async def _settle_all(first: int, count: int) -> tuple[float, list[float]]:
    """Payments a second after the warm-up, and the milliseconds of each batch."""
    now = system_clock()
    items = [_item(number, now) for number in range(first, first + count)]
    waits: list[float] = []
    begun = time.perf_counter()
    for at in range(0, count, BATCH):
        if at == WARM_UP * BATCH:
            waits, begun = [], time.perf_counter()
        started = time.perf_counter()
        await settle_batch(items[at : at + BATCH], now=now)
        waits.append((time.perf_counter() - started) * 1000)
    return BATCHES * BATCH / (time.perf_counter() - begun), waits


MESSAGE: Final = os.urandom(2200)
"""As long as a real notice with its headers; sealed, so nothing in it is like anything else."""


def _item(number: int, now: datetime) -> SettleItem:
    report = ChannelReport(
        channel=Channel.WECHAT_PAY,
        account_id=ACCOUNT,
        out_trade_no=trade_number(number),
        state=ChannelState.PAID,
        channel_trade_no=f"4200{number:024d}",
        paid_fen=amount_fen(number),
        paid_at=now - timedelta(seconds=1),
    )
    notice = VerifiedNotice(
        event_key=f"TRANSACTION.SUCCESS:{report.out_trade_no}:{report.channel_trade_no}",
        kind="TRANSACTION.SUCCESS",
        out_trade_no=report.out_trade_no,
        report=report,
        plaintext={"out_trade_no": report.out_trade_no, "amount": {"total": report.paid_fen}},
    )
    return SettleItem(Channel.WECHAT_PAY, ACCOUNT, report, notice, message=MESSAGE)


async def _floor(dsn: str) -> float:
    """The rows of BATCHES batches by COPY and keyed updates, nothing else."""
    connection: Any = await asyncpg.connect(dsn)
    try:
        await connection.execute(
            """create unlogged table if not exists floor_target as
               select uuidv7() as id, 'open'::text as state from generate_series(1, 30000)"""
        )
        await connection.execute(
            "create unique index if not exists floor_target_id on floor_target (id)"
        )
        ids = [row["id"] for row in await connection.fetch("select id from floor_target")]
        batches = [_floor_rows() for _ in range(WARM_UP + BATCHES)]
        begun = time.perf_counter()
        for number, rows in enumerate(batches):
            if number == WARM_UP:
                begun = time.perf_counter()
            async with connection.transaction():
                for table, (columns, records) in rows.items():
                    await connection.copy_records_to_table(table, columns=columns, records=records)
                for _ in ("bill", "attempt", "order"):
                    await connection.execute(
                        "update floor_target set state = 'paid' where id = any($1::uuid[])",
                        ids[number * BATCH : (number + 1) * BATCH],
                    )
        return BATCHES * BATCH / (time.perf_counter() - begun)
    finally:
        await connection.execute(
            """delete from pay_notice_message m using pay_notice n
               where n.id = m.id and n.kind = 'FLOOR';
               delete from pay_notice where kind = 'FLOOR';
               delete from outbox_message where topic = 'floor'"""
        )
        await connection.close()


def _floor_rows() -> dict[str, tuple[list[str], list[tuple[Any, ...]]]]:
    """One batch: a transfer of three entries, a receipt and a notice for each payment."""
    now = system_clock()
    transfers, entries, notices, kept, messages = [], [], [], [], []
    for _ in range(BATCH):
        transfer, key = uuid4(), uuid4().hex
        transfers.append(
            (transfer, f"floor:{key}", key, "floor", "360101", uuid4(), key, key, now, now)
        )
        entries += [
            (uuid4(), transfer, f"channel_clearing:{ACCOUNT}", 9000, 0),
            (uuid4(), transfer, "payee_payable:treasury", 0, 1000),
            (uuid4(), transfer, "payee_payable:non_tax", 0, 8000),
        ]
        notice = uuid4()
        kept.append((notice, MESSAGE))
        notices.append(
            (notice, "wechat_pay", ACCOUNT, key, "FLOOR", key, "{}", now, now, "applied", 0, "")
        )
        messages.append((uuid4(), "floor", "{}", now, now, now, 1, ""))
    return {
        "ledger_transfer": (
            ["id", "idempotency_key", "input_hash", "kind", "region", "order_id", "our_no",
             "channel_no", "occurred_at", "posted_at"], transfers),
        "ledger_entry": (["id", "transfer_id", "account", "debit_fen", "credit_fen"], entries),
        "pay_notice": (
            ["id", "channel", "account_id", "event_key", "kind", "out_trade_no", "plaintext",
             "received_at", "handled_at", "outcome", "tries", "last_error"], notices),
        "pay_notice_message": (["id", "message_sealed"], kept),
        "outbox_message": (
            ["id", "topic", "body", "created_at", "not_before", "sent_at", "tries", "last_error"],
            messages),
    }  # fmt: skip


def _print(summary: dict[str, Any]) -> None:
    table = Table("orders in the tables", "settled/s", "of the smallest")
    for size, speed in summary["by_orders_in_the_tables"].items():
        table.add_row(f"{int(size):,}", f"{speed:,.0f}", f"{summary['flat'][size]:.2f}")
    console.print(table)
    console.print(
        f"floor (the same rows by COPY and keyed updates): {summary['floor']:,.0f}/s; ours "
        f"{summary['ratio']:.2f} of it; a batch of {BATCH}: p50 {summary['p50_ms']} ms, "
        f"p99 {summary['p99_ms']} ms; every payment settled exactly once: "
        f"{'yes' if summary['settled_once'] else 'NO'}"
    )
