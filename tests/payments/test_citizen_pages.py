"""What a citizen learns of their payments: in progress, over, given back; and of their receipts."""

import re
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import pytest

from estation.fees.models import Bill
from estation.identity.actions.sessions import open_session
from estation.identity.api import upsert_persons
from estation.outside.pay_channels import Channel, RefundStatus, Scene
from estation.payments import api, jobs
from estation.payments.api import OrderView
from estation.payments.pages.verify import verify_address
from estation.payments.receipt_codes import receipt_code
from tests.identity.people import ANNA, BO, CENTRE, VAULT
from tests.payments.city import COMBINING, MERCHANTS, TOTAL, City, count, make_bill, rows
from tests.payments.fakes import UNKNOWN, CombiningChannel, FakeChannel
from tests.payments.pages import NOW, RECEIPT_KEY, Browser, Desk, open_desk


@pytest.fixture
async def desk(database: str) -> AsyncIterator[Desk]:
    async with open_desk(City()) as desk:
        yield desk


@pytest.fixture
async def bill(desk: Desk) -> Bill:
    return await make_bill(desk.city.person_id, now=NOW)


def later(**passed: float) -> Any:
    return NOW + timedelta(**passed)


async def paid(desk: Desk, bill: Bill) -> OrderView:
    order = await desk.city.order(bill, now=NOW)
    attempt = await desk.city.attempt(order, now=NOW)
    desk.city.wechat.pay(attempt.out_trade_no, at=NOW)
    await api.settle_batch(
        [api.from_report(desk.city.wechat.report(attempt.out_trade_no))], now=NOW
    )
    return await api.order_of(desk.city.person_id, order.id)


async def refund(desk: Desk, order: OrderView, fen: int, *, left: int = TOTAL) -> str:
    """Asked and approved by two persons, and taken to the channel; its number."""
    request = await api.ask_refund(
        order_id=order.id,
        amount_fen=fen,
        believed_refundable_fen=left,
        reason="登记费多收退还",
        by="maker",
        now=later(hours=1),
    )
    await api.approve_refund(request_id=request, by="checker", now=later(hours=1))
    desk.city.wechat.now = later(hours=2)
    await jobs.send_refunds(desk.city.services, now=later(hours=2))
    (row,) = await rows("select refund_no from pay_refund where request_id = $1", request)
    return str(row["refund_no"])


async def finish(desk: Desk, number: str, status: RefundStatus = RefundStatus.SUCCESS) -> None:
    report = desk.city.wechat.finish(number, status, at=later(hours=3))
    await api.settle_batch([api.from_refund(report)], now=later(hours=3))


async def somebody_else(desk: Desk) -> Browser:
    (person,) = (await upsert_persons([BO], vault=VAULT, by=CENTRE, now=NOW)).values()
    opened = await open_session(now=NOW, life=timedelta(hours=12), person_id=person)
    browser = desk.browser()
    browser.client.headers["authorization"] = f"Bearer {opened.token}"
    return browser


# In progress


async def test_every_page_shows_how_long_is_left_and_leads_into_the_open_order(
    desk: Desk, bill: Bill
) -> None:
    order = await desk.city.order(bill, now=NOW)
    await desk.city.attempt(order, now=NOW)
    browser = await desk.citizen()
    desk.clock[0] = later(minutes=5)

    for path in ("/", "/fees", f"/fees/{bill.id}", f"/pay/{order.id}", f"/c/{desk.code(bill)}"):
        status, page, _ = await browser.get(path)

        assert status == 200, path
        assert 'data-seconds-left="600"' in page, path
        assert "约 10 分钟" in page, path
        if path in ("/", "/fees", f"/fees/{bill.id}"):
            assert f'href="/pay/{order.id}"' in page, path
    _, page, _ = await browser.get(f"/fees/{bill.id}")
    assert f'action="/fees/{bill.id}/pay"' not in page, "no second payment can be begun here"


