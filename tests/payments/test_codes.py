"""A bill's code: one page for both wallets, for whoever holds it, and nothing beyond its bill."""

import asyncio
import base64
import hmac
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import uuid4

import pytest

from estation.fees.models import Bill
from estation.outside.gate.pay_codes import bill_no_of, is_code_of, pay_code
from estation.outside.pay_channels import RefundStatus
from estation.payments import api, jobs
from estation.payments.api import OrderState
from estation.payments.invariants import broken_invariants
from estation.payments.models import PayAttempt, PayOrder
from estation.shared.qr import qr_svg
from tests.identity.people import ANNA
from tests.payments.city import City, count, make_bill, rows
from tests.payments.pages import (
    IN_ALIPAY,
    IN_WECHAT,
    KEY,
    NOW,
    TELEPHONE,
    Browser,
    Desk,
    choices,
    field_of,
    open_desk,
)


def test_a_code_is_readable_and_made_for_one_bill_only() -> None:
    code = pay_code(KEY, bill_no="JF202611230001", source="jc-center", source_id="JF202611230001")

    assert code is not None
    assert re.fullmatch(r"JF202611230001-[0-9A-HJKMNP-TV-Z]{16}", code)
    assert bill_no_of(code) == "JF202611230001"
    assert is_code_of([KEY], code, source="jc-center", source_id="JF202611230001")
    assert not is_code_of([KEY], code, source="jc-center", source_id="JF202611230002")
    assert not is_code_of([KEY], code, source="other", source_id="JF202611230001")
    assert not is_code_of([b"x" * 32], code, source="jc-center", source_id="JF202611230001")


def test_source_and_source_id_cannot_be_shifted_into_each_other() -> None:
    one = pay_code(KEY, bill_no="B", source="ab", source_id="c")
    other = pay_code(KEY, bill_no="B", source="a", source_id="bc")

    assert one != other


def test_the_check_is_eighty_bits_of_the_published_mac() -> None:
    """By another way: Python's own base 32 of the first ten bytes, its letters exchanged."""
    mac = hmac.digest(KEY, b'["estation/pay-code/1", "jc-center", "1"]', "sha256")
    rfc, crockford = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
    expected = base64.b32encode(mac[:10]).decode().translate(str.maketrans(rfc, crockford))

    assert pay_code(KEY, bill_no="B", source="jc-center", source_id="1") == f"B-{expected}"


@pytest.mark.parametrize("bill_no", ["", "JF/1", "JF 1", "缴1", "J" * 33, "a.b"])
def test_a_number_that_no_address_should_carry_has_no_code(bill_no: str) -> None:
    assert pay_code(KEY, bill_no=bill_no, source="s", source_id="1") is None


@pytest.fixture
async def desk(database: str) -> AsyncIterator[Desk]:
    async with open_desk(City()) as desk:
        yield desk


@pytest.fixture
async def bill(desk: Desk) -> Bill:
    return await make_bill(desk.city.person_id, now=NOW)


async def begin(
    browser: Browser, base: str, channel: str = "wechat_pay", scene: str = "native"
) -> tuple[int, str, str]:
    """Tap one of the buttons of the page as it is now."""
    _, page, _ = await browser.get(base)
    form = {"channel": channel, "scene": scene}
    if 'name="version"' in page:
        form |= {name: field_of(page, name) for name in ("version", "expected_fen")}
    return await browser.post(f"{base}/attempts", form)


async def only_order() -> PayOrder:
    (order,) = await PayOrder.all()
    return order


async def live() -> PayAttempt:
    (attempt,) = await PayAttempt.filter(state__in=["opening", "open"])
    return attempt


async def test_the_page_shows_masked_data_only(desk: Desk, bill: Bill) -> None:
    status, page, _ = await desk.browser().get(f"/c/{desk.code(bill)}")

    assert status == 200
    assert bill.title in page
    assert "8,255.24" in page
    assert "林**" in page
    for secret in (ANNA.name, ANNA.id_no, ANNA.phone, str(bill.id), str(desk.city.person_id)):
        assert secret not in page


@pytest.mark.parametrize(
    ("agent", "first"),
    [(IN_ALIPAY, "wap"), (TELEPHONE, "h5"), ("", "native")],
)
async def test_the_page_offers_the_wallet_it_is_open_in(
    desk: Desk, bill: Bill, agent: str, first: str
) -> None:
    _, page, _ = await desk.browser(agent).get(f"/c/{desk.code(bill)}")

    assert choices(page)[0] == first
    assert {"native", "precreate"} <= set(choices(page))


