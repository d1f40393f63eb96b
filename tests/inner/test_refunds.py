"""Refunds of the internal platform: asked, approved by another, told by the online side."""

from typing import Any

import pytest

from estation.inner.actions import receipts, refunds
from estation.inner.errors import (
    BillNotPaid,
    BillPaid,
    RefundableChanged,
    RefundAlreadyDecided,
    RefundTooMuch,
    SecondPersonNeeded,
    TextMissing,
)
from estation.inner.models import FeeBill
from estation.inner.personas import FEE_CLERK, REGISTRAR
from estation.inner.rules import (
    BILL_MOVES,
    BillMove,
    BillState,
    Decision,
    RefundState,
    refundable_fen,
    state_of_order,
)
from estation.outside.gate import rows as rows_module
from estation.outside.gate.rows import RefundOrderRow, RefundRow, RefundShareRow, decode_row
from tests.inner.desk import DEED_FEN, REG_FEN, TOTAL_FEN, Browser, Desk, query

ORDER_NO = "20261123ORDER001"


async def paid(desk: Desk) -> str:
    bill_no = await desk.issue()
    await pay(desk, bill_no)
    return bill_no


async def pay(desk: Desk, bill_no: str, **changes: Any) -> None:
    await receipts.keep_receipts(
        [desk.receipt(bill_no, **changes)],
        source=desk.settings.source,
        packet_seq=1,
        now=desk.now,
    )


async def ask(desk: Desk, bill_no: str, amount_fen: int = 8_000, **changes: Any) -> str:
    values: dict[str, Any] = {
        "amount_fen": amount_fen,
        "believed_refundable_fen": TOTAL_FEN,
        "reason": "登记费退还",
        "asked_by": "shoufei",
        "now": desk.now,
    }
    return await refunds.ask_refund(bill_no, **{**values, **changes})


async def decide(
    desk: Desk, refund_no: str, decision: Decision = Decision.APPROVE, by: str = "dengji"
) -> None:
    await refunds.decide_refund(
        refund_no,
        decision,
        note="不符" if decision is Decision.REJECT else "",
        decided_by=by,
        settings=desk.settings,
        now=desk.now,
    )


def news(desk: Desk, bill_no: str, **changes: Any) -> RefundRow:
    values: dict[str, Any] = {
        "source": desk.settings.source,
        "source_id": bill_no,
        "version": 1,
        "refund_no": "20261123REFUND01",
        "order_source_id": "",
        "order_no": ORDER_NO,
        "bill_no": bill_no,
        "state": "refunding",
        "amount_fen": 8_000,
        "shares": [RefundShareRow(payee_code="non_tax", amount_fen=8_000)],
        "channel": "wechat_pay",
        "channel_refund_no": "",
        "at": desk.now,
        "transfer_id": "",
        "reason": "登记费退还",
    }
    return RefundRow(**{**values, **changes})


async def hear(desk: Desk, *rows: RefundRow) -> None:
    await refunds.keep_refunds(rows, source=desk.settings.source, packet_seq=2, now=desk.now)


async def sent() -> list[RefundOrderRow]:
    rows = await query(
        "select body::text as body from gate_outgoing_row where topic = 'refund_order' order by id"
    )
    return [decode_row("refund_order", row["body"]) for row in rows]  # type: ignore[misc]


async def state_of(refund_no: str) -> str:
    (row,) = await query("select state from fee_refund_order where refund_no = $1", refund_no)
    return str(row["state"])


async def refundable(bill_no: str) -> int:
    there = await refunds.refundable_of(await FeeBill.get(bill_no=bill_no))
    return there.amount_fen if there else -1


def test_the_tables_are_complete() -> None:
    assert set(BILL_MOVES) == {(state, move) for state in BillState for move in BillMove}


