"""Combined orders (合单): one payment, several of our merchants."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web

from estation.outside.pay_channels import (
    Channel,
    ChannelRefused,
    ChannelState,
    ChannelUnknown,
    CloseOutcome,
    NoticeRejected,
    PaymentPart,
    PaymentRequest,
    RefundRequest,
    ReportPart,
    Scene,
    VerifiedNotice,
)
from tests.outside.counterparts import (
    APPID,
    COMBINE_MCHID,
    NOW,
    WechatNotice,
    combined_channel,
    combined_order,
    refund,
    sub_order,
    transaction,
    verify,
    wechat_pay_channel,
)
from tests.outside.listening import calling, listening
from tests.outside.wechat_desk import Desk, check_authorization, right, wrong

NUMBER = "20260301ABCDEFGHJKMNPQRS"
PARTS = (
    PaymentPart("wechat_pay:1900000111", f"{NUMBER}-1", 800000, "契税`"),
    PaymentPart("wechat_pay:1900000112", f"{NUMBER}-2", 17524, "登记费"),
)
REQUEST = PaymentRequest(
    out_trade_no=NUMBER,
    amount_fen=817524,
    description="契税、登记费",
    expires_at=NOW + timedelta(minutes=15),
    notify_url="https://e.example.cn/notices/wechat-pay/1900000100",
    payer_openid="oUpF8uMuAJO_M2pxb1Q9zNjWeS6o",
    payer_ip="203.0.113.7",
    parts=PARTS,
)
PATH = "/wechat-pay/v3/combine-transactions"


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    async with listening() as there, calling() as session:
        yield Desk(combined_channel(session, f"{there.base_url}/wechat-pay"), there)


async def test_a_native_order_lists_every_payee_and_the_exact_sums(desk: Desk) -> None:
    desk.say(right({"code_url": "weixin://wxpay/bizpayurl?pr=p4lpSuKzz"}))

    ticket = await desk.channel.open_payment(Scene.NATIVE, REQUEST)

    assert ticket.qr_content == "weixin://wxpay/bizpayurl?pr=p4lpSuKzz"
    (heard,) = desk.heard
    check_authorization(heard, mchid=COMBINE_MCHID)
    assert (heard.method, heard.target) == ("POST", f"{PATH}/native")
    assert json.loads(heard.body) == {
        "combine_appid": APPID,
        "combine_mchid": COMBINE_MCHID,
        "combine_out_trade_no": NUMBER,
        "sub_orders": [
            {
                "mchid": "1900000111",
                "attach": NUMBER,
                "amount": {"total_amount": 800000, "currency": "CNY"},
                "out_trade_no": f"{NUMBER}-1",
                "description": "契税",
            },
            {
                "mchid": "1900000112",
                "attach": NUMBER,
                "amount": {"total_amount": 17524, "currency": "CNY"},
                "out_trade_no": f"{NUMBER}-2",
                "description": "登记费",
            },
        ],
        "time_expire": "2026-03-01T10:15:00+08:00",
        "notify_url": REQUEST.notify_url,
        "scene_info": {"payer_client_ip": "203.0.113.7"},
    }


async def test_jsapi_is_signed_under_the_combining_appid(desk: Desk) -> None:
    desk.say(right({"prepay_id": "wx201410272009395522657a690389285100"}))

    ticket = await desk.channel.open_payment(Scene.JSAPI, REQUEST)

    assert desk.heard[0].target == f"{PATH}/jsapi"
    body = json.loads(desk.heard[0].body)
    assert body["combine_payer_info"] == {"openid": REQUEST.payer_openid}
    parameters = ticket.jsapi_parameters
    assert parameters is not None
    lines = [parameters[name] for name in ("appId", "timeStamp", "nonceStr", "package")]
    verify("merchant", "".join(f"{line}\n" for line in lines).encode(), parameters["paySign"])
    assert parameters["appId"] == APPID


@pytest.mark.parametrize("scene", [Scene.H5, Scene.MINI_PROGRAM, Scene.WAP])
async def test_other_scenes_have_no_combined_orders(desk: Desk, scene: Scene) -> None:
    with pytest.raises(ValueError, match="scene"):
        await desk.channel.open_payment(scene, REQUEST)

    assert desk.heard == []


@pytest.mark.parametrize(
    "change",
    [
        {"parts": ()},
        {"parts": PARTS[:1], "amount_fen": 800000},
        {"amount_fen": 817525},
        {"parts": (PARTS[0], replace(PARTS[1], account_id="wechat_pay:1900000199"))},
        {"parts": (replace(PARTS[0], amount_fen=817525), replace(PARTS[1], amount_fen=-1))},
        {"parts": PARTS * 26, "amount_fen": 817524 * 26},
    ],
)
async def test_parts_that_are_not_the_whole_are_not_sent(
    desk: Desk, change: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="part"):
        await desk.channel.open_payment(Scene.NATIVE, replace(REQUEST, **change))

    assert desk.heard == []


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (400, "PARAM_ERROR", ChannelRefused),
        (400, "ORDERCLOSED", ChannelRefused),
        (403, "RULELIMIT", ChannelRefused),
        (403, "OUT_TRADE_NO_USED", ChannelUnknown),
        (400, "INVALID_REQUEST", ChannelUnknown),
        (500, "SYSTEM_ERROR", ChannelUnknown),
    ],
)
async def test_only_a_certain_no_is_a_refusal(
    desk: Desk, status: int, code: str, expected: type[Exception]
) -> None:
    desk.say(wrong(status, code))

    with pytest.raises(expected):
        await desk.channel.open_payment(Scene.NATIVE, REQUEST)


async def test_query_tells_the_whole_and_each_part(desk: Desk) -> None:
    desk.say(right(combined_order()))

    report = await desk.channel.query(NUMBER)

    check_authorization(desk.heard[0], mchid=COMBINE_MCHID)
    assert desk.heard[0].target == f"{PATH}/out-trade-no/{NUMBER}"  # Without ?mchid=.
    assert (report.channel, report.account_id) == (
        Channel.WECHAT_PAY,
        f"wechat_combine:{COMBINE_MCHID}",
    )
    assert report.state is ChannelState.PAID
    assert report.out_trade_no == report.channel_trade_no == NUMBER
    assert report.paid_fen == 817524
    assert report.paid_at == datetime(2026, 3, 1, 1, 59, 59, 120000, tzinfo=UTC)
    assert report.parts == (
        ReportPart(
            "wechat_pay:1900000111",
            f"{NUMBER}-1",
            ChannelState.PAID,
            "4200002026030112345678901235",
            800000,
            datetime(2026, 3, 1, 1, 59, 58, 120000, tzinfo=UTC),
        ),
        ReportPart(
            "wechat_pay:1900000112",
            f"{NUMBER}-2",
            ChannelState.PAID,
            "4200002026030112345678901236",
            17524,
            datetime(2026, 3, 1, 1, 59, 59, 120000, tzinfo=UTC),
        ),
    )


@pytest.mark.parametrize(
    ("states", "expected", "paid_fen"),
    [
        (("NOTPAY", "NOTPAY"), ChannelState.NOT_PAID, None),
        (("USERPAYING", "NOTPAY"), ChannelState.PAYING, None),
        (("CLOSED", "CLOSED"), ChannelState.CLOSED, None),
        (("CLOSED", "NOTPAY"), ChannelState.NOT_PAID, None),
        (("SUCCESS", "NOTPAY"), ChannelState.PAID, 800000),
        (("CLOSED", "SUCCESS"), ChannelState.PAID, 17524),
        (("REFUND", "SUCCESS"), ChannelState.PAID, 817524),
    ],
)
async def test_the_whole_is_paid_as_soon_as_a_part_is(
    desk: Desk, states: tuple[str, str], expected: ChannelState, paid_fen: int | None
) -> None:
    order = combined_order()
    for sub, state in zip(order["sub_orders"], states, strict=True):
        sub["trade_state"] = state
    desk.say(right(order))

    report = await desk.channel.query(NUMBER)

    assert report.state is expected
    assert report.paid_fen == paid_fen
    assert report.channel_trade_no == (NUMBER if paid_fen else None)


@pytest.mark.parametrize("code", ["ORDER_NOT_EXIST", "ORDERNOTEXIST"])
async def test_an_unknown_order_is_not_found(desk: Desk, code: str) -> None:
    desk.say(wrong(404, code))

    assert (await desk.channel.query(NUMBER)).state is ChannelState.NOT_FOUND


STRANGE: list[tuple[dict[str, Any], str]] = [
    ({"combine_mchid": "1900000109"}, "WRONG_ADDRESSEE"),
    ({"combine_appid": "wx0"}, "WRONG_ADDRESSEE"),
    ({"sub_orders": [sub_order(), sub_order(mchid="1900000199")]}, "WRONG_ADDRESSEE"),
    ({"sub_orders": [sub_order(mchid=None)]}, "WRONG_ADDRESSEE"),
    ({"sub_orders": []}, "MALFORMED"),
    ({"sub_orders": None}, "MALFORMED"),
    ({"sub_orders": ["x"]}, "MALFORMED"),
    ({"sub_orders": [sub_order(), sub_order()]}, "MALFORMED"),
    ({"sub_orders": [sub_order(out_trade_no="1")]}, "MALFORMED"),
    ({"sub_orders": [sub_order(transaction_id=None)]}, "MALFORMED"),
    ({"sub_orders": [sub_order(success_time="x")]}, "MALFORMED"),
    ({"sub_orders": [sub_order(amount=None)]}, "MALFORMED"),
    ({"sub_orders": [sub_order(amount={"total_amount": 1.0})]}, "NOT_MONEY"),
    ({"sub_orders": [sub_order(amount={"total_amount": 0})]}, "NOT_MONEY"),
    ({"sub_orders": [sub_order(amount={"total": 800000})]}, "NOT_MONEY"),
    ({"sub_orders": [sub_order(amount={"total_amount": 1, "currency": "USD"})]}, "NOT_MONEY"),
]


@pytest.mark.parametrize(("change", "code"), STRANGE)
async def test_an_answer_about_something_else_is_unknown(
    desk: Desk, change: dict[str, Any], code: str
) -> None:
    desk.say(right(combined_order(**change)))

    with pytest.raises(ChannelUnknown) as raised:
        await desk.channel.query(NUMBER)

    assert raised.value.code == code


@pytest.mark.parametrize(
    "change",
    [
        {"combine_out_trade_no": "20260301OTHER"},
        {"sub_orders": [sub_order(), sub_order(out_trade_no="123456", trade_state="NEW")]},
    ],
)
async def test_another_order_or_state_is_unreadable(desk: Desk, change: dict[str, Any]) -> None:
    desk.say(right(combined_order(**change)))

    with pytest.raises(ChannelUnknown, match="UNREADABLE"):
        await desk.channel.query(NUMBER)


def unpaid(state: str = "NOTPAY") -> dict[str, Any]:
    return combined_order(
        sub_orders=[
            {"mchid": mchid, "out_trade_no": f"{NUMBER}-{n}", "trade_state": state}
            for n, mchid in ((1, "1900000111"), (2, "1900000112"))
        ]
    )


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (right(None, status=204), CloseOutcome.CLOSED),
        (wrong(202, "USER_PAYING"), CloseOutcome.TRY_LATER),
        (wrong(429, "FREQUENCY_LIMITED"), CloseOutcome.TRY_LATER),
        (wrong(403, "TRADE_ERROR"), CloseOutcome.ALREADY_PAID),
        (wrong(404, "ORDERNOTEXIST"), CloseOutcome.NOT_FOUND),
    ],
)
async def test_close_takes_exactly_the_original_set(
    desk: Desk, reply: web.Response, expected: CloseOutcome
) -> None:
    desk.say(right(unpaid()), reply)

    assert await desk.channel.close(NUMBER) is expected

    closing = desk.heard[1]
    check_authorization(closing, mchid=COMBINE_MCHID)
    assert closing.target == f"{PATH}/out-trade-no/{NUMBER}/close"
    assert json.loads(closing.body) == {
        "combine_appid": APPID,
        "sub_orders": [
            {"mchid": "1900000111", "out_trade_no": f"{NUMBER}-1"},
            {"mchid": "1900000112", "out_trade_no": f"{NUMBER}-2"},
        ],
    }


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (right(combined_order()), CloseOutcome.ALREADY_PAID),
        (right(unpaid("CLOSED")), CloseOutcome.CLOSED),
        (right(unpaid("USERPAYING")), CloseOutcome.TRY_LATER),
        (wrong(404, "ORDERNOTEXIST"), CloseOutcome.NOT_FOUND),
    ],
)
async def test_what_the_signed_query_settles_is_not_closed(
    desk: Desk, known: web.Response, expected: CloseOutcome
) -> None:
    desk.say(known)

    assert await desk.channel.close(NUMBER) is expected
    assert len(desk.heard) == 1


@pytest.mark.parametrize(
    ("state", "expected"),
    [("CLOSED", CloseOutcome.CLOSED), ("NOTPAY", CloseOutcome.TRY_LATER)],
)
async def test_that_it_was_closed_before_must_be_a_signed_word(
    desk: Desk, state: str, expected: CloseOutcome
) -> None:
    desk.say(right(unpaid()), wrong(400, "ORDER_CLOSED"), right(unpaid(state)))

    assert await desk.channel.close(NUMBER) is expected


async def test_a_set_that_differs_closes_nothing(desk: Desk) -> None:
    desk.say(right(unpaid()), wrong(400, "INVALID_REQUEST"))

    with pytest.raises(ChannelUnknown):
        await desk.channel.close(NUMBER)


def opened(plaintext: dict[str, Any], kind: str = "TRANSACTION.SUCCESS") -> VerifiedNotice:
    headers, body = WechatNotice(plaintext, event_type=kind).sent()
    return combined_channel().open_notice(headers, body, now=NOW)


def test_one_notice_tells_the_whole() -> None:
    notice = opened(combined_order())

    assert (notice.kind, notice.out_trade_no) == ("TRANSACTION.SUCCESS", NUMBER)
    assert notice.report is not None
    assert notice.report.state is ChannelState.PAID
    assert notice.report.paid_fen == 817524
    assert [part.account_id for part in notice.report.parts] == [
        "wechat_pay:1900000111",
        "wechat_pay:1900000112",
    ]


def test_the_same_news_has_the_same_key_in_any_order_and_other_news_another() -> None:
    first, second = combined_order()["sub_orders"]
    key = opened(combined_order()).event_key

    assert opened(combined_order(sub_orders=[second, first])).event_key == key
    assert opened(combined_order(scene_info={"device_id": "1"})).event_key == key
    later = combined_order(sub_orders=[first, {**second, "trade_state": "REFUND"}])
    assert opened(later).event_key != key
    assert len(key) <= 160


@pytest.mark.parametrize(("change", "code"), STRANGE)
def test_strange_news_is_refused_or_kept_unread(change: dict[str, Any], code: str) -> None:
    if code == "WRONG_ADDRESSEE":
        with pytest.raises(NoticeRejected, match="wrong_addressee"):
            opened(combined_order(**change))
        return
    notice = opened(combined_order(**change))

    assert (notice.kind, notice.report) == ("UNREADABLE", None)
    assert notice.out_trade_no == NUMBER


def test_a_state_nobody_knew_is_kept_without_a_word_on_money() -> None:
    notice = opened(combined_order(sub_orders=[sub_order(trade_state="NEW")]))

    assert (notice.kind, notice.report) == ("TRANSACTION.SUCCESS", None)


def test_other_news_to_the_combining_merchant_is_kept_and_somebody_elses_refused() -> None:
    kept = opened(refund(mchid=COMBINE_MCHID), "REFUND.SUCCESS")
    assert (kept.report, kept.refund) == (None, None)
    for plaintext in (transaction(), refund(mchid="1900000111")):
        with pytest.raises(NoticeRejected, match="wrong_addressee"):
            opened(plaintext)


def test_a_merchants_own_account_never_settles_by_a_combined_notice() -> None:
    headers, body = WechatNotice(combined_order(combine_mchid="1900000109")).sent()

    assert wechat_pay_channel().open_notice(headers, body, now=NOW).report is None


async def test_refunds_and_bills_belong_to_the_sub_orders_merchants(desk: Desk) -> None:
    request = RefundRequest("R1", NUMBER, NUMBER, 1, 2, "x", "https://e.example.cn/n")

    for asking in (
        desk.channel.refund(request),
        desk.channel.query_refund("R1", out_trade_no=NUMBER),
        desk.channel.redirect_refund("R1", channel_refund_no="5"),
        desk.channel.download_bill(date(2026, 2, 28)),
    ):
        with pytest.raises(ChannelRefused) as raised:
            await asking
        assert raised.value.code == "NOT_OFFERED"
    with pytest.raises(ChannelRefused):
        desk.channel.parse_bill(b"")
    assert desk.heard == []