async def test_inside_wechat_the_openid_is_fetched_without_a_login(desk: Desk, bill: Bill) -> None:
    base = f"/c/{desk.code(bill)}"
    browser = desk.browser(IN_WECHAT)

    end = await browser.come_from_wechat(base, "o-stranger")

    assert end == base
    _, page, _ = await browser.get(base)
    assert choices(page)[0] == "jsapi"
    assert (await begin(browser, base, scene="jsapi"))[2] == base
    number = (await live()).out_trade_no
    assert desk.city.wechat.trades[number].request.payer_openid == "o-stranger"
    assert "data-jsapi" in (await browser.get(base))[1]


@pytest.mark.parametrize("spoil", ["check", "number", "key", "short", "lower", "empty"])
async def test_a_code_we_did_not_make_is_not_found(desk: Desk, bill: Bill, spoil: str) -> None:
    code = desk.code(bill)
    forged = {
        "check": code[:-1] + ("0" if code[-1] != "0" else "1"),
        "number": f"B{'0' * 12}-{code[-16:]}",
        "key": desk.code(bill, key=b"y" * 32),
        "short": code[:-1],
        "lower": code.lower(),
        "empty": "-",
    }[spoil]
    browser = desk.browser()

    answers = [
        await browser.get(f"/c/{forged}"),
        await browser.get(f"/c/{forged}/status"),
        await browser.get(f"/c/{forged}/qr.svg"),
        await browser.post(f"/c/{forged}/attempts", {"channel": "alipay", "scene": "precreate"}),
        await browser.post(f"/c/{forged}/cancel"),
    ]

    assert {status for status, _, _ in answers} == {404}
    assert bill.title not in "".join(page for _, page, _ in answers)
    assert await count("pay_order") == 0


async def test_another_bills_check_does_not_open_this_bill(desk: Desk, bill: Bill) -> None:
    other = await make_bill(desk.city.person_id, now=NOW)

    mixed = f"{bill.bill_no}-{desk.code(other)[-16:]}"

    assert (await desk.browser().get(f"/c/{mixed}"))[0] == 404


async def test_a_payment_by_code_is_the_debtors_order_and_pays_the_bill(
    desk: Desk, bill: Bill
) -> None:
    base = f"/c/{desk.code(bill)}"
    payer = desk.browser()

    assert (await begin(payer, base))[::2] == (303, base)

    order = await only_order()
    assert order.payer_id == desk.city.person_id
    _, page, _ = await payer.get(base)
    assert "countdown" in page
    assert "二维码" in page
    assert ANNA.name not in page
    number = (await live()).out_trade_no
    desk.city.wechat.pay(number)
    await api.settle_batch([api.from_report(desk.city.wechat.report(number))], now=NOW)
    _, page, _ = await payer.get(base)
    assert "已缴清" in page
    assert "/receipts/" not in page
    assert await broken_invariants() == {}


async def test_the_code_leads_into_the_order_in_progress(desk: Desk, bill: Bill) -> None:
    debtor = await desk.citizen()
    _, page, to = await debtor.post(
        f"/fees/{bill.id}/pay", {"version": "1", "expected_fen": str(bill.total_fen)}
    )
    await debtor.post(f"{to}/attempts", {"channel": "wechat_pay", "scene": "native"})

    _, page, _ = await desk.browser().get(f"/c/{desk.code(bill)}")

    assert "countdown" in page
    assert await count("pay_order") == await count("pay_attempt") == 1


async def test_whoever_is_led_into_an_order_of_several_bills_is_told_so(
    desk: Desk, bill: Bill
) -> None:
    """Else the sum of all would stand under one bill's title as what is due on it."""
    other = await make_bill(desk.city.person_id, now=NOW)
    await desk.city.order(bill, other, now=NOW)

    _, page, _ = await desk.browser().get(f"/c/{desk.code(bill)}")

    assert "16,510.48" in page
    assert "连同缴款人的另外 1 张账单" in page
    assert other.bill_no not in page


async def test_two_holders_at_once_share_one_order_and_one_live_code(
    desk: Desk, bill: Bill
) -> None:
    base = f"/c/{desk.code(bill)}"

    await asyncio.gather(*(begin(desk.browser(), base) for _ in range(4)))

    assert await count("pay_order") == 1
    assert await count("pay_attempt", "state in ('opening', 'open')") == 1


