"""Refunds at Alipay: what we ask, and which word says that the money is back."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from aiohttp import web

from estation.outside.pay_channels import (
    Channel,
    ChannelRefused,
    ChannelState,
    ChannelUnknown,
    RefundRequest,
    RefundStatus,
    VerifiedNotice,
)
from estation.outside.pay_channels.alipay import Alipay
from estation.shared.clock import BEIJING
from tests.outside.counterparts import (
    APP_ID,
    NOW,
    alipay_channel,
    alipay_form,
    alipay_notice,
)
from tests.outside.listening import calling, listening
from tests.outside.test_alipay_calls import (
    OK,
    Desk,
    check_request,
    refused,
    right,
    unsigned,
)

NUMBER = "20260301ABCDEFGHJKMNPQRS"
TRADE = "2026030122001400010500000001"
REFUND = "alipay.trade.refund"
ASK = "alipay.trade.fastpay.refund.query"
REQUEST = RefundRequest(
    refund_no="RF20260302A",
    out_trade_no=NUMBER,
    channel_trade_no=TRADE,
    amount_fen=3000,
    total_fen=817524,
    reason="登记申请撤回，退还登记费",
    notify_url="https://e.example.cn/notices/alipay/2021000000000109",
)
AT = datetime(2026, 3, 1, 9, 59, 59, tzinfo=BEIJING)


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    async with listening() as there, calling() as session:
        yield Desk(alipay_channel(session, f"{there.base_url}/gateway.do"), there)


def given_back(**changes: str) -> dict[str, Any]:
    """The answer to REQUEST as the second refund of its trade."""
    return {
        **OK,
        "out_trade_no": NUMBER,
        "trade_no": TRADE,
        "buyer_logon_id": "lin***@example.com",
        "fund_change": "Y",
        "refund_fee": "80.00",
        "send_back_fee": "30.00",
        "gmt_refund_pay": "2026-03-01 09:59:59",
        **changes,
    }


def told(**changes: str) -> dict[str, Any]:
    return {
        **OK,
        "out_trade_no": NUMBER,
        "trade_no": TRADE,
        "out_request_no": REQUEST.refund_no,
        "refund_amount": "30.00",
        "total_amount": "8175.24",
        "refund_status": "REFUND_SUCCESS",
        "gmt_refund_pay": "2026-03-01 09:59:59",
        **changes,
    }


async def test_a_refund_always_carries_its_number(desk: Desk) -> None:
    desk.say(right(REFUND, given_back()))

    report = await desk.channel.refund(REQUEST)

    assert check_request(desk.there.heard[0], REFUND) == {
        "out_trade_no": NUMBER,
        "trade_no": TRADE,
        "refund_amount": "30.00",
        "out_request_no": "RF20260302A",
        "refund_reason": "登记申请撤回，退还登记费",
    }
    assert report.status is RefundStatus.SUCCESS
    assert (report.channel, report.account_id) == (Channel.ALIPAY, f"alipay:{APP_ID}")
    assert (report.out_trade_no, report.refund_no) == (NUMBER, "RF20260302A")
    # Ours, and not the 80.00 of all refunds of the trade.
    assert report.amount_fen == 3000
    assert report.at == AT
    assert report.received_account == "支付宝账户 lin***@example.com"


@pytest.mark.parametrize(
    "changes",
    [{"fund_change": "N"}, {"fund_change": ""}, {"gmt_refund_pay": ""}, {"fund_change": "y"}],
)
async def test_without_a_change_of_funds_nothing_is_proven_yet(
    desk: Desk, changes: dict[str, str]
) -> None:
    desk.say(right(REFUND, given_back(**changes)))

    report = await desk.channel.refund(REQUEST)

    assert report.status is RefundStatus.PROCESSING
    assert (report.amount_fen, report.at) == (None, None)


async def test_a_repeated_refund_is_the_same_request(desk: Desk) -> None:
    desk.say(
        right(REFUND, given_back()),
        right(REFUND, given_back(fund_change="N", send_back_fee="0.00")),
        right(ASK, told()),
    )

    first = await desk.channel.refund(REQUEST)
    again = await desk.channel.refund(REQUEST)
    found = await desk.channel.query_refund(REQUEST.refund_no, out_trade_no=NUMBER)

    one, two, _ = desk.there.heard
    assert one.body == two.body
    assert again.status is RefundStatus.PROCESSING
    assert (found.status, found.amount_fen, found.at) == (first.status, first.amount_fen, first.at)


@pytest.mark.parametrize(
    "changes",
    [
        {"out_trade_no": "OTHER"},
        {"refund_fee": "29.99"},
        {"refund_fee": "8175.25"},
        {"refund_fee": "1e3"},
        {"refund_fee": "-30.00"},
        {"gmt_refund_pay": "yesterday"},
    ],
)
async def test_an_answer_that_cannot_be_of_this_refund_is_unknown(
    desk: Desk, changes: dict[str, str]
) -> None:
    desk.say(right(REFUND, given_back(**changes)))

    with pytest.raises(ChannelUnknown):
        await desk.channel.refund(REQUEST)


@pytest.mark.parametrize(
    ("sub_code", "code"),
    [
        ("ACQ.TRADE_HAS_FINISHED", "ACQ.TRADE_HAS_FINISHED"),
        ("ACQ.TRADE_NOT_ALLOW_REFUND", "ACQ.TRADE_NOT_ALLOW_REFUND"),
        ("ACQ.REFUND_AMT_NOT_EQUAL_TOTAL", "ACQ.REFUND_AMT_NOT_EQUAL_TOTAL"),
        ("ACQ.REASON_TRADE_REFUND_FEE_ERR", "ACQ.REASON_TRADE_REFUND_FEE_ERR"),
        ("ACQ.DISCORDANT_REPEAT_REQUEST", "ACQ.DISCORDANT_REPEAT_REQUEST"),
        ("ACQ.TRADE_STATUS_ERROR", "ACQ.TRADE_STATUS_ERROR"),
        ("AQC.TRADE_STATUS_ERROR", "ACQ.TRADE_STATUS_ERROR"),
    ],
)
async def test_a_certain_no_is_a_refusal_with_its_code(
    desk: Desk, sub_code: str, code: str
) -> None:
    desk.say(refused(REFUND, sub_code))

    with pytest.raises(ChannelRefused) as raised:
        await desk.channel.refund(REQUEST)

    assert raised.value.code == code


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (refused(REFUND, "ACQ.SELLER_BALANCE_NOT_ENOUGH"), "NOT_ENOUGH"),
        (refused(REFUND, "AQC.SELLER_BALANCE_NOT_ENOUGH"), "NOT_ENOUGH"),
        (refused(REFUND, "ACQ.SYSTEM_ERROR"), "ACQ.SYSTEM_ERROR"),
        (refused(REFUND, "AQC.SYSTEM_ERROR"), "ACQ.SYSTEM_ERROR"),
        (refused(REFUND, "ACQ.REASON_TRADE_BEEN_FREEZEN"), "ACQ.REASON_TRADE_BEEN_FREEZEN"),
        (refused(REFUND, "ACQ.SOMETHING_NEW"), "ACQ.SOMETHING_NEW"),
        (refused(REFUND, "isv.invalid-signature", "40002"), "isv.invalid-signature"),
        (refused(REFUND, "aop.unknow-error", "20000"), "aop.unknow-error"),
        (refused(REFUND, "", "20000"), "20000"),
        (refused(REFUND, "", "10003"), "10003"),
        # The right words under a code that is not "business failed".
        (refused(REFUND, "ACQ.TRADE_HAS_FINISHED", "20000"), "ACQ.TRADE_HAS_FINISHED"),
        (
            unsigned('{"error_response":{"code":"40004","sub_code":"ACQ.TRADE_HAS_FINISHED"}}'),
            "ACQ.TRADE_HAS_FINISHED",
        ),
        (
            unsigned('{"alipay_trade_refund_response":{"code":"10000","fund_change":"Y"}}'),
            "10000",
        ),
        (web.Response(status=502), "HTTP_502"),
        (right(REFUND, given_back(), signer="stranger"), "UNVERIFIED"),
    ],
)
async def test_everything_else_is_unknown(desk: Desk, reply: web.Response, code: str) -> None:
    desk.say(reply)

    with pytest.raises(ChannelUnknown) as raised:
        await desk.channel.refund(REQUEST)

    assert raised.value.code == code
    assert len(desk.there.heard) == 1


async def test_a_query_tells_this_refunds_own_amount(desk: Desk) -> None:
    desk.say(right(ASK, told()))

    report = await desk.channel.query_refund(REQUEST.refund_no, out_trade_no=NUMBER)

    assert check_request(desk.there.heard[0], ASK) == {
        "out_trade_no": NUMBER,
        "out_request_no": "RF20260302A",
        "query_options": ["gmt_refund_pay"],
    }
    assert report.status is RefundStatus.SUCCESS
    assert (report.amount_fen, report.at) == (3000, AT)
    assert (report.out_trade_no, report.refund_no) == (NUMBER, "RF20260302A")


async def test_a_moment_that_is_not_told_is_the_moment_of_asking(desk: Desk) -> None:
    desk.say(right(ASK, told(gmt_refund_pay="")))

    report = await desk.channel.query_refund(REQUEST.refund_no, out_trade_no=NUMBER)

    assert (report.status, report.at) == (RefundStatus.SUCCESS, NOW)


@pytest.mark.parametrize(
    ("node", "status"),
    [
        (dict(OK), RefundStatus.NOT_FOUND),
        # An amount without a status is no refund.
        (told(refund_status=""), RefundStatus.NOT_FOUND),
        (told(refund_status="REFUND_PROCESSING"), RefundStatus.PROCESSING),
        (told(refund_status="REFUND_FAIL"), RefundStatus.NOT_FOUND),
    ],
)
async def test_only_success_is_money_given_back(
    desk: Desk, node: dict[str, Any], status: RefundStatus
) -> None:
    desk.say(right(ASK, node))

    report = await desk.channel.query_refund(REQUEST.refund_no, out_trade_no=NUMBER)

    assert report.status is status
    assert (report.amount_fen, report.at) == (None, None)


async def test_a_refund_of_a_trade_nobody_knows_is_not_found(desk: Desk) -> None:
    desk.say(refused(ASK, "ACQ.TRADE_NOT_EXIST"))

    report = await desk.channel.query_refund(REQUEST.refund_no, out_trade_no=NUMBER)

    assert report.status is RefundStatus.NOT_FOUND


@pytest.mark.parametrize(
    "reply",
    [
        right(ASK, told(out_request_no="RF_OTHER")),
        right(ASK, told(out_trade_no="OTHER")),
        right(ASK, told(refund_amount="")),
        right(ASK, told(refund_amount="0.00")),
        right(ASK, told(refund_status="REFUND_MAYBE")),
        refused(ASK, "ACQ.SYSTEM_ERROR"),
        refused(ASK, "ACQ.INVALID_PARAMETER"),
        right(ASK, told(), signer="stranger"),
    ],
)
async def test_a_query_answered_with_something_else_is_unknown(
    desk: Desk, reply: web.Response
) -> None:
    desk.say(reply)

    with pytest.raises(ChannelUnknown):
        await desk.channel.query_refund(REQUEST.refund_no, out_trade_no=NUMBER)


async def test_alipay_redirects_no_refund(desk: Desk) -> None:
    with pytest.raises(ChannelRefused) as raised:
        await desk.channel.redirect_refund("RF20260302A", channel_refund_no="")

    assert raised.value.code == "NOT_OFFERED"
    assert desk.there.heard == []


@pytest.mark.parametrize("name", ["lin@example.com", ""])
async def test_only_a_masked_name_is_shown(desk: Desk, name: str) -> None:
    desk.say(right(REFUND, given_back(buyer_logon_id=name)))

    report = await desk.channel.refund(replace(REQUEST, reason=""))

    assert report.received_account == "支付宝账户"
    assert check_request(desk.there.heard[0], REFUND)["refund_reason"] == "退款"


# Notices about refunds


@pytest.fixture(scope="module")
def channel() -> Alipay:
    return alipay_channel()


def opened(channel: Alipay, **changes: str) -> VerifiedNotice:
    return channel.open_notice(*alipay_form(alipay_notice(**changes)), now=NOW)


def after_refund(**changes: str) -> dict[str, str]:
    return {
        "refund_fee": "30.00",
        "gmt_refund": "2026-03-02 11:00:00.123",
        "out_biz_no": "RF20260302A",
        "notify_id": "2026030200222110002034200000000002",
        **changes,
    }


def test_trade_success_after_a_partial_refund_is_the_old_payment_and_news_of_the_refund(
    channel: Alipay,
) -> None:
    """D14."""
    paid = opened(channel)
    again = opened(channel, **after_refund())

    assert paid.refund is None
    assert paid.report is not None
    assert again.report is not None
    assert again.report.state is ChannelState.PAID
    assert (again.report.paid_fen, again.report.paid_at, again.report.channel_trade_no) == (
        paid.report.paid_fen,
        paid.report.paid_at,
        paid.report.channel_trade_no,
    )
    assert again.report.refunded_fen == 3000
    assert again.event_key != paid.event_key
    assert again.refund is not None
    assert (again.refund.refund_no, again.refund.out_trade_no) == ("RF20260302A", NUMBER)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"refund_fee": "8175.24", "trade_status": "TRADE_CLOSED"},
        {"refund_fee": "8175.24", "trade_status": "TRADE_CLOSED", "gmt_payment": ""},
        {"gmt_refund": ""},
        {"refund_fee": ""},
    ],
)
def test_a_sum_of_refunds_proves_no_single_one(channel: Alipay, changes: dict[str, str]) -> None:
    notice = opened(channel, **after_refund(**changes))

    assert notice.report is not None
    assert notice.report.state is ChannelState.PAID
    assert notice.refund is not None
    assert notice.refund.status is RefundStatus.PROCESSING
    assert (notice.refund.amount_fen, notice.refund.at) == (None, None)


@pytest.mark.parametrize("changes", [{"out_biz_no": "RF"}, {"refund_fee": "30.00"}])
def test_news_that_names_no_refund_tells_of_none(channel: Alipay, changes: dict[str, str]) -> None:
    assert opened(channel, **changes).refund is None


def test_a_number_longer_than_ours_can_be_is_kept_for_a_person(channel: Alipay) -> None:
    notice = opened(channel, **after_refund(out_biz_no="R" * 65))

    assert (notice.kind, notice.report, notice.refund) == ("UNREADABLE", None, None)


def test_every_piece_of_news_has_a_key_of_its_own_and_redeliveries_share_it(
    channel: Alipay,
) -> None:
    news = [
        {},
        after_refund(),
        after_refund(out_biz_no="RF20260302B", refund_fee="60.00"),
        after_refund(out_biz_no="RF20260302C", refund_fee="8175.24", trade_status="TRADE_CLOSED"),
        {"trade_status": "TRADE_FINISHED"},
    ]
    later = {"notify_id": "other", "notify_time": "2026-03-02 12:00:00"}

    keys = [opened(channel, **changes).event_key for changes in news]

    assert len(set(keys)) == len(news)
    assert keys == [opened(channel, **{**changes, **later}).event_key for changes in news]


def test_finished_is_paid(channel: Alipay) -> None:
    notice = opened(channel, trade_status="TRADE_FINISHED")

    assert notice.report is not None
    assert (notice.report.state, notice.report.paid_fen) == (ChannelState.PAID, 817524)
