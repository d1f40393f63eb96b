"""A redirected refund is over when two persons booked that its payer has the money, not by words;
and the payer is told so."""

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

import pytest

from estation.ledger.api import balance
from estation.outside.pay_channels import ChannelRefused, RefundStatus
from estation.payments import api
from estation.payments.actions import reversing
from estation.payments.errors import (
    HandPaymentNotAsked,
    PaidByHandAlready,
    RedirectRefused,
    RefundNotFound,
    RefundNotPaidOut,
    RefundNotRedirected,
    SecondPersonNeeded,
)
from estation.payments.invariants import broken_invariants
from estation.shared.errors import InvalidInput
from tests.payments.city import TOTAL, City, later, rows
from tests.payments.fakes import UNKNOWN
from tests.payments.office import open_office
from tests.payments.pages import open_desk
from tests.payments.test_asked_refunds import approve, send
from tests.payments.test_second_person import abnormal, order, succeeds, told
from tests.payments.test_settled_outside import FEN, ask_refund, odd_money

CLEARING = "channel_clearing:wechat_pay:1900000109"
RECEIVED = "received_outside:wechat_pay:1900000109"
OUTSIDE = "settled_outside:wechat_pay:1900000109"
REFUND = 500


@pytest.fixture
async def city(database: str) -> City:
    return City()


async def at_our_card(city: City) -> UUID:
    """An abnormal refund that was redirected, and has arrived at our own card."""
    refund_id = await abnormal(city)
    await api.ask_redirect(refund_id=refund_id, by="maker", now=later(hours=3))
    await order(city, refund_id)
    await succeeds(city)
    return refund_id


async def ask(refund_id: UUID, **changes: Any) -> None:
    values: dict[str, Any] = {
        "document_no": "建行回单 20260804-1", "by": "maker", "now": later(hours=8),
    }  # fmt: skip
    await api.ask_paying_by_hand(refund_id=refund_id, **{**values, **changes})


async def book(refund_id: UUID, **changes: Any) -> str:
    values: dict[str, Any] = {"by": "checker", "now": later(hours=9)}
    return await api.approve_paying_by_hand(refund_id=refund_id, **{**values, **changes})


async def reject(refund_id: UUID, **changes: Any) -> None:
    values: dict[str, Any] = {"by": "checker", "note": "回单不清", "now": later(hours=9)}
    await api.reject_paying_by_hand(refund_id=refund_id, **{**values, **changes})


async def the_incident() -> dict[str, Any]:
    (found,) = await rows(
        "select id, state, resolved_by, resolution from incident where kind = 'refund_abnormal'"
    )
    return found


async def everything() -> Sequence[Any]:
    return [
        await rows(f"select * from {table} order by 1, 2")
        for table in ("incident", "incident_action", "ledger_entry", "pay_refund")
    ]


async def test_two_persons_book_it_and_only_then_it_is_over(city: City) -> None:
    refund_id = await at_our_card(city)
    incident = await the_incident()
    with pytest.raises(RefundNotPaidOut) as refused:
        await api.resolve_incident(
            incident_id=incident["id"], by="x", resolution="已转账给市民", now=later(hours=7)
        )
    before = (await the_incident(), await told(city), await balance(RECEIVED))
    await ask(refund_id)
    between = ((await the_incident())["state"], await told(city), await balance(RECEIVED))

    transfer_id = await book(refund_id)

    assert (refused.value.code, refused.value.http_status) == ("refund_not_paid_out", 409)
    assert before == (incident, ["abnormal", "abnormal"], 0)
    assert between == ("open", ["abnormal", "abnormal"], 0)
    after = await the_incident()
    assert (after["state"], after["resolved_by"]) == ("resolved", "checker")
    words = f"改退的钱已转付付款人（建行回单 20260804-1），凭证 {transfer_id}"
    assert after["resolution"] == words
    assert (await balance(RECEIVED), await balance(OUTSIDE)) == (REFUND, -REFUND)
    assert await balance(CLEARING) == TOTAL - REFUND
    assert await told(city) == ["paid_by_hand", "paid_by_hand"]
    deeds = await rows(
        "select action, by, note, transfer_id::text as transfer from incident_action"
        " where action like '%hand%' order by at, id"
    )
    assert deeds == [
        {"action": "hand_asked", "by": "maker", "note": "建行回单 20260804-1", "transfer": None},
        {"action": "paid_by_hand", "by": "checker", "note": "建行回单 20260804-1",
         "transfer": transfer_id},
    ]  # fmt: skip
    assert "paid_by_hand" in reversing.POSTED_BY_ACTIONS, "nobody undoes it by hand"
    assert await broken_invariants() == {}


async def test_the_incident_it_was_asked_under_is_over_with_it(city: City) -> None:
    incident_id = await odd_money(city)
    await approve(await ask_refund(incident_id, FEN, FEN))
    await send(city, later(hours=2))
    (number,) = city.wechat.refunds
    stuck = city.wechat.finish(number, RefundStatus.ABNORMAL)
    await api.settle_batch([api.from_refund(stuck)], now=later(hours=2))
    (refund,) = await rows("select id from pay_refund")
    await api.ask_redirect(refund_id=refund["id"], by="maker", now=later(hours=3))
    await order(city, refund["id"])
    await succeeds(city)
    opened = await rows("select kind from incident where state = 'open' order by kind")

    await ask(refund["id"])
    await book(refund["id"])

    assert [row["kind"] for row in opened] == ["refund_abnormal", "wrong_amount"]
    assert await rows("select kind from incident where state = 'open'") == []
    assert await broken_invariants() == {}