async def test_a_wechat_ticket_is_not_shown_to_another_wechat_user(desk: Desk, bill: Bill) -> None:
    base = f"/c/{desk.code(bill)}"
    one, other = desk.browser(IN_WECHAT), desk.browser(IN_WECHAT)
    await one.come_from_wechat(base, "o-one")
    await other.come_from_wechat(base, "o-other")
    await begin(one, base, scene="jsapi")
    first = await live()

    _, page, _ = await other.get(base)
    assert "data-jsapi" not in page
    assert "另一位付款人" in page
    await other.post(f"{base}/attempts", {"channel": "wechat_pay", "scene": "jsapi"})

    second = await live()
    assert second.out_trade_no != first.out_trade_no
    assert "close" in desk.city.wechat.verbs(first.out_trade_no)
    assert desk.city.wechat.trades[second.out_trade_no].request.payer_openid == "o-other"
    assert "data-jsapi" in (await other.get(base))[1]


async def test_while_somebody_is_paying_the_code_starts_no_second_payment(
    desk: Desk, bill: Bill
) -> None:
    base = f"/c/{desk.code(bill)}"
    await begin(desk.browser(), base)
    desk.city.wechat.busy = True

    status, page, _ = await desk.browser().post(
        f"{base}/attempts", {"channel": "alipay", "scene": "precreate"}
    )

    assert status == 409
    assert "上一个付款码正在使用中" in page
    assert desk.city.alipay.asked == []
    assert await count("pay_attempt") == 1


async def test_a_bill_revised_meanwhile_is_shown_anew_and_not_begun(desk: Desk, bill: Bill) -> None:
    base = f"/c/{desk.code(bill)}"
    _, page, _ = await desk.browser().get(base)
    seen = {name: field_of(page, name) for name in ("version", "expected_fen")}
    await rows("update bill set version = 2, total_fen = total_fen + 1 where id = $1", bill.id)
    await rows("update bill_item set version = 2, amount_fen = amount_fen + (seq = 1)::int")

    status, page, _ = await desk.browser().post(
        f"{base}/attempts", {"channel": "wechat_pay", "scene": "native", **seen}
    )

    assert status == 409
    assert "8,255.25" in page
    assert "刚刚有更新" in page
    assert await count("pay_order") == 0


async def test_cancelling_by_code_ends_this_bills_order_only(desk: Desk, bill: Bill) -> None:
    other = await make_bill(desk.city.person_id, now=NOW)
    await begin(desk.browser(), f"/c/{desk.code(other)}")
    await begin(desk.browser(), f"/c/{desk.code(bill)}")

    status, _, to = await desk.browser().post(f"/c/{desk.code(bill)}/cancel")

    assert (status, to) == (303, f"/c/{desk.code(bill)}")
    (mine,) = await rows(
        "select o.state from pay_order o join pay_order_bill b on b.order_id = o.id"
        " where b.bill_id = $1",
        bill.id,
    )
    (others,) = await rows(
        "select o.state from pay_order o join pay_order_bill b on b.order_id = o.id"
        " where b.bill_id = $1",
        other.id,
    )
    assert (mine["state"], others["state"]) == ("closed", "open")
    _, page, _ = await desk.browser().get(f"/c/{desk.code(bill)}")
    assert "这次付款已取消" in page


async def test_money_that_could_not_be_applied_is_not_asked_for_twice(
    desk: Desk, bill: Bill
) -> None:
    """Who paid by code has no other page to learn from that the money is being looked at."""
    base = f"/c/{desk.code(bill)}"
    await begin(desk.browser(), base)
    number = (await live()).out_trade_no
    desk.city.wechat.pay(number, amount_fen=1)
    await api.settle_batch([api.from_report(desk.city.wechat.report(number))], now=NOW)

    _, page, _ = await desk.browser().get(base)

    assert "付款金额需要核实" in page
    assert "在此之前请不要重复付款" in page


async def test_money_settled_outside_is_told_as_settled_where_the_bill_may_be_paid_again(
    desk: Desk, bill: Bill
) -> None:
    base = f"/c/{desk.code(bill)}"
    await begin(desk.browser(), base)
    number = (await live()).out_trade_no
    desk.city.wechat.pay(number, amount_fen=1)
    await api.settle_batch([api.from_report(desk.city.wechat.report(number))], now=NOW)
    (incident,) = await rows("select id from incident")
    desk.clock[0] = NOW + timedelta(hours=30)
    wish = {"incident_id": incident["id"], "believed_fen": 1, "now": desk.clock[0]}
    _, reviewed, _ = await desk.browser().get(base)

    await api.ask_to_settle_outside(reason="已转账", document_no="118号", by="maker", **wish)
    await api.approve_settling_outside(by="checker", **wish)
    _, page, _ = await desk.browser().get(base)
    desk.clock[0] += timedelta(hours=2)
    _, later, _ = await desk.browser().get(base)

    assert "付款金额需要核实" in reviewed, "as long as it is looked at, however long"
    assert "这笔款项已线下处理" in page
    assert "核实" not in page
    assert "118号" not in page, "the office's own papers"
    assert "上一次付款" not in later
    assert await broken_invariants() == {}