@pytest.mark.parametrize(
    ("told", "ordered", "left"),
    [
        ([], [], 100),
        ([("refunding", 30)], [], 70),
        ([("refunded", 30), ("not_refunded", 50)], [], 70),
        ([("refused", 90)], [], 100),
        ([], [(RefundState.ASKED, 10), (RefundState.ORDERED, 20)], 70),
        ([("refunding", 20)], [(RefundState.REFUNDING, 20), (RefundState.REJECTED, 9)], 80),
        ([("refunded", 100)], [(RefundState.ASKED, 5)], 0),
    ],
)
def test_what_is_left_of_a_payment(
    told: list[tuple[str, int]], ordered: list[tuple[RefundState, int]], left: int
) -> None:
    assert refundable_fen(100, told=told, ordered=ordered) == left


@pytest.mark.parametrize(
    ("told", "state"),
    [
        ([("refunding", 100)], RefundState.REFUNDING),
        ([("refunded", 60), ("refunding", 40)], RefundState.REFUNDING),
        ([("refunded", 60), ("refunded", 40)], RefundState.REFUNDED),
        ([("refunded", 60), ("not_refunded", 40)], RefundState.NOT_REFUNDED),
        ([("refused", 100)], RefundState.REFUSED),
    ],
)
def test_how_an_order_stands(told: list[tuple[str, int]], state: RefundState) -> None:
    assert state_of_order(100, told) is state


async def test_an_order_leaves_only_with_a_second_persons_word(desk: Desk) -> None:
    bill_no = await paid(desk)

    refund_no = await ask(desk, bill_no)
    with pytest.raises(SecondPersonNeeded):
        await decide(desk, refund_no, by="shoufei")
    before = await sent()
    await decide(desk, refund_no)

    assert before == []
    (row,) = await sent()
    assert (row.source_id, row.bill_source_id, row.order_no) == (refund_no, bill_no, ORDER_NO)
    assert (row.amount_fen, row.believed_refundable_fen) == (8_000, TOTAL_FEN)
    assert (row.asked_by, row.approved_by, row.shares) == ("shoufei", "dengji", [])
    assert await state_of(refund_no) == "ordered"
    with pytest.raises(RefundAlreadyDecided):
        await decide(desk, refund_no)
    assert len(await sent()) == 1


async def test_two_orders_tell_each_what_the_online_side_will_find(desk: Desk) -> None:
    bill_no = await paid(desk)
    first = await ask(desk, bill_no)
    second = await ask(desk, bill_no, 100, believed_refundable_fen=TOTAL_FEN - 8_000)

    await decide(desk, second)
    await decide(desk, first)

    assert [row.believed_refundable_fen for row in await sent()] == [TOTAL_FEN, TOTAL_FEN - 100]


async def test_a_no_needs_its_reason_and_frees_the_sum(desk: Desk) -> None:
    bill_no = await paid(desk)
    refund_no = await ask(desk, bill_no, TOTAL_FEN)

    with pytest.raises(TextMissing):
        await refunds.decide_refund(
            refund_no,
            Decision.REJECT,
            note="",
            decided_by="dengji",
            settings=desk.settings,
            now=desk.now,
        )
    await decide(desk, refund_no, Decision.REJECT)

    assert await state_of(refund_no) == "rejected"
    assert await refundable(bill_no) == TOTAL_FEN
    assert await sent() == []


async def test_a_stale_belief_and_too_much_are_refused(desk: Desk) -> None:
    bill_no = await paid(desk)
    await ask(desk, bill_no)

    with pytest.raises(RefundableChanged) as stale:
        await ask(desk, bill_no)
    left = TOTAL_FEN - 8_000
    for amount_fen in (0, left + 1):
        with pytest.raises(RefundTooMuch):
            await ask(desk, bill_no, amount_fen, believed_refundable_fen=left)
    with pytest.raises(RefundTooMuch):
        await ask(desk, bill_no, 9_000, believed_refundable_fen=left, shares=[("non_tax", 9_000)])

    assert (stale.value.http_status, stale.value.details) == (412, {"refundable_fen": left})
    assert len(await query("select 1 from fee_refund_order")) == 1


