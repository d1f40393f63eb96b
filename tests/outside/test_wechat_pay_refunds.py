"""Giving money back through WeChat Pay: asked once, never twice, and only certain noes are noes."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web

from estation.outside.pay_channels import (
    Channel,
    ChannelRefused,
    ChannelState,
    ChannelUnknown,
    NoticeRejected,
    RefundRequest,
    RefundStatus,
    VerifiedNotice,
)
from tests.outside.counterparts import (
    MCHID,
    NOW,
    WechatNotice,
    refund,
    transaction,
    wechat_pay_channel,
)
from tests.outside.listening import calling, listening
from tests.outside.wechat_desk import Desk, check_authorization, right, wrong

REQUEST = RefundRequest(
    refund_no="R20260301ABCDEFGHJKMNPQ-1",
    out_trade_no="20260301ABCDEFGHJKMNPQRS",
    channel_trade_no="4200002026030112345678901234",
    amount_fen=8175,
    total_fen=817524,
    reason="契税多缴退还",
    notify_url="https://e.example.cn/notices/wechat-pay/1900000109",
)
PATH = "/wechat-pay/v3/refund/domestic/refunds"


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    async with listening() as there, calling() as session:
        yield Desk(wechat_pay_channel(session, f"{there.base_url}/wechat-pay"), there)


def answered(status: str = "PROCESSING", **changes: Any) -> web.Response:
    """As the interface answers: it names no merchant, and the state `status`."""
    amount = {**refund()["amount"], "currency": "CNY", "settlement_refund": 8175, "from": []}
    answer = {**refund(amount=amount), "status": status, "channel": "ORIGINAL", **changes}
    for field in ("mchid", "refund_status", *([] if status == "SUCCESS" else ["success_time"])):
        answer.pop(field, None)
    return right(answer)


async def test_a_refund_is_asked_for_with_its_currency_and_signed(desk: Desk) -> None:
    desk.say(answered())

    report = await desk.channel.refund(REQUEST)

    (heard,) = desk.heard
    check_authorization(heard)
    assert (heard.method, heard.target) == ("POST", PATH)
    assert json.loads(heard.body) == {
        "out_trade_no": REQUEST.out_trade_no,
        "out_refund_no": REQUEST.refund_no,
        "reason": "契税多缴退还",
        "notify_url": REQUEST.notify_url,
        "amount": {"refund": 8175, "total": 817524, "currency": "CNY"},
    }
    assert report.status is RefundStatus.PROCESSING
    assert (report.channel, report.account_id) == (Channel.WECHAT_PAY, f"wechat_pay:{MCHID}")
    assert report.channel_refund_no == "50000000382019052709732678859"
    assert report.amount_fen == 8175
    assert report.at is None


async def test_the_reason_fits_wechats_eighty_bytes(desk: Desk) -> None:
    desk.say(answered())

    await desk.channel.refund(replace(REQUEST, reason="退" * 100))

    assert json.loads(desk.heard[0].body)["reason"] == "退" * 26


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("PROCESSING", RefundStatus.PROCESSING),
        ("SUCCESS", RefundStatus.SUCCESS),
        ("CLOSED", RefundStatus.CLOSED),
        ("ABNORMAL", RefundStatus.ABNORMAL),
    ],
)
async def test_query_tells_the_refunds_state(desk: Desk, word: str, expected: RefundStatus) -> None:
    desk.say(answered(word))

    report = await desk.channel.query_refund(REQUEST.refund_no, out_trade_no=REQUEST.out_trade_no)

    assert desk.heard[0].target == f"{PATH}/{REQUEST.refund_no}"
    assert report.status is expected
    assert report.amount_fen == 8175
    assert report.received_account == "招商银行信用卡0403"
    arrived = datetime(2026, 3, 1, 1, 59, 58, tzinfo=UTC)
    assert report.at == (arrived if expected is RefundStatus.SUCCESS else None)


@pytest.mark.parametrize("code", ["RESOURCE_NOT_EXISTS", "RESOURCENOTEXISTS"])
async def test_a_refund_number_nobody_knows_is_not_found(desk: Desk, code: str) -> None:
    desk.say(wrong(404, code))

    report = await desk.channel.query_refund("R1", out_trade_no=REQUEST.out_trade_no)

    assert report.status is RefundStatus.NOT_FOUND
    assert report.amount_fen is None


async def test_a_refund_number_with_signs_is_encoded_once_and_signed_so(desk: Desk) -> None:
    desk.say(answered(out_refund_no="R|1*@"))

    await desk.channel.query_refund("R|1*@", out_trade_no=REQUEST.out_trade_no)

    check_authorization(desk.heard[0])
    assert desk.heard[0].target == f"{PATH}/R%7C1%2A%40"


@pytest.mark.parametrize(
    ("status", "code", "expected", "told"),
    [
        (400, "PARAM_ERROR", ChannelRefused, "PARAM_ERROR"),
        (400, "PARAMERROR", ChannelRefused, "PARAMERROR"),
        (403, "USER_ACCOUNT_ABNORMAL", ChannelRefused, "USER_ACCOUNT_ABNORMAL"),
        (403, "NO_AUTH", ChannelRefused, "NO_AUTH"),
        (403, "NOAUTH", ChannelRefused, "NOAUTH"),
        (404, "MCH_NOT_EXISTS", ChannelRefused, "MCH_NOT_EXISTS"),
        (404, "RESOURCE_NOT_EXISTS", ChannelRefused, "RESOURCE_NOT_EXISTS"),
        # Not now: the same number again when the merchant's balance allows it.
        (403, "NOT_ENOUGH", ChannelUnknown, "NOT_ENOUGH"),
        (403, "NOTENOUGH", ChannelUnknown, "NOT_ENOUGH"),
        # It may have happened, or is ours to mend and goes through afterwards.
        (401, "SIGN_ERROR", ChannelUnknown, "SIGN_ERROR"),
        (429, "FREQUENCY_LIMITED", ChannelUnknown, "FREQUENCY_LIMITED"),
        (500, "SYSTEM_ERROR", ChannelUnknown, "SYSTEM_ERROR"),
        (500, "PARAM_ERROR", ChannelUnknown, "PARAM_ERROR"),
        (404, "SOMETHING_NEW", ChannelUnknown, "SOMETHING_NEW"),
        (202, "USERPAYING", ChannelUnknown, "HTTP_202"),
    ],
)
@pytest.mark.parametrize("action", ["refund", "redirect"])
async def test_only_a_certain_no_refuses_a_refund(
    desk: Desk, action: str, status: int, code: str, expected: type[Exception], told: str
) -> None:
    desk.say(wrong(status, code))

    if action == "refund":
        asking = desk.channel.refund(REQUEST)
    else:
        asking = desk.channel.redirect_refund("R1", channel_refund_no="5000")

    with pytest.raises(expected) as raised:
        await asking

    assert isinstance(raised.value, ChannelRefused | ChannelUnknown)
    assert raised.value.code == told
    assert len(desk.heard) == 1


async def test_too_much_is_refused_once_no_refund_of_that_number_is_known(desk: Desk) -> None:
    desk.say(wrong(400, "INVALID_REQUEST"), wrong(404, "RESOURCE_NOT_EXISTS"))

    with pytest.raises(ChannelRefused) as raised:
        await desk.channel.refund(REQUEST)

    assert raised.value.code == "INVALID_REQUEST"


async def test_an_invalid_repeat_of_a_refund_that_happened_is_that_refund(desk: Desk) -> None:
    desk.say(wrong(400, "INVALID_REQUEST"), answered("SUCCESS"))

    assert (await desk.channel.refund(REQUEST)).status is RefundStatus.SUCCESS


@pytest.mark.parametrize(
    "other",
    [
        {"out_trade_no": "20260301SOMETHINGELSE"},
        {"amount": {"refund": 1, "total": 817524, "currency": "CNY"}},
    ],
)
@pytest.mark.parametrize("first", [None, wrong(400, "INVALID_REQUEST")])
async def test_a_number_used_for_another_refund_is_never_this_one(
    desk: Desk, first: web.Response | None, other: dict[str, Any]
) -> None:
    desk.say(*([first] if first else []), answered("SUCCESS", **other))

    with pytest.raises(ChannelUnknown) as raised:
        await desk.channel.refund(REQUEST)

    assert raised.value.code == "REFUND_NO_USED"


@pytest.mark.parametrize(
    "change",
    [
        {"out_refund_no": "R-other"},
        {"status": "SOMETHING_NEW"},
        {"status": None},
        {"amount": None},
        {"amount": {"refund": 8175.0, "total": 817524}},
        {"amount": {"refund": 0, "total": 817524}},
        {"amount": {"refund": 8175, "total": 0}},
        {"amount": {"refund": 8175, "total": 8174}},
        {"amount": {"refund": 8175, "total": 817524, "currency": "USD"}},
        {"refund_id": None},
        {"success_time": "yesterday"},
        {"mchid": "1900000110"},
    ],
)
async def test_a_signed_answer_that_is_not_about_this_refund_is_unknown(
    desk: Desk, change: dict[str, Any]
) -> None:
    body = {**refund(), "status": "SUCCESS", **change}
    desk.say(right(body))

    with pytest.raises(ChannelUnknown):
        await desk.channel.refund(REQUEST)


async def test_an_unsigned_success_is_no_refund(desk: Desk) -> None:
    desk.say(web.json_response({**refund(), "status": "SUCCESS"}))

    with pytest.raises(ChannelUnknown) as raised:
        await desk.channel.refund(REQUEST)

    assert raised.value.code == "UNVERIFIED"
    bodies = {heard.body for heard in desk.heard}
    assert len(bodies) == 1  # Asked twice, under one number.


async def test_a_refund_whose_account_is_gone_goes_to_the_merchants_card(desk: Desk) -> None:
    desk.say(answered("PROCESSING"))

    report = await desk.channel.redirect_refund(REQUEST.refund_no, channel_refund_no="5000/1")

    (heard,) = desk.heard
    check_authorization(heard)
    assert heard.target == f"{PATH}/5000%2F1/apply-abnormal-refund"
    assert json.loads(heard.body) == {
        "out_refund_no": REQUEST.refund_no,
        "type": "MERCHANT_BANK_CARD",
    }
    assert report.status is RefundStatus.PROCESSING
    assert report.out_trade_no == REQUEST.out_trade_no


async def test_redirecting_again_tells_what_became_of_it(desk: Desk) -> None:
    desk.say(wrong(400, "INVALID_REQUEST"), answered("SUCCESS"))

    report = await desk.channel.redirect_refund(REQUEST.refund_no, channel_refund_no="5000")

    assert report.status is RefundStatus.SUCCESS


@pytest.mark.parametrize("state", [answered("ABNORMAL"), wrong(404, "RESOURCE_NOT_EXISTS")])
async def test_a_refund_that_cannot_be_redirected_is_refused(
    desk: Desk, state: web.Response
) -> None:
    desk.say(wrong(400, "INVALID_REQUEST"), state)

    with pytest.raises(ChannelRefused):
        await desk.channel.redirect_refund(REQUEST.refund_no, channel_refund_no="5000")


def opened(plaintext: dict[str, Any], kind: str = "REFUND.SUCCESS") -> VerifiedNotice:
    headers, body = WechatNotice(plaintext, event_type=kind).sent()
    return wechat_pay_channel().open_notice(headers, body, now=NOW)


def test_news_of_a_refund_names_it() -> None:
    notice = opened(refund())

    assert (notice.kind, notice.out_trade_no) == ("REFUND.SUCCESS", "20260301ABCDEFGHJKMNPQRS")
    assert notice.report is None
    assert notice.refund is not None
    assert notice.refund.status is RefundStatus.SUCCESS
    assert notice.refund.refund_no == REQUEST.refund_no
    assert notice.refund.amount_fen == 8175
    assert notice.refund.at == datetime(2026, 3, 1, 1, 59, 58, tzinfo=UTC)
    assert notice.refund.account_id == f"wechat_pay:{MCHID}"


def test_money_that_is_back_is_not_lost_for_want_of_its_moment() -> None:
    notice = opened(refund(success_time=None))

    assert notice.refund is not None
    assert notice.refund.status is RefundStatus.SUCCESS
    assert notice.refund.at == NOW


def test_the_state_in_the_news_counts_not_its_title() -> None:
    notice = opened(refund(refund_status="ABNORMAL", success_time=None), "REFUND.SUCCESS")

    assert notice.refund is not None
    assert notice.refund.status is RefundStatus.ABNORMAL


def test_the_same_refund_news_again_has_the_same_key() -> None:
    assert opened(refund()).event_key == opened(refund()).event_key
    assert opened(refund()).event_key != opened(refund(refund_status="CLOSED")).event_key
    assert opened(refund()).event_key != opened(refund(out_refund_no="R2")).event_key


def test_a_refund_state_nobody_knew_is_kept_without_a_word_on_money() -> None:
    notice = opened(refund(refund_status="SOMETHING_NEW"))

    assert (notice.refund, notice.report, notice.kind) == (None, None, "REFUND.SUCCESS")


@pytest.mark.parametrize(
    "change",
    [
        {"amount": None},
        {"amount": {"refund": 8175, "total": 0}},
        {"amount": {"refund": -1, "total": 817524}},
        {"amount": {"refund": True, "total": 817524}},
        {"amount": {"refund": 817525, "total": 817524}},
        {"success_time": 1772330400},
        {"out_refund_no": None},
        {"out_refund_no": "R'; drop table"},
        {"refund_status": None},
        {"out_trade_no": None},
    ],
)
def test_unreadable_refund_news_is_kept_for_a_person(change: dict[str, Any]) -> None:
    notice = opened(refund(**change))

    assert (notice.refund, notice.report, notice.kind) == (None, None, "UNREADABLE")


@pytest.mark.parametrize("mchid", ["1900000110", None, 1900000109])
def test_news_of_somebody_elses_refund_is_refused(mchid: object) -> None:
    with pytest.raises(NoticeRejected, match="wrong_addressee"):
        opened(refund(mchid=mchid))


async def test_an_order_with_refunds_was_paid_all_the_same(desk: Desk) -> None:
    desk.say(right(transaction(trade_state="REFUND")))

    report = await desk.channel.query(REQUEST.out_trade_no)

    assert report.state is ChannelState.PAID
    assert report.paid_fen == 817524