@pytest.mark.parametrize(
    ("ends_as", "told"),
    [(RefundStatus.SUCCESS, "退款成功"), (RefundStatus.CLOSED, "这笔退款没有退成")],
)
async def test_late_money_is_told_from_on_its_way_to_its_true_end(
    desk: Desk, bill: Bill, ends_as: RefundStatus, told: str
) -> None:
    base = f"/c/{desk.code(bill)}"
    await begin(desk.browser(), base)
    number = (await live()).out_trade_no
    await desk.browser().post(f"{base}/cancel")
    desk.city.wechat.pay(number, at=NOW)
    desk.clock[0] = NOW + timedelta(minutes=2)
    report = desk.city.wechat.report(number)
    await api.settle_batch([api.from_report(report)], now=desk.clock[0])
    _, on_its_way, _ = await desk.browser().get(base)

    desk.city.wechat.now = desk.clock[0]
    await jobs.send_refunds(desk.city.services, now=desk.clock[0])
    (refund_no,) = desk.city.wechat.refunds
    news = api.from_refund(desk.city.wechat.finish(refund_no, ends_as, at=desk.clock[0]))
    await api.settle_batch([news], now=desk.clock[0])
    _, page, _ = await desk.browser().get(base)

    assert "正在退款" in on_its_way
    assert told in page
    assert "正在退款" not in page


async def test_a_refund_that_is_stuck_names_whom_to_turn_to(desk: Desk, bill: Bill) -> None:
    base = f"/c/{desk.code(bill)}"
    await begin(desk.browser(), base)
    number = (await live()).out_trade_no
    await desk.browser().post(f"{base}/cancel")
    desk.city.wechat.pay(number, at=NOW)
    await api.settle_batch([api.from_report(desk.city.wechat.report(number))], now=NOW)
    await jobs.send_refunds(desk.city.services, now=NOW)
    (refund_no,) = desk.city.wechat.refunds
    stuck = desk.city.wechat.finish(refund_no, RefundStatus.ABNORMAL, at=NOW)
    await api.settle_batch([api.from_refund(stuck)], now=NOW)
    debtor = await desk.citizen()

    pages = [(await desk.browser().get(base))[1], (await debtor.get(f"/fees/{bill.id}"))[1]]

    for page in pages:
        assert "也可以主动联系我们" in page
        assert 'href="tel:12345"' in page


async def test_who_pays_a_bill_that_was_withdrawn_meanwhile_reads_that_the_money_goes_back(
    desk: Desk, bill: Bill
) -> None:
    base = f"/c/{desk.code(bill)}"
    await begin(desk.browser(), base)
    number = (await live()).out_trade_no
    await rows("update bill set state = 'withdrawn' where id = $1", bill.id)
    desk.city.wechat.pay(number)
    await api.settle_batch([api.from_report(desk.city.wechat.report(number))], now=NOW)

    _, page, _ = await desk.browser().get(base)

    assert "请不要缴纳" in page
    assert "付款时账单已撤回" in page
    assert "钱会自动原路退回，不需要您申请" in page
    assert choices(page) == []


async def test_who_pays_what_was_paid_already_reads_that_the_money_goes_back(
    desk: Desk, bill: Bill
) -> None:
    """Two telephones before one printed code; one of them meets an Alipay code that lives on."""
    base = f"/c/{desk.code(bill)}"
    await begin(desk.browser(), base, channel="alipay", scene="precreate")
    second = (await live()).out_trade_no
    await begin(desk.browser(), base)
    first = (await live()).out_trade_no
    desk.city.wechat.pay(first)
    await api.settle_batch([api.from_report(desk.city.wechat.report(first))], now=NOW)
    _, paid, _ = await desk.browser().get(base)
    desk.city.alipay.pay(second)
    await api.settle_batch([api.from_report(desk.city.alipay.report(second))], now=NOW)

    _, page, _ = await desk.browser().get(base)
    await jobs.send_refunds(desk.city.services, now=NOW)
    (refund_no,) = desk.city.alipay.refunds
    done = desk.city.alipay.finish(refund_no, RefundStatus.SUCCESS, at=NOW)
    await api.settle_batch([api.from_refund(done)], now=NOW)
    _, given_back, _ = await desk.browser().get(base)
    desk.clock[0] = NOW + timedelta(hours=2)
    _, later, _ = await desk.browser().get(base)

    assert "另有一次付款" not in paid
    assert "已缴清" in page
    assert "同一笔费用付了两次。多付的一笔会自动原路退回" in page
    assert "另有一次付款：退款成功" in given_back
    assert "已缴清" in later
    assert "另有一次付款" not in later
    assert await broken_invariants() == {}