async def test_an_unpaid_bill_has_nothing_to_give_back(desk: Desk) -> None:
    bill_no = await desk.issue()

    with pytest.raises(BillNotPaid):
        await ask(desk, bill_no)

    assert await query("select 1 from fee_refund_order") == []


async def test_the_online_sides_word_moves_order_and_bill(desk: Desk) -> None:
    bill_no = await paid(desk)
    refund_no = await ask(desk, bill_no, TOTAL_FEN)
    await decide(desk, refund_no)
    shares = [
        RefundShareRow(payee_code="treasury", amount_fen=DEED_FEN),
        RefundShareRow(payee_code="non_tax", amount_fen=REG_FEN),
    ]
    mine = {"order_source_id": refund_no, "amount_fen": TOTAL_FEN, "shares": shares}

    await hear(desk, news(desk, bill_no, **mine))
    between = (await state_of(refund_no), await refundable(bill_no))
    await hear(desk, news(desk, bill_no, **mine, version=2, state="refunded", transfer_id="t"))

    assert between == ("refunding", 0)
    assert await state_of(refund_no) == "refunded"
    bill = await FeeBill.get(bill_no=bill_no)
    assert (bill.state, bill.paid_version) == (BillState.REFUNDED, 1)


async def test_part_of_a_payment_leaves_its_bill_paid(desk: Desk) -> None:
    bill_no = await paid(desk)

    await hear(desk, news(desk, bill_no, state="refunded"))

    assert (await FeeBill.get(bill_no=bill_no)).state is BillState.PAID
    assert await refundable(bill_no) == TOTAL_FEN - 8_000
    with pytest.raises(BillPaid):
        await desk.revise(bill_no, 1)


async def test_an_older_word_changes_nothing_and_a_contradiction_is_kept(desk: Desk) -> None:
    bill_no = await paid(desk)
    done = news(desk, bill_no, version=2, state="refunded")

    await hear(desk, done)
    await hear(desk, news(desk, bill_no), done)
    calm = await query("select state, version, attention from fee_refund_news")
    await hear(desk, news(desk, bill_no, version=2, state="not_refunded"))

    assert calm == [{"state": "refunded", "version": 2, "attention": ""}]
    (after,) = await query("select state, version, attention from fee_refund_news")
    assert after == {"state": "refunded", "version": 2, "attention": "contradicted"}


async def test_an_order_that_was_refused_online_says_why(desk: Desk) -> None:
    bill_no = await paid(desk)
    refund_no = await ask(desk, bill_no)
    await decide(desk, refund_no)

    await hear(
        desk,
        news(
            desk,
            bill_no,
            refund_no="",
            order_source_id=refund_no,
            state="refused",
            shares=[],
            why_not="refundable_changed",
        ),
    )

    (order,) = await query("select state, why_not from fee_refund_order")
    assert order == {"state": "refused", "why_not": "refundable_changed"}
    assert await refundable(bill_no) == TOTAL_FEN


@pytest.mark.parametrize(
    ("changes", "attention"),
    [
        ({"source_id": "JF0"}, "unknown_payment"),
        ({"order_no": "NOTOURS"}, "unknown_payment"),
        ({"source": "other-center"}, "unknown_payment"),
        ({"amount_fen": TOTAL_FEN + 1}, "more_than_paid"),
    ],
)
async def test_news_that_fits_no_payment_is_kept_for_a_person(
    desk: Desk, changes: dict[str, Any], attention: str
) -> None:
    bill_no = await paid(desk)

    await hear(desk, news(desk, bill_no, **changes))

    (kept,) = await query("select attention from fee_refund_news")
    assert kept == {"attention": attention}
    assert (await FeeBill.get(bill_no=bill_no)).state is BillState.PAID


