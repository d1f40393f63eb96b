"""What channels' bills prove of payments is kept with its history, shown, and changes no bill."""

from datetime import date
from typing import Any

import asyncpg
import pytest

from estation.inner import packets, personas, queries
from estation.inner.actions import evidence
from estation.inner.actions.evidence import KEY
from estation.inner.queries import bill_view
from estation.inner.views import PAGE_SIZE
from estation.outside.gate import replicas, rows
from estation.outside.gate.receiving import Arrival
from estation.outside.gate.rows import PaymentEvidenceRow, ReceiptRow
from estation.shared.transactions import in_transaction
from tests.inner.desk import TOTAL_FEN, Browser, Desk, query
from tests.inner.test_receipts import arrive


def proof(desk: Desk, receipt: ReceiptRow, **changes: Any) -> PaymentEvidenceRow:
    values: dict[str, Any] = {
        "source": receipt.source, "source_id": receipt.source_id, "version": 1,
        "bill_no": receipt.bill_no, "order_no": receipt.order_no,
        "out_trade_no": receipt.out_trade_no, "channel": receipt.channel,
        "merchant_id": "1900000109", "channel_trade_no": receipt.channel_trade_no,
        "paid_at": receipt.paid_at, "amount_fen": TOTAL_FEN, "bill_fen": TOTAL_FEN,
        "channel_day": date(2026, 11, 23), "file_digest": "a" * 64, "file_line": 17,
        "proved_at": desk.now, "notice_id": "EV-1", "notice_digest": "b" * 64,
        "noticed_at": desk.now, "transfer_id": receipt.transfer_id,
    }  # fmt: skip
    return PaymentEvidenceRow(**{**values, **changes})


async def hear(desk: Desk, *said: PaymentEvidenceRow, seq: int = 2, repairs: bool = False) -> None:
    handler = packets.make_handlers(source=desk.settings.source, now=desk.now)["payment_evidence"]
    async with in_transaction():
        await handler(said, Arrival("online-jc-center", seq, desk.now, repairs=repairs))


async def paid(desk: Desk) -> ReceiptRow:
    receipt = desk.receipt(await desk.issue())
    await arrive(desk, receipt)
    return receipt


async def kept() -> list[tuple[Any, ...]]:
    found = await query(
        "select version, said ->> 'file_line' as line, attention from fee_payment_evidence"
    )
    return [tuple(row.values()) for row in found]


async def history() -> list[int]:
    found = await query("select version from fee_payment_evidence_version order by version")
    return [row["version"] for row in found]


async def test_evidence_is_kept_beside_its_receipt_and_shown_with_the_bill(
    desk: Desk, pages: Browser
) -> None:
    receipt = await paid(desk)
    before = await query("select state, paid_at, version from fee_bill")

    await hear(desk, proof(desk, receipt))

    (shown,) = (await bill_view(receipt.source_id)).evidence
    assert await kept() == [(1, "17", "")]
    assert (shown.merchant_id, shown.file_line, shown.notice_id) == ("1900000109", 17, "EV-1")
    assert await query("select state, paid_at, version from fee_bill") == before
    await pages.log_in(personas.FEE_CLERK)
    page = (await pages.get(f"/bills/{receipt.source_id}")).text
    assert "缴款证明" in page
    assert "2026-11-23 第 17 行" in page
    assert "aaaaaaaaaaaaaaaa…" in page


async def test_the_newest_version_stands_in_whatever_order_they_come_and_all_are_kept(
    desk: Desk,
) -> None:
    receipt = await paid(desk)
    first, second = proof(desk, receipt), proof(desk, receipt, version=2, file_line=18)

    await hear(desk, second)
    await hear(desk, first, second, seq=3)
    await hear(desk, second, seq=4)

    assert await kept() == [(2, "18", "")]
    assert await history() == [1, 2]


async def test_the_same_version_with_another_content_is_flagged_and_the_first_stands(
    desk: Desk,
) -> None:
    receipt = await paid(desk)
    await hear(desk, proof(desk, receipt))

    await hear(desk, proof(desk, receipt, file_line=99), seq=3)

    assert await kept() == [(1, "17", "contradicted")]
    assert await history() == [1, 1]


async def test_a_repair_makes_it_what_was_sent(desk: Desk) -> None:
    receipt = await paid(desk)
    await hear(desk, proof(desk, receipt))
    await query("update fee_payment_evidence set said = jsonb_set(said, '{file_line}', '5')")

    await hear(desk, proof(desk, receipt), seq=3, repairs=True)

    assert await kept() == [(1, "17", "")]


async def test_evidence_changed_past_the_gate_is_found_by_the_next_proof_and_mended(
    desk: Desk,
) -> None:
    """Its digest is what a proof is made of."""
    said = proof(desk, await paid(desk))
    await hear(desk, said)

    await query("update fee_payment_evidence set said = jsonb_set(said, '{bill_fen}', '1')")
    (touched,) = await query("select row_digest from fee_payment_evidence")
    await hear(desk, said, seq=3, repairs=True)

    (mended,) = await query(
        "select row_digest, (said ->> 'bill_fen')::int as fen from fee_payment_evidence"
    )
    assert touched["row_digest"] == bytes(32)
    assert mended == {
        "row_digest": rows.digest(rows.encode_row("payment_evidence", said)), "fen": TOTAL_FEN,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "why"),
    [({"order_no": "OTHER"}, "unknown_payment"), ({"bill_fen": TOTAL_FEN + 1}, "more_than_paid")],
)
async def test_evidence_that_fits_no_receipt_is_kept_and_flagged(
    desk: Desk, changes: dict[str, Any], why: str
) -> None:
    receipt = await paid(desk)

    await hear(desk, proof(desk, receipt, **changes))

    assert await kept() == [(1, "17", why)]