async def test_two_tabs_end_in_one_order_and_the_second_is_told(desk: Desk, bill: Bill) -> None:
    browser = await desk.citizen()
    form = {"version": 1, "expected_fen": TOTAL}

    _, _, first = await browser.post(f"/fees/{bill.id}/pay", form)
    status, _, second = await browser.post(f"/fees/{bill.id}/pay", form)

    assert (status, second) == (303, f"{first}?told=open")
    _, page, _ = await browser.get(second)
    assert "不会重复扣款" in page
    assert await count("pay_order") == 1


async def test_changing_the_wallet_says_what_happens_if_the_old_code_is_paid_as_well(
    desk: Desk, bill: Bill
) -> None:
    browser = await desk.citizen()
    order = await desk.city.order(bill, now=NOW)
    wechat = {"channel": "wechat_pay", "scene": "native"}
    await browser.post(f"/pay/{order.id}/attempts", wechat)
    _, page, _ = await browser.get(f"/pay/{order.id}")
    assert "不要再用当前的付款码。万一两个都付了，多付的一笔会自动原路退回。" in page
    assert 'name="instead"' in page

    _, _, to = await browser.post(
        f"/pay/{order.id}/attempts", {"channel": "alipay", "scene": "precreate", "instead": "1"}
    )

    _, page, _ = await browser.get(to)
    assert "不要再用之前的付款码。万一两个都付了，多付的一笔会自动原路退回。" in page
    assert "作废" not in page
    assert await count("pay_attempt", "state in ('opening', 'open')") == 1


async def test_after_its_end_no_code_is_shown_while_the_channel_still_gives_no_answer(
    desk: Desk, bill: Bill
) -> None:
    order = await desk.city.order(bill, now=NOW)
    await desk.city.attempt(order, now=NOW)
    desk.city.wechat.trouble = dict.fromkeys(("query", "close"), UNKNOWN)
    desk.clock[0] = later(minutes=16)
    browser = await desk.citizen()

    try:
        _, page, _ = await browser.get(f"/pay/{order.id}")
    finally:
        desk.city.wechat.trouble = {}

    assert "付款时间已到" in page
    assert "请不要重复付款" in page
    assert 'aria-label="微信付款码"' not in page


# Over


async def test_a_cancelled_order_says_what_now_and_the_bill_leads_to_its_story(
    desk: Desk, bill: Bill
) -> None:
    browser = await desk.citizen()
    order = await desk.city.order(bill, now=NOW)
    await browser.post(f"/pay/{order.id}/cancel")

    _, page, _ = await browser.get(f"/pay/{order.id}")
    _, bill_page, _ = await browser.get(f"/fees/{bill.id}")

    assert "这次付款已取消" in page
    assert "您可以随时重新付款" in page
    assert "上一次付款：这次付款已取消" in bill_page
    assert f'href="/pay/{order.id}"' in bill_page
    assert f'action="/fees/{bill.id}/pay"' in bill_page


async def test_what_is_paid_by_a_code_left_unscanned_goes_back_as_the_page_said(
    desk: Desk, bill: Bill
) -> None:
    browser = await desk.citizen()
    order = await desk.city.order(bill, now=NOW)
    attempt = await desk.city.attempt(order, channel=Channel.ALIPAY, scene=Scene.PRECREATE, now=NOW)
    _, paying, _ = await browser.get(f"/pay/{order.id}")
    await browser.post(f"/pay/{order.id}/cancel")
    _, cancelled, _ = await browser.get(f"/pay/{order.id}")
    assert await count("pay_attempt", "state = 'abandoned'") == 1

    desk.city.alipay.pay(attempt.out_trade_no, at=NOW)
    await api.settle_batch(
        [api.from_report(desk.city.alipay.report(attempt.out_trade_no))], now=later(minutes=2)
    )

    for page in (paying, cancelled):
        assert "不要再用原来的付款码；万一用它付了款，钱会自动原路退回" in page
        assert "作废" not in page
    _, page, _ = await browser.get(f"/pay/{order.id}")
    assert "正在退款" in page or "自动原路退回" in page
    assert await count("pay_refund", f"amount_fen = {TOTAL} and state <> 'asked'") == 1