async def test_a_refunded_bill_is_due_again_once_it_is_revised(desk: Desk) -> None:
    bill_no = await paid(desk)
    await hear(desk, news(desk, bill_no, amount_fen=TOTAL_FEN, state="refunded"))

    version = await desk.revise(bill_no, 1)
    due = await FeeBill.get(bill_no=bill_no)
    await pay(desk, bill_no, bill_version=2, order_no="20261123ORDER002")

    assert (version, due.state, due.paid_at) == (2, BillState.ISSUED, None)
    again = await FeeBill.get(bill_no=bill_no)
    assert (again.state, again.paid_version) == (BillState.PAID, 2)
    assert await refundable(bill_no) == TOTAL_FEN


async def test_money_for_a_refunded_bill_waits_for_a_person(desk: Desk) -> None:
    bill_no = await paid(desk)
    await hear(desk, news(desk, bill_no, amount_fen=TOTAL_FEN, state="refunded"))

    await pay(desk, bill_no, order_no="20261123ORDER002")

    kept = await query("select attention from fee_receipt where order_no = '20261123ORDER002'")
    assert kept == [{"attention": "refunded_bill"}]


async def test_the_clerk_asks_and_the_registrar_approves_on_the_pages(
    desk: Desk, pages: Browser
) -> None:
    bill_no = await paid(desk)
    await pages.log_in(FEE_CLERK)
    token = await pages.csrf_token()
    shown = await pages.get(f"/bills/{bill_no}")
    too_much = await pages.post(
        f"/bills/{bill_no}/refunds",
        csrf_token=token,
        believed_refundable_fen=str(TOTAL_FEN),
        amount="999999",
        reason="登记费退还",
    )
    asked = await pages.post(
        f"/bills/{bill_no}/refunds",
        csrf_token=token,
        believed_refundable_fen=str(TOTAL_FEN),
        amount="80.00",
        reason="登记费退还",
    )
    (order,) = await query("select refund_no, amount_fen from fee_refund_order")
    address = f"/refunds/{order['refund_no']}/decision"
    own = await pages.post(address, csrf_token=token, decision="approve", note="")

    await pages.post("/logout", csrf_token=token)
    await pages.log_in(REGISTRAR)
    token = await pages.csrf_token()
    waiting = await pages.get("/refunds")
    nonsense = await pages.post(address, csrf_token=token, decision="maybe", note="")
    forged = await pages.post(address, csrf_token="x", decision="approve", note="")
    approved = await pages.post(address, csrf_token=token, decision="approve", note="")
    after = await pages.get(f"/bills/{bill_no}")

    assert "可退金额" in shown.text
    assert (too_much.status, asked.status, own.status) == (422, 303, 403)
    assert 'value="999999"' in too_much.text
    assert order["amount_fen"] == 8_000
    assert order["refund_no"] in waiting.text
    assert (nonsense.status, forged.status, approved.status) == (422, 403, 303)
    assert "已下达" in after.text
    assert len(await sent()) == 1


async def test_a_registrar_may_not_ask(desk: Desk, pages: Browser) -> None:
    bill_no = await paid(desk)
    await pages.log_in(REGISTRAR)
    token = await pages.csrf_token()

    answer = await pages.post(
        f"/bills/{bill_no}/refunds",
        csrf_token=token,
        believed_refundable_fen=str(TOTAL_FEN),
        amount="80.00",
        reason="登记费退还",
    )

    assert answer.status == 403
    assert await query("select 1 from fee_refund_order") == []


async def test_news_the_online_side_does_not_know_waits_for_a_person_until_it_comes_after_all(
    desk: Desk,
) -> None:
    bill_no = await paid(desk)
    said = news(desk, bill_no)
    await hear(desk, said)
    identity = rows_module.identity("refund", said)
    assert identity is not None

    await refunds.set_aside(desk.settings.source, [identity[1], "other"], now=desk.now)
    aside = await query("select attention from fee_refund_news")
    await hear(desk, said)

    assert aside == [{"attention": "never_sent"}]
    assert await query("select attention from fee_refund_news") == [{"attention": ""}]
