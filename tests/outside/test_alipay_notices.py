"""Alipay's notices: what is believed, and that nothing else is."""

from datetime import UTC, datetime
from random import Random
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis.strategies import binary, randoms

from estation.outside.pay_channels import Channel, ChannelState, NoticeRejected, VerifiedNotice
from estation.outside.pay_channels.alipay import Alipay
from estation.outside.pay_channels.alipay.notices import _unescaped
from tests.outside.counterparts import (
    APP_ID,
    NOW,
    alipay_channel,
    alipay_form,
    alipay_notice,
    clear,
    signed,
)
from tests.outside.test_wechat_pay_notices import MANY, mutated, outcome

GENUINE = alipay_form(alipay_notice())
STRANGE = ["", "x" * 500, "\x00", "-1", "NaN", "中", "&=%", "0001-01-01", "9" * 40]


@pytest.fixture(scope="module")
def channel() -> Alipay:
    return alipay_channel()


def opened(channel: Alipay, **changes: str) -> VerifiedNotice:
    headers, body = alipay_form(alipay_notice(**changes))
    return channel.open_notice(headers, body, now=NOW)


def assert_kept_unread(notice: VerifiedNotice) -> None:
    """Believed and kept, but no word about a payment that could move anything."""
    assert (notice.report, notice.kind) == (None, "UNREADABLE")
    assert notice.plaintext
    assert len(notice.out_trade_no) <= 64


def reason(channel: Alipay, headers: dict[str, str], body: bytes) -> str:
    with pytest.raises(NoticeRejected) as rejected:
        channel.open_notice(headers, body, now=NOW)
    assert rejected.value.status >= 400
    return rejected.value.reason


def test_a_genuine_payment_is_believed(channel: Alipay) -> None:
    notice = opened(channel)

    assert notice.out_trade_no == "20260301ABCDEFGHJKMNPQRS"
    assert notice.plaintext["subject"] == "契税+登记费 100% “林晓舟”"
    assert notice.report is not None
    assert notice.report.channel is Channel.ALIPAY
    assert notice.report.account_id == f"alipay:{APP_ID}"
    assert notice.report.state is ChannelState.PAID
    assert notice.report.paid_fen == 817524
    assert notice.report.channel_trade_no == "2026030122001400010500000001"
    assert notice.report.paid_at == datetime(2026, 3, 1, 1, 59, 58, tzinfo=UTC)


def test_a_notice_in_gbk_is_read_in_gbk(channel: Alipay) -> None:
    notice = opened(channel, charset="gbk")

    assert notice.plaintext["subject"] == "契税+登记费 100% “林晓舟”"
    assert notice.report is not None


TEXTS = [
    "契税+登记费",
    "100% + 5%2B3",
    "a \"quoted\" &amp; \\'单引号\\' <b>",
    "全角：，。“”￥；=&",
    "江城区 一号  二单元",
]


@pytest.mark.parametrize("charset", ["utf-8", "UTF-8", "gbk", "GBK", "gb2312", "GB18030"])
@pytest.mark.parametrize("text", TEXTS)
def test_every_character_survives_in_every_charset(
    channel: Alipay, charset: str, text: str
) -> None:
    notice = opened(channel, charset=charset, subject=text, body=text)

    assert (notice.plaintext["subject"], notice.plaintext["body"]) == (text, text)
    assert notice.report is not None


@pytest.mark.parametrize("text", ["龘靐齉䶮", "𠮷野"])
def test_rare_characters_of_names_survive_too(channel: Alipay, text: str) -> None:
    assert opened(channel, charset="gb18030", subject=text).plaintext["subject"] == text


def test_the_signature_covers_the_bytes_of_the_notices_own_charset(channel: Alipay) -> None:
    headers, body = alipay_form(alipay_notice(charset="gbk"))
    gbk, utf8 = quote_plus("契税", encoding="gbk").encode(), quote_plus("契税").encode()
    assert gbk in body

    assert reason(channel, headers, body.replace(gbk, utf8)) == "bad_signature"
    said = body.replace(b"charset=gbk", b"charset=utf-8")
    assert reason(channel, headers, said) == "bad_signature"