async def test_an_old_ending_is_no_news_but_money_under_review_stays_news(
    desk: Desk, bill: Bill
) -> None:
    browser = await desk.citizen()
    order = await desk.city.order(bill, now=NOW)
    await browser.post(f"/pay/{order.id}/cancel")
    desk.clock[0] = later(days=2)
    _, after_cancelling, _ = await (await desk.citizen()).get(f"/fees/{bill.id}")
    second = await desk.city.order(bill, now=later(minutes=1))
    attempt = await desk.city.attempt(second, now=later(minutes=1))
    desk.city.wechat.pay(attempt.out_trade_no, amount_fen=5)
    await api.settle_batch(
        [api.from_report(desk.city.wechat.report(attempt.out_trade_no))], now=later(minutes=2)
    )
    desk.clock[0] = later(days=9)
    browser = await desk.citizen()

    _, page, _ = await browser.get(f"/fees/{bill.id}")

    assert "去付款" in after_cancelling
    assert "上一次付款" not in after_cancelling
    assert "上一次付款：付款金额需要核实" in page
    assert "请不要重复付款" in page
    _, story, _ = await browser.get(f"/pay/{second.id}")
    assert "收到的金额" in story
    assert "0.05" in story
    assert "12345" in story, "a person to turn to"


async def test_the_wrong_sum_after_the_end_is_not_answered_with_pay_again(
    desk: Desk, bill: Bill
) -> None:
    order = await desk.city.order(bill, now=NOW)
    attempt = await desk.city.attempt(order, now=NOW)
    browser = await desk.citizen()
    await browser.post(f"/pay/{order.id}/cancel")
    desk.city.wechat.pay(attempt.out_trade_no, amount_fen=5)
    await api.settle_batch(
        [api.from_report(desk.city.wechat.report(attempt.out_trade_no))], now=later(minutes=1)
    )

    _, page, _ = await browser.get(f"/pay/{order.id}")
    stranger = await somebody_else(desk)
    foreign, _, _ = await stranger.get(f"/pay/{order.id}")

    assert "付款金额需要核实" in page
    assert "您可以随时重新付款" not in page
    assert foreign == 404
    (money,) = await api.set_aside_of(desk.city.person_id, order.id)
    assert (money.kind, money.amount_fen) == ("wrong_amount", 5)
    assert await api.set_aside_of(UUID(int=1), order.id) == []


async def test_money_settled_outside_is_told_as_settled_on_every_page(
    desk: Desk, bill: Bill
) -> None:
    order = await desk.city.order(bill, now=NOW)
    attempt = await desk.city.attempt(order, now=NOW)
    desk.city.wechat.pay(attempt.out_trade_no, amount_fen=5)
    await api.settle_batch(
        [api.from_report(desk.city.wechat.report(attempt.out_trade_no))], now=later(minutes=1)
    )
    (incident,) = await rows("select id from incident")
    wish = {"incident_id": UUID(str(incident["id"])), "believed_fen": 5, "now": later(minutes=2)}
    await api.ask_to_settle_outside(
        reason="已由基本户转账退还", document_no="江财支〔2026〕118号", by="maker", **wish
    )
    browser = await desk.citizen()
    _, reviewed, _ = await browser.get(f"/pay/{order.id}")

    await api.approve_settling_outside(by="checker", **wish)
    pages = [
        (await browser.get(path))[1]
        for path in (f"/pay/{order.id}", "/fees/history", f"/fees/{bill.id}")
    ]

    assert "核实中" in reviewed
    assert "已线下处理" not in reviewed
    for page in pages:
        assert "已线下处理" in page
        assert "核实" not in page
    assert "线下处理金额" in pages[0]
    assert "12345" in pages[0], "a person to turn to"
    assert "118号" not in pages[0], "the office's own papers"