@pytest.mark.parametrize(("agent", "has_code"), [("", True), (TELEPHONE, True), (IN_ALIPAY, False)])
async def test_outside_both_wallets_the_page_shows_the_code_that_either_of_them_opens(
    desk: Desk, bill: Bill, agent: str, has_code: bool
) -> None:
    base = f"/c/{desk.code(bill)}"

    _, page, _ = await desk.browser(agent).get(base)

    own = str(qr_svg(f"http://{desk.host}{base}", "缴费码"))
    assert (own in page) is has_code
    assert {"native", "precreate"} <= set(choices(page))
    assert await count("pay_attempt") == 0


async def test_an_order_past_its_end_makes_room_for_a_new_one(desk: Desk, bill: Bill) -> None:
    base = f"/c/{desk.code(bill)}"
    await begin(desk.browser(), base)
    desk.clock[0] = NOW + timedelta(minutes=16)

    await begin(desk.browser(), base)

    states = sorted([str(order.state) for order in await PayOrder.all()])
    assert states == [OrderState.CLOSED, OrderState.OPEN]


async def test_a_form_from_another_site_is_refused(desk: Desk, bill: Bill) -> None:
    status, _, _ = await desk.browser().post(
        f"/c/{desk.code(bill)}/attempts",
        {"channel": "wechat_pay", "scene": "native", "version": "1", "expected_fen": "1"},
        origin="http://evil.example",
    )

    assert status == 403
    assert await count("pay_order") == 0


async def test_a_withdrawn_bill_says_so_and_offers_nothing(desk: Desk, bill: Bill) -> None:
    await rows("update bill set state = 'withdrawn' where id = $1", bill.id)

    _, page, _ = await desk.browser().get(f"/c/{desk.code(bill)}")

    assert "不用缴" in page
    assert choices(page) == []


async def test_the_code_page_tells_htmx_when_to_load_it_again(desk: Desk, bill: Bill) -> None:
    base = f"/c/{desk.code(bill)}"
    browser = desk.browser()
    await begin(browser, base)
    attempt = await live()

    same = await browser.get(f"{base}/status?attempt={attempt.id}&words=waiting")
    other = await browser.get(f"{base}/status?attempt=x&words=waiting")
    desk.city.wechat.pay(attempt.out_trade_no)
    await api.settle_batch(
        [api.from_report(desk.city.wechat.report(attempt.out_trade_no))], now=NOW
    )
    paid = await browser.get(f"{base}/status?attempt={attempt.id}&words=waiting")

    assert (same[0], same[2]) == (204, "")
    assert other[2] == f"{base}?told=changed"
    assert paid[2] == base


async def test_alipays_page_brings_the_payer_back_to_the_code(desk: Desk, bill: Bill) -> None:
    base = f"/c/{desk.code(bill)}"

    await begin(desk.browser(IN_ALIPAY), base, "alipay", "wap")

    request = desk.city.alipay.trades[(await live()).out_trade_no].request
    assert request.return_url == f"http://{desk.host}{base}"


async def test_the_debtor_shows_the_code_and_it_opens_the_bill(desk: Desk, bill: Bill) -> None:
    debtor = await desk.citizen()

    status, page, _ = await debtor.get(f"/fees/{bill.id}/code")

    assert status == 200
    assert f"http://{desk.host}/c/{desk.code(bill)}" in page
    assert "<svg" in page
    assert f"/fees/{bill.id}/code" in (await debtor.get(f"/fees/{bill.id}"))[1]


async def test_nobody_else_can_have_the_code_made(desk: Desk) -> None:
    others = await make_bill(uuid4(), now=NOW)

    assert (await (await desk.citizen()).get(f"/fees/{others.id}/code"))[0] == 404
    assert (await desk.browser().get(f"/fees/{others.id}/code"))[0] == 303