async def test_evidence_that_came_before_its_receipt_is_judged_when_that_comes(desk: Desk) -> None:
    receipt = desk.receipt(await desk.issue())
    await hear(desk, proof(desk, receipt))
    await hear(desk, proof(desk, receipt, out_trade_no="P2", bill_fen=TOTAL_FEN + 1))
    await hear(desk, proof(desk, receipt, order_no="OTHER"))
    before = await kept()

    await arrive(desk, receipt)

    assert before == [(1, "17", "unknown_payment")] * 3
    assert sorted(await kept()) == [
        (1, "17", ""), (1, "17", "more_than_paid"), (1, "17", "unknown_payment"),
    ]  # fmt: skip


async def test_evidence_nobody_sent_waits_for_a_person_until_it_comes_after_all(
    desk: Desk,
) -> None:
    receipt = await paid(desk)
    said = proof(desk, receipt)
    await hear(desk, said)
    identity = rows.identity("payment_evidence", said)
    assert identity is not None

    await evidence.set_aside(desk.settings.source, [identity.key, "other"], now=desk.now)
    aside = await kept()
    await hear(desk, said, seq=3)

    assert aside == [(1, "17", "never_sent")]
    assert await kept() == [(1, "17", "")]


async def test_the_table_names_it_as_the_gate_does(desk: Desk) -> None:
    receipt = await paid(desk)
    said = proof(desk, receipt)
    await hear(desk, said)

    (row,) = await query(f"select {KEY} as key, version, row_digest from fee_payment_evidence")

    identity = rows.identity("payment_evidence", said)
    assert identity is not None
    assert (row["key"], row["version"]) == (identity.key, identity.version)
    assert row["row_digest"] == rows.digest(rows.encode_row("payment_evidence", said))
    assert replicas.REPLICAS["payment_evidence"].takes_out_of_use


@pytest.mark.parametrize("statement", ["update %s set version = 9", "delete from %s"])
async def test_history_is_never_changed(desk: Desk, statement: str) -> None:
    await hear(desk, proof(desk, await paid(desk)))

    with pytest.raises(asyncpg.RaiseError):
        await query(statement % "fee_payment_evidence_version")

    assert await history() == [1]


async def test_evidence_of_bills_that_are_none_of_ours_is_listed_for_the_desk_page_by_page(
    desk: Desk, pages: Browser
) -> None:
    receipt = await paid(desk)
    await hear(desk, proof(desk, receipt))
    strangers = [
        proof(desk, receipt, source_id=f"JF-none-{n}", order_no=f"O{n}", out_trade_no=f"T{n}")
        for n in range(PAGE_SIZE + 1)
    ]
    await hear(desk, *strangers, seq=3)
    await hear(desk, proof(desk, receipt, order_no="O-more", out_trade_no="T-more"), seq=4)
    await pages.log_in(personas.FEE_CLERK)

    receipts_page = (await pages.get("/receipts")).text
    first = (await pages.get("/receipts/evidence")).text
    second = (await pages.get("/receipts/evidence?page=2")).text

    assert f'待核对的证明 <b class="count">{PAGE_SIZE + 2}</b>' in receipts_page
    assert first.count("本中心没有这张缴费单") + second.count("本中心没有这张缴费单") == (
        PAGE_SIZE + 1
    )
    assert f"第 1 / 2 页，共 {PAGE_SIZE + 2} 条" in first
    assert "找不到对应的缴款回执" in first
    both = first + second
    assert "JF-none-0<" in both
    assert f"JF-none-{PAGE_SIZE}<" in both
    assert "O-more" in both
    assert f'href="/bills/{receipt.source_id}"' in both
    assert receipt.order_no not in both


async def test_what_waits_is_counted_without_reading_all_evidence(desk: Desk) -> None:
    async with in_transaction() as tx:
        await tx.execute_query("set local enable_seqscan = off")
        plan = await tx.execute_query_dict(
            f"explain select count(*) from fee_payment_evidence e where {queries._EVIDENCE_WAITS}"
        )

    assert any("ix_fee_payment_evidence_waits" in row["QUERY PLAN"] for row in plan)


async def test_a_receipt_that_comes_behind_takes_the_evidence_off_the_list(
    desk: Desk, pages: Browser
) -> None:
    receipt = desk.receipt(await desk.issue())
    await hear(desk, proof(desk, receipt))
    await pages.log_in(personas.FEE_CLERK)
    waiting = (await pages.get("/receipts/evidence")).text

    await arrive(desk, receipt)

    assert receipt.order_no in waiting
    assert "没有待核对的缴款证明" in (await pages.get("/receipts/evidence")).text