async def test_late_money_settled_outside_is_no_refund_that_will_be_tried_again(
    desk: Desk, bill: Bill
) -> None:
    order = await desk.city.order(bill, now=NOW)
    attempt = await desk.city.attempt(order, now=NOW)
    browser = await desk.citizen()
    await browser.post(f"/pay/{order.id}/cancel")
    desk.city.wechat.pay(attempt.out_trade_no, at=NOW)
    await api.settle_batch(
        [api.from_report(desk.city.wechat.report(attempt.out_trade_no))], now=later(minutes=1)
    )
    desk.city.wechat.now = later(minutes=2)
    await jobs.send_refunds(desk.city.services, now=later(minutes=2))
    (row,) = await rows("select refund_no from pay_refund")
    await finish(desk, row["refund_no"], RefundStatus.CLOSED)
    (incident,) = await rows("select id from incident where kind = 'paid_after_close'")
    wish = {"incident_id": UUID(str(incident["id"])), "believed_fen": TOTAL, "now": later(hours=4)}
    await api.ask_to_settle_outside(reason="已转账", document_no="1号", by="maker", **wish)
    _, failed, _ = await browser.get(f"/pay/{order.id}")

    await api.approve_settling_outside(by="checker", **wish)
    _, page, _ = await browser.get(f"/pay/{order.id}")
    _, listed, _ = await browser.get("/fees/history")

    assert "会重新退给您" in failed
    assert "会重新退给您" not in page
    assert "这笔款项已线下处理" in page
    assert "已线下处理" in listed


async def test_money_after_the_end_is_told_from_on_its_way_back_to_returned(
    desk: Desk, bill: Bill
) -> None:
    order = await desk.city.order(bill, now=NOW)
    attempt = await desk.city.attempt(order, now=NOW)
    browser = await desk.citizen()
    await browser.post(f"/pay/{order.id}/cancel")
    desk.city.wechat.pay(attempt.out_trade_no, at=NOW)
    await api.settle_batch(
        [api.from_report(desk.city.wechat.report(attempt.out_trade_no))], now=later(minutes=1)
    )

    _, going, _ = await browser.get(f"/pay/{order.id}")
    desk.city.wechat.now = later(minutes=2)
    await jobs.send_refunds(desk.city.services, now=later(minutes=2))
    (row,) = await rows("select refund_no from pay_refund")
    await finish(desk, row["refund_no"])
    _, back, _ = await browser.get(f"/pay/{order.id}")

    assert "正在退款" in going
    assert "款项到账时这次缴费已经结束" in going
    assert "退款成功" in back
    assert "招商银行信用卡0403" in back
    assert "2099-03-01 13:00" in back, "three hours after ten in the morning in Beijing"


# Given back


async def test_a_part_given_back_stands_on_every_page_about_it(desk: Desk, bill: Bill) -> None:
    order = await paid(desk, bill)
    browser = await desk.citizen()
    number = await refund(desk, order, 8_000)
    _, going, _ = await browser.get(f"/pay/{order.id}")
    await finish(desk, number)

    _, page, _ = await browser.get(f"/pay/{order.id}")
    _, bill_page, _ = await browser.get(f"/fees/{bill.id}")
    _, receipts, _ = await browser.get(f"/receipts/{order.id}")
    _, history, _ = await browser.get("/fees/history")

    assert "正在退款" in going
    assert re.search(r"退款金额</span><br><strong class=\"big-money\">.*80\.00", going)
    assert "其中一部分已退款" in page
    assert "其中已退款" in bill_page
    assert receipts.count("已全部退款 ¥ 80.00") == 1, "the fee's receipt, and not the tax's"
    assert "部分退款" in history
    assert "已退 ¥\xa080.00" in history


