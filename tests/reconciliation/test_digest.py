"""The same facts in any order give the same result, at any size."""

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest
from tortoise import Tortoise

from estation.outside.pay_channels import ChannelUnknown
from estation.reconciliation.api import RunView, reconcile_day
from tests.reconciliation import days
from tests.reconciliation.days import ALIPAY, DAY, FAULTS, NOW, WECHAT, Day, quiet_day


def full_of_faults() -> Day:
    day = quiet_day()
    for inject, _, _ in FAULTS.values():
        inject(day)
    return day


async def run(day: Day) -> RunView:
    return await reconcile_day(DAY, services=days.services_for(day), now=NOW)


async def test_running_again_gives_the_same_digests_and_another_run(database: str) -> None:
    day = full_of_faults()
    await days.post(day)

    first, second = await run(day), await run(day)

    assert first.id != second.id
    assert (first.result_digest, first.input_digest) == (second.result_digest, second.input_digest)


@pytest.mark.parametrize("seed", range(5))
async def test_the_order_of_lines_does_not_matter(database: str, seed: int) -> None:
    day = full_of_faults()
    await days.post(day)
    first = await run(day)
    for lines in day.bills.values():
        lines[:] = days.shuffled(lines, seed)

    second = await run(day)

    assert second.result_digest == first.result_digest
    assert second.input_digest != first.input_digest  # it is another file, and says so
    assert second.counts == first.counts


async def test_the_order_of_posting_does_not_matter(database: str) -> None:
    day = full_of_faults()
    await days.post(day)
    first = await run(day)
    await _empty_ledger()
    day.receipts = days.shuffled(day.receipts, seed=3)
    await days.post(day)

    second = await run(day)

    assert second.result_digest == first.result_digest


@pytest.mark.parametrize(
    "change",
    [
        lambda line: replace(line, fen=line.fen + 1),
        lambda line: replace(line, trade_no="TX"),
        lambda line: replace(line, at=line.at + timedelta(microseconds=1)),
        lambda line: replace(line, state="TRADE_FINISHED"),
    ],
    ids=["amount", "trade number", "moment", "state"],
)
async def test_any_change_of_a_line_changes_the_digest(
    database: str, change: Callable[[days.Line], days.Line]
) -> None:
    day = quiet_day()
    await days.post(day)
    first = await run(day)
    day.bill(ALIPAY)[0] = change(day.bill(ALIPAY)[0])

    second = await run(day)

    assert second.result_digest != first.result_digest


async def test_a_day_of_100_000_lines_is_matched_in_the_database(database: str) -> None:
    """Set-based: matching holds no row of either side in Python."""
    await _large_day(100_000)
    day = Day()
    services = days.services_for(day, WECHAT)
    day.raw[WECHAT, DAY] = ChannelUnknown("away")  # the stored file serves

    tracemalloc.start()
    view = await reconcile_day(DAY, services=services, now=NOW)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert view.matched == 99_999
    assert view.counts == {"missing_in_ledger": 1, "missing_at_channel": 1}
    assert peak < 20 * 2**20


async def test_a_bill_of_30_000_lines_is_stored_whole(database: str) -> None:
    day = Day()
    day.bill(WECHAT).extend(
        days.Line(f"N{turn:06d}", turn + 1, days.at(9), f"T{turn:06d}") for turn in range(30_000)
    )

    view = await reconcile_day(DAY, services=days.services_for(day, WECHAT), now=NOW)

    (leg,) = view.legs
    assert leg["line_count"] == 30_000
    assert leg["their_fen"] == 30_000 * 30_001 // 2
    assert len(view.differences) == 500
    assert view.counts == {"missing_in_ledger": 30_000}


async def _empty_ledger() -> None:
    await Tortoise.get_connection("default").execute_script(
        "truncate ledger_entry, ledger_transfer"
    )


async def _large_day(lines: int) -> None:
    """Both sides made inside the database: one line without receipt, one receipt without line."""
    db = Tortoise.get_connection("default")
    file_id = UUID(int=7)
    await db.execute_query(
        """insert into channel_bill_file (id, channel, account_id, day, sha256, content,
               byte_count, fetched_at, seen_at, line_count, proof)
           values ($1, 'wechat_pay', $2, $3, 'x', '', 0, $4, $4, $5, '[]')""",
        [file_id, WECHAT, DAY, NOW, lines],
    )
    await db.execute_query(
        """insert into channel_bill_line (bill_file_id, line_no, kind, out_trade_no,
               channel_trade_no, amount_fen, fee_fen_e3, at, state)
           select $1, n, 'payment', 'N' || n, 'T' || n, n, 0, $2, 'SUCCESS'
           from generate_series(1, $3::int) n""",
        [file_id, days.at(9), lines],
    )
    await db.execute_query(
        """insert into ledger_transfer (id, idempotency_key, input_hash, kind, region, our_no,
               channel_no, occurred_at, posted_at)
           select lpad(to_hex(n), 32, '0')::uuid, 'k' || n, '', 'payment', '360101', 'N' || n,
                  'T' || n, $1, $1 from generate_series(2, $2::int + 1) n""",
        [days.at(9), lines],
    )
    await db.execute_query(
        """insert into ledger_entry (id, transfer_id, account, debit_fen, credit_fen)
           select gen_random_uuid(), lpad(to_hex(n), 32, '0')::uuid, side.account,
                  n * side.debit, n * side.credit
           from generate_series(2, $2::int + 1) n,
                (values ('channel_clearing:' || $1::text, 1, 0), ('payee_payable:treasury', 0, 1))
                    as side(account, debit, credit)""",
        [WECHAT, lines],
    )