def test_signed_bytes_of_another_charset_than_said_are_malformed(channel: Alipay) -> None:
    fields = {**alipay_notice(), "subject": "契税".encode("gbk").decode("latin-1")}
    message = "&".join(f"{k}={v}" for k, v in sorted(fields.items()) if v).encode("latin-1")
    form = {**fields, "sign_type": "RSA2", "sign": signed("alipay", message)}
    body = "&".join(f"{k}={quote_plus(v, encoding='latin-1')}" for k, v in form.items()).encode()
    headers = {"content-type": "application/x-www-form-urlencoded"}

    assert reason(channel, headers, body) == "malformed"


@settings(MANY, max_examples=500)
@given(value=binary(max_size=60))
def test_a_value_is_unescaped_once_and_whole(value: bytes) -> None:
    for escaped in (quote_plus(value), quote(value, safe="="), "".join(f"%{b:02x}" for b in value)):
        assert _unescaped(escaped.encode()) == value


def test_a_notice_of_yesterday_is_still_believed(channel: Alipay) -> None:
    headers, body = alipay_form(alipay_notice(notify_time="2026-02-28 10:00:00"))

    assert channel.open_notice(headers, body, now=NOW).report is not None


@pytest.mark.parametrize("sign", ["", "x", "QUJD"])
def test_an_empty_or_foreign_signature_is_refused(channel: Alipay, sign: str) -> None:
    headers, body = alipay_form(alipay_notice())
    forged = body.rpartition(b"&sign=")[0] + b"&sign=" + sign.encode()

    assert reason(channel, headers, forged) == ("bad_signature" if sign else "unsigned")


def test_a_notice_without_any_signature_is_refused(channel: Alipay) -> None:
    headers, body = alipay_form(alipay_notice())

    assert reason(channel, headers, body.rpartition(b"&sign=")[0]) == "unsigned"


def test_another_key_is_refused(channel: Alipay) -> None:
    headers, body = alipay_form(alipay_notice(), signer="stranger")

    assert reason(channel, headers, body) == "bad_signature"


def test_sha1_is_refused_even_when_rightly_signed(channel: Alipay) -> None:
    headers, body = alipay_form(alipay_notice(), sign_type="RSA")

    assert reason(channel, headers, body) == "bad_signature"
    claimed = body.replace(b"sign_type=RSA&", b"sign_type=RSA2&")
    assert reason(channel, headers, claimed) == "bad_signature"


def test_an_altered_amount_is_refused(channel: Alipay) -> None:
    headers, body = alipay_form(alipay_notice())

    assert reason(channel, headers, body.replace(b"8175.24", b"0008.24")) == "bad_signature"


@pytest.mark.parametrize("change", [{"app_id": "2021000000000110"}, {"seller_id": "2088"}])
def test_a_payment_to_somebody_else_is_refused(channel: Alipay, change: dict[str, str]) -> None:
    assert reason(channel, *alipay_form(alipay_notice(**change))) == "wrong_addressee"


@pytest.mark.parametrize(
    "amount", ["", "0.00", "-8175.24", "8175.240", "1e3", "NaN", "8,175.24", "８.00", " 8.00"]
)
def test_only_positive_yuan_text_is_money(channel: Alipay, amount: str) -> None:
    assert_kept_unread(opened(channel, total_amount=amount))


def test_amounts_are_compared_as_values(channel: Alipay) -> None:
    notice = opened(channel, total_amount="8175.2")

    assert notice.report is not None
    assert notice.report.paid_fen == 817520


@pytest.mark.parametrize(
    ("changes", "state", "refunded_fen"),
    [
        ({"trade_status": "TRADE_SUCCESS"}, ChannelState.PAID, None),
        ({"trade_status": "TRADE_FINISHED"}, ChannelState.PAID, None),
        ({"trade_status": "WAIT_BUYER_PAY", "gmt_payment": ""}, ChannelState.NOT_PAID, None),
        ({"trade_status": "TRADE_CLOSED", "gmt_payment": ""}, ChannelState.CLOSED, None),
        ({"trade_status": "TRADE_CLOSED", "refund_fee": "8175.24"}, ChannelState.PAID, 817524),
        (
            {"trade_status": "TRADE_CLOSED", "gmt_payment": "", "refund_fee": "8175.24"},
            ChannelState.PAID,
            817524,
        ),
        ({"trade_status": "TRADE_SUCCESS", "refund_fee": "100.00"}, ChannelState.PAID, 10000),
    ],
)
def test_every_trade_status_has_a_meaning(
    channel: Alipay, changes: dict[str, str], state: ChannelState, refunded_fen: int | None
) -> None:
    notice = opened(channel, **changes)

    assert notice.report is not None
    assert notice.report.state is state
    assert notice.report.refunded_fen == refunded_fen