async def test_a_bill_given_back_is_refunded_and_due_again_when_issued_anew(
    desk: Desk, bill: Bill
) -> None:
    order = await paid(desk, bill)
    browser = await desk.citizen()
    await finish(desk, await refund(desk, order, TOTAL))

    _, listed, _ = await browser.get("/fees")
    _, page, _ = await browser.get(f"/fees/{bill.id}")
    _, by_code, _ = await browser.get(f"/c/{desk.code(bill)}")
    _, receipts, _ = await browser.get(f"/receipts/{order.id}")
    await rows(
        "update bill set state = 'payable', version = 2, paid_version = null, paid_at = null"
        " where id = $1",
        bill.id,
    )
    _, again, _ = await browser.get(f"/fees/{bill.id}")

    assert "已退款" in listed
    assert "这笔费用已全部退款，现在不用缴" in page
    assert f'action="/fees/{bill.id}/pay"' not in page
    assert "这张账单已退款" in by_code
    assert "已全部退款" in receipts
    assert f'action="/fees/{bill.id}/pay"' in again
    assert "以前缴过，已经退款" in again


@pytest.mark.parametrize(
    ("status", "title"),
    [
        (RefundStatus.ABNORMAL, "退款没能退到原来的账户"),
        (RefundStatus.CLOSED, "这笔退款没有退成"),
    ],
)
async def test_a_refund_in_trouble_says_who_looks_after_it(
    desk: Desk, bill: Bill, status: RefundStatus, title: str
) -> None:
    order = await paid(desk, bill)
    await finish(desk, await refund(desk, order, 8_000), status)
    browser = await desk.citizen()

    _, page, _ = await browser.get(f"/pay/{order.id}")

    assert title in page
    assert "财务人员" in page
    assert 'href="tel:12345"' in page


# History


async def test_the_history_is_newest_first_in_bounded_pages_and_only_ones_own(
    desk: Desk, bill: Bill
) -> None:
    browser = await desk.citizen()
    orders = []
    for minute in range(12):
        order = await desk.city.order(bill, now=later(minutes=minute))
        await browser.post(f"/pay/{order.id}/cancel")
        orders.append(str(order.id))

    _, first, _ = await browser.get("/fees/history")
    _, second, _ = await browser.get("/fees/history?page=2")
    _, beyond, _ = await browser.get("/fees/history?page=999999")
    _, odd, _ = await browser.get("/fees/history?page=-1")
    _, foreign, _ = await (await somebody_else(desk)).get("/fees/history")

    listed = [re.findall(r'class="cell" href="/pay/([^"]+)"', page) for page in (first, second)]
    assert listed == [orders[:1:-1], orders[1::-1]]
    assert [('rel="prev"' in page, 'rel="next"' in page) for page in (first, second)] == [
        (False, True),
        (True, False),
    ]
    assert re.findall(r'class="cell" href="/pay/([^"]+)"', beyond) == listed[1]
    assert re.findall(r'class="cell" href="/pay/([^"]+)"', odd) == listed[0]
    assert "还没有缴费记录" in foreign


async def test_a_paid_order_tells_its_steps_in_order(desk: Desk, bill: Bill) -> None:
    order = await paid(desk, bill)
    await finish(desk, await refund(desk, order, 8_000))
    browser = await desk.citizen()

    _, page, _ = await browser.get(f"/pay/{order.id}")

    steps = re.findall(r'step-name">([^<]+)</span> <span class="step-word">([^<]+)', page)
    assert steps == [
        ("下单", "已完成"),
        ("付款", "已完成"),
        ("入账", "已完成"),
        ("凭据", "已生成"),
        ("退款", "已退款"),
    ]


# Receipts