async def test_nobody_books_alone_or_what_nobody_asked_or_twice(city: City) -> None:
    refund_id = await at_our_card(city)
    before = await everything()
    for deed in (book(refund_id), reject(refund_id)):
        with pytest.raises(HandPaymentNotAsked):
            await deed
    with pytest.raises(InvalidInput):
        await ask(refund_id, document_no=" ")
    with pytest.raises(RefundNotFound):
        await ask(uuid4())
    unchanged = await everything()
    person = uuid4()
    await ask(refund_id, by="张伟（财务经办）", by_id=person)
    with pytest.raises(SecondPersonNeeded):
        await book(refund_id, by="张卫（财务复核）", by_id=person)
    await reject(refund_id)
    with pytest.raises(HandPaymentNotAsked):
        await book(refund_id, now=later(hours=10))
    await ask(refund_id, now=later(hours=11))

    answers = await asyncio.gather(
        *(book(refund_id, by=f"checker {n}", now=later(hours=12)) for n in range(3)),
        return_exceptions=True,
    )
    with pytest.raises(PaidByHandAlready):
        await ask(refund_id, now=later(hours=13))

    assert unchanged == before
    assert [type(answer) for answer in answers].count(str) == 1
    assert {type(answer) for answer in answers} == {str, PaidByHandAlready}
    assert await balance(RECEIVED) == REFUND


async def test_only_what_is_at_our_card_is_paid_out(city: City) -> None:
    refund_id = await abnormal(city)
    with pytest.raises(RefundNotRedirected):
        await ask(refund_id)
    await api.ask_redirect(refund_id=refund_id, by="maker", now=later(hours=3))
    await order(city, refund_id)
    with pytest.raises(RefundNotRedirected) as on_its_way:
        await ask(refund_id)

    assert on_its_way.value.details == {"state": "processing"}


async def test_what_the_channel_paid_to_the_payer_itself_is_not_paid_out_again(city: City) -> None:
    refund_id = await abnormal(city)
    await api.ask_redirect(refund_id=refund_id, by="maker", now=later(hours=3))
    city.wechat.trouble["redirect_refund"] = ChannelRefused("INVALID_REQUEST")
    with pytest.raises(RedirectRefused):
        await order(city, refund_id)
    await succeeds(city)

    with pytest.raises(RefundNotRedirected):
        await ask(refund_id)


async def test_where_it_is_unknown_to_whom_the_channel_paid_a_persons_words_may_end_it(
    city: City,
) -> None:
    """The first order was never answered, the second one refused."""
    refund_id = await abnormal(city)
    await api.ask_redirect(refund_id=refund_id, by="maker", now=later(hours=3))
    for trouble in (UNKNOWN, ChannelRefused("INVALID_REQUEST")):
        city.wechat.trouble["redirect_refund"] = trouble
        with pytest.raises(RedirectRefused):
            await order(city, refund_id)
    await succeeds(city)

    await api.resolve_incident(
        incident_id=(await the_incident())["id"], by="x", resolution="付款人确认已收到原路退款",
        now=later(hours=7),
    )  # fmt: skip

    assert (await the_incident())["state"] == "resolved"


async def test_a_transfer_of_no_refund_breaks_its_rule(city: City) -> None:
    refund_id = await at_our_card(city)
    await ask(refund_id)
    transfer_id = await book(refund_id)
    calm = await broken_invariants()
    await rows("update pay_refund set refund_no = 'ANOTHER' returning id")

    assert calm == {}
    assert transfer_id in (await broken_invariants())["every_refund_in_the_books_is_one_of_ours"]


async def test_the_office_books_it_on_the_incidents_page(city: City) -> None:
    async with open_office(city) as office:
        await at_our_card(city)
        page = f"/staff/incidents/{(await the_incident())['id']}"
        office.clock[0] = later(hours=8)
        await office.sit_down("clerk")
        await office.get(page)
        assert "转账回单号" in office.text
        assert "登记转付" in office.text
        assert await office.post(f"{page}/by-hand", hand_document_no=" ") == 422
        assert "请填写转账回单号" in office.text
        assert await office.post(f"{page}/by-hand", hand_document_no="回单 7") == 303
        await office.get(page)
        assert "等待复核" in office.text
        await office.sit_down("checker")
        await office.get(page)
        assert "批准转付入账" in office.text
        assert await office.post(f"{page}/by-hand/reject", note=" ") == 422
        assert await office.post(f"{page}/by-hand/approve") == 303
        await office.get(page)
        for word in ("已办结", "已转付付款人", "申请登记转付", "改退转付", RECEIVED, "回单 7"):
            assert word in office.text, word


async def test_the_payer_reads_that_it_was_paid_by_transfer_and_nothing_of_our_card(
    database: str,
) -> None:
    async with open_desk(City()) as desk:
        refund_id = await at_our_card(desk.city)
        await rows("update pay_refund set received_account = '江城财政专户0109' returning id")
        (owed,) = await rows("select order_id from pay_refund")
        browser = await desk.citizen()
        _, blocked, _ = await browser.get(f"/pay/{owed['order_id']}")
        await ask(refund_id)
        await book(refund_id)

        _, page, _ = await browser.get(f"/pay/{owed['order_id']}")
        _, listed, _ = await browser.get("/fees/history")

    assert "退款没能退到原来的账户" in blocked
    assert "退款没能退到原来的账户" not in page
    for word in ("已转账退款", "财务人员已另行转账退给您", "财务人员转账到您的银行账户", "12345"):
        assert word in page, word
    assert "部分退款" in listed
    for text in (blocked, page, listed):
        assert "0109" not in text
        assert "回单" not in text, "the office's own papers"