def test_an_unknown_status_and_an_unknown_kind_are_kept(channel: Alipay) -> None:
    assert opened(channel, trade_status="TRADE_PENDING").report is None
    assert opened(channel, notify_type="batch_refund_notify").report is None


def test_a_refund_tells_of_the_same_payment_as_other_news(channel: Alipay) -> None:
    paid = opened(channel)
    again = opened(channel, notify_id="other", notify_time="2026-03-01 10:04:00")
    refunded = opened(
        channel, refund_fee="30.00", gmt_refund="2026-03-01 11:00:00.123", out_biz_no="RF1"
    )

    assert paid.event_key == again.event_key
    assert paid.event_key != refunded.event_key
    assert paid.report is not None
    assert refunded.report is not None
    assert refunded.report.state is ChannelState.PAID
    assert refunded.report.paid_fen == paid.report.paid_fen
    assert refunded.report.paid_at == paid.report.paid_at


def test_event_keys_fit_the_inbox(channel: Alipay) -> None:
    long = opened(channel, out_trade_no="a" * 64, trade_no="1" * 64, out_biz_no="R" * 64)

    assert len(long.event_key) <= 160


@pytest.mark.parametrize(
    "content_type", ["", "application/json", "multipart/form-data", "text/plain"]
)
def test_only_a_form_is_read(channel: Alipay, content_type: str) -> None:
    _, body = alipay_form(alipay_notice())

    assert reason(channel, {"content-type": content_type}, body) == "malformed"


@pytest.mark.parametrize(
    "body", [b"", b"&", b"a", b"=b", b"a=1&a=2", b"\xff", b"sign=x&sign=y", b"x" * 300_000]
)
def test_a_broken_form_is_malformed(channel: Alipay, body: bytes) -> None:
    headers, _ = alipay_form(alipay_notice())

    assert reason(channel, headers, body) == "malformed"


def test_an_unknown_charset_is_malformed(channel: Alipay) -> None:
    headers, body = alipay_form(alipay_notice(charset="utf-16-le"))

    assert reason(channel, headers, body) in ("malformed", "bad_signature")


@pytest.mark.parametrize(
    "changes",
    [
        {"out_trade_no": ""},
        {"out_trade_no": "a" * 65},
        {"trade_no": ""},
        {"trade_status": ""},
        {"gmt_payment": "yesterday"},
    ],
)
def test_news_without_its_fields_is_kept_for_a_person(
    channel: Alipay, changes: dict[str, str]
) -> None:
    assert_kept_unread(opened(channel, **changes))


def test_a_form_without_a_kind_is_no_notice(channel: Alipay) -> None:
    assert reason(channel, *alipay_form(alipay_notice(notify_type=""))) == "malformed"


def test_unreadable_news_to_somebody_else_is_refused(channel: Alipay) -> None:
    fields = alipay_notice(total_amount="", app_id="2021000000000110")

    assert reason(channel, *alipay_form(fields)) == "wrong_addressee"


@settings(MANY, max_examples=1000)
@given(chance=randoms(use_true_random=False))
def test_a_thousand_mutations_are_refused_or_mean_the_same(channel: Alipay, chance: Random) -> None:
    headers, body = GENUINE
    mutated_headers, mutated_body = mutated(chance, headers, body)
    try:
        notice = channel.open_notice(mutated_headers, mutated_body, now=NOW)
    except NoticeRejected:
        return
    assert clear(notice) == clear(channel.open_notice(headers, body, now=NOW))


@settings(MANY, max_examples=500)
@given(chance=randoms(use_true_random=False))
def test_mutations_of_signed_fields_never_raise_anything_else(
    channel: Alipay, chance: Random
) -> None:
    fields = alipay_notice()
    for name in chance.sample(sorted(set(fields) - {"charset"}), chance.randint(1, 3)):
        fields[name] = chance.choice(STRANGE)

    reason_or_none = outcome(channel, *alipay_form(fields))

    assert reason_or_none in (None, "malformed", "wrong_addressee", "not_money")


def test_the_answers_are_what_alipay_expects(channel: Alipay) -> None:
    accepted = channel.notice_answer(accepted=True)
    refused = channel.notice_answer(accepted=False, status=401)

    assert (accepted.status, accepted.content_type, accepted.body) == (
        200,
        "text/plain",
        b"success",
    )
    assert (refused.status, refused.body) == (401, b"fail")