def codes(page: str) -> list[tuple[str, str]]:
    """Receipt numbers and verification codes on a page of receipts."""
    numbers = re.findall(r"凭据号 ([\w-]+)", page)
    return list(zip(numbers, re.findall(r">((?:\w{4}-){3}\w{4})<", page), strict=True))


async def check(browser: Browser, number: str, code: str) -> tuple[int, str, str]:
    """What the page says of a number and a code."""
    _, page, _ = await browser.get("/verify")
    assert 'method="post" action="/verify"' in page
    token = re.search(r'name="csrf_token" value="([^"]*)"', page)
    assert token is not None
    form = {"csrf_token": token[1], "no": number, "code": code}
    return await browser.post("/verify", form)


async def test_each_receipt_has_a_code_of_its_own_that_anybody_can_have_checked(
    desk: Desk, bill: Bill
) -> None:
    order = await paid(desk, bill)
    _, page, _ = await (await desk.citizen()).get(f"/receipts/{order.id}")
    papers = codes(page)
    stranger = desk.browser()

    answers = [
        await check(stranger, number.lower(), code.lower().replace("-", ""))
        for number, code in papers
    ]

    assert len({code for _, code in papers}) == 2
    for split, (status, answer, _) in zip(order.splits, answers, strict=True):
        assert status == 200
        assert "凭据真实有效" in answer
        assert split.payee_name in answer
        assert f"{ANNA.name[:1]}**" in answer
        assert ANNA.name not in answer
        for secret in (order.order_no + "<", str(order.id), str(bill.id), bill.title):
            assert secret not in answer


async def test_a_receipt_says_what_was_paid_then_also_when_the_bill_is_another_payers_now(
    desk: Desk, bill: Bill
) -> None:
    order = await paid(desk, bill)
    await finish(desk, await refund(desk, order, TOTAL))
    await rows(
        "update bill set version = 2, state = 'payable', title = '新的账单', paid_at = null,"
        " paid_version = null, payer_id = gen_random_uuid() where id = $1 returning id",
        bill.id,
    )
    await rows(
        """insert into bill_item (id, bill_id, version, seq, code, name, payee_code, base_fen, rate,
               relief_fen, amount_fen, formula, legal_basis, note)
           select gen_random_uuid(), bill_id, 2, seq, 'vat', '增值税', payee_code, base_fen, rate,
               relief_fen, amount_fen, formula, legal_basis, note from bill_item
           where bill_id = $1 returning id""",
        bill.id,
    )

    status, page, _ = await (await desk.citizen()).get(f"/receipts/{order.id}")

    assert status == 200
    assert bill.title in page
    assert "已全部退款" in page
    assert "新的账单" not in page
    assert "增值税" not in page


async def test_a_receipt_printed_before_is_still_checked_by_its_link(
    desk: Desk, bill: Bill
) -> None:
    order = await paid(desk, bill)
    _, page, _ = await (await desk.citizen()).get(f"/receipts/{order.id}")
    number, code = codes(page)[0]

    _, answer, _ = await desk.browser().get(f"/verify?no={number}&code={code}")

    assert "凭据真实有效" in answer


def test_what_a_receipts_qr_code_says_stays_in_the_browser() -> None:
    address = verify_address("https://e.example", receipt_no="R1", code="7K2M-ZQ0V-9XCB-4T1D")

    sent = urlsplit(address)
    assert (sent.path, sent.query) == ("/verify", "")
    assert parse_qs(sent.fragment) == {"no": ["R1"], "code": ["7K2M-ZQ0V-9XCB-4T1D"]}


async def test_after_a_refund_the_check_says_so(desk: Desk, bill: Bill) -> None:
    order = await paid(desk, bill)
    browser = await desk.citizen()
    _, page, _ = await browser.get(f"/receipts/{order.id}")
    papers = codes(page)
    number = await refund(desk, order, 10_000)

    async def check_all() -> list[str]:
        return [(await check(browser, number, code))[1] for number, code in papers]

    before = await check_all()
    await finish(desk, number)
    after = await check_all()

    assert all("凭据真实有效" in answer for answer in before)
    whole, part = sorted(after, key=lambda answer: "其中一部分" in answer)
    assert "凭据真实，但已全部退款" in whole, "the registration fee goes back first"
    assert "凭据真实，其中一部分已退款" in part
    assert "20.00" in part


async def test_a_forged_code_and_an_unknown_number_get_the_same_answer(
    desk: Desk, bill: Bill
) -> None:
    order = await paid(desk, bill)
    split = order.splits[0]
    assert order.paid_at is not None
    said: dict[str, Any] = {
        "receipt_no": split.receipt_no,
        "payee_code": split.payee_code,
        "amount_fen": split.amount_fen,
        "paid_at": order.paid_at,
    }
    unpaid = await desk.city.order(await make_bill(desk.city.person_id, now=NOW), now=NOW)
    unpaid_no = unpaid.splits[0].receipt_no
    right = receipt_code(RECEIPT_KEY, **said)
    forged = [
        (split.receipt_no, receipt_code(bytes(32), **said)),
        (split.receipt_no, receipt_code(RECEIPT_KEY, **{**said, "amount_fen": 1})),
        (split.receipt_no, right[:-1]),
        (split.receipt_no, "0000-0000-0000-0000"),
        (order.splits[1].receipt_no, right),
        (unpaid_no, receipt_code(RECEIPT_KEY, **{**said, "receipt_no": unpaid_no})),
        ("NOSUCHRECEIPT", right),
        ("x" * 2_000, "y" * 2_000),
        ("\0", right),
    ]
    browser = desk.browser()

    answers = [await check(browser, number, code) for number, code in forged]

    assert {status for status, _, _ in answers} == {200}
    told = {re.sub(r'(value|nonce)="[^"]*"', "", page) for _, page, _ in answers}
    assert len(told) == 1, "not even how the code was wrong"
    (page,) = told
    assert "没有查到这张凭据" in page
    assert split.payee_name not in page


async def test_a_code_proves_nothing_of_a_receipt_whose_amount_was_changed_in_the_database(
    desk: Desk, bill: Bill
) -> None:
    order = await paid(desk, bill)
    _, page, _ = await (await desk.citizen()).get(f"/receipts/{order.id}")
    number, code = codes(page)[0]
    await rows("update pay_order_split set amount_fen = 1 where receipt_no = $1", number)

    _, answer, _ = await check(desk.browser(), number, code)

    assert "没有查到这张凭据" in answer


async def test_receipts_of_a_combined_payment_name_their_own_account_and_trade(
    database: str,
) -> None:
    combining = CombiningChannel(Channel.WECHAT_PAY)
    own = [FakeChannel(Channel.WECHAT_PAY, account) for account in MERCHANTS.values()]
    city = City(merchants=MERCHANTS, others=[combining, *own])
    async with open_desk(city) as desk:
        bill = await make_bill(city.person_id, now=NOW)
        order = await city.order(bill, now=NOW)
        attempt = await city.attempt(order, scene=Scene.NATIVE, now=NOW)
        combining.pay(attempt.out_trade_no)
        await api.settle_batch([api.from_report(combining.report(attempt.out_trade_no))], now=NOW)
        browser = await desk.citizen()

        _, page, _ = await browser.get(f"/receipts/{order.id}")
        path = f"/receipts/{order.id}/{order.splits[0].receipt_no}.pdf"
        async with browser.client.get(path) as answer:
            pdf = await answer.read()

    for turn, account in enumerate(sorted(MERCHANTS.values(), reverse=True), start=1):
        assert page.count(account.partition(":")[2]) == 1, account
        assert f"{attempt.out_trade_no}-{turn:02d}" in page
    assert COMBINING.partition(":")[2] not in page
    assert pdf.startswith(b"%PDF-")
