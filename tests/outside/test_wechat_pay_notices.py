"""WeChat Pay's notices: what is believed, and that nothing else is."""

import base64
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis.strategies import randoms

from estation.outside.pay_channels import (
    Channel,
    ChannelState,
    NoticeRejected,
    PayChannel,
    VerifiedNotice,
)
from estation.outside.pay_channels.believing import load_private_key, load_public_key
from estation.outside.pay_channels.wechat_pay import WechatPay
from tests.outside.counterparts import (
    APPID,
    MCHID,
    NOW,
    WechatNotice,
    clear,
    private_pem,
    public_pem,
    sealed,
    transaction,
    wechat_pay_channel,
)

MANY = settings(derandomize=True, database=None, deadline=None)
GENUINE = WechatNotice().sent()
STRANGE = [None, True, 0, -1, 1.5, "", "x" * 500, [], {}, "\x00", "SUCCESS", 10**30, "\ud7ff"]


@pytest.fixture(scope="module")
def channel() -> WechatPay:
    return wechat_pay_channel()


def opened(channel: WechatPay, notice: WechatNotice, now: datetime = NOW) -> VerifiedNotice:
    headers, body = notice.sent()
    return channel.open_notice(headers, body, now=now)


def assert_kept_unread(notice: VerifiedNotice) -> None:
    """Believed and kept, but no word about a payment that could move anything."""
    assert (notice.report, notice.kind) == (None, "UNREADABLE")
    assert notice.plaintext
    assert len(notice.out_trade_no) <= 64


def reason(channel: WechatPay, notice: WechatNotice, now: datetime = NOW) -> str:
    with pytest.raises(NoticeRejected) as rejected:
        opened(channel, notice, now)
    assert rejected.value.status >= 400
    return rejected.value.reason


def test_a_genuine_payment_is_believed(channel: WechatPay) -> None:
    notice = opened(channel, WechatNotice())

    assert notice.kind == "TRANSACTION.SUCCESS"
    assert notice.out_trade_no == "20260301ABCDEFGHJKMNPQRS"
    assert notice.report is not None
    assert notice.report.channel is Channel.WECHAT_PAY
    assert notice.report.account_id == f"wechat_pay:{MCHID}"
    assert notice.report.state is ChannelState.PAID
    assert notice.report.paid_fen == 817524
    assert notice.report.channel_trade_no == "4200002026030112345678901234"
    assert notice.report.paid_at == datetime(2026, 3, 1, 1, 59, 58, tzinfo=UTC)


def test_a_coupon_does_not_lessen_what_was_paid_for(channel: WechatPay) -> None:
    amount = {"total": 817524, "payer_total": 800000, "currency": "CNY", "payer_currency": "CNY"}

    notice = opened(channel, WechatNotice(transaction(amount=amount)))

    assert notice.report is not None
    assert notice.report.paid_fen == 817524


def test_the_signature_type_header_may_be_absent(channel: WechatPay) -> None:
    headers, body = WechatNotice().sent()
    del headers["wechatpay-signature-type"]

    assert channel.open_notice(headers, body, now=NOW).report is not None


@pytest.mark.parametrize(
    "name",
    ["wechatpay-timestamp", "wechatpay-nonce", "wechatpay-signature", "wechatpay-serial"],
)
@pytest.mark.parametrize("how", ["absent", "empty"])
def test_a_missing_header_means_unsigned(channel: WechatPay, name: str, how: str) -> None:
    headers, body = WechatNotice().sent()
    headers[name] = ""
    if how == "absent":
        del headers[name]

    with pytest.raises(NoticeRejected) as rejected:
        channel.open_notice(headers, body, now=NOW)

    assert rejected.value.reason == "unsigned"
    assert rejected.value.status == 401


@pytest.mark.parametrize(
    ("seconds", "expected"), [(300, None), (301, "stale"), (-300, None), (-301, "future")]
)
def test_a_notice_lives_five_minutes_in_both_directions(
    channel: WechatPay, seconds: int, expected: str | None
) -> None:
    now = NOW + timedelta(seconds=seconds)

    if expected is None:
        assert opened(channel, WechatNotice(), now).report is not None
    else:
        assert reason(channel, WechatNotice(), now) == expected


@pytest.mark.parametrize("timestamp", ["yesterday", "1e9", "-5", " 1772330400", "١٧٧٢", "9" * 40])
def test_a_timestamp_must_be_plain_seconds(channel: WechatPay, timestamp: str) -> None:
    headers, body = WechatNotice().sent()
    headers["wechatpay-timestamp"] = timestamp

    with pytest.raises(NoticeRejected) as rejected:
        channel.open_notice(headers, body, now=NOW)

    assert rejected.value.reason == "malformed"


@pytest.mark.parametrize(
    "serial", ["PUB_KEY_ID_x", "PUB_KEY_ID_0119000001092027", "ABC", "zz", "4A0DE7F2C61B5D83"]
)
def test_an_unknown_serial_is_refused_whatever_its_form(channel: WechatPay, serial: str) -> None:
    assert reason(channel, WechatNotice(serial=serial)) == "unknown_serial"


def test_another_key_is_refused(channel: WechatPay) -> None:
    assert reason(channel, WechatNotice(signer="stranger")) == "bad_signature"


def test_signtest_probes_fail_like_any_forgery(channel: WechatPay) -> None:
    headers, body = WechatNotice().sent()
    headers["wechatpay-signature"] = "WECHATPAY/SIGNTEST/" + "A" * 334 + "="

    with pytest.raises(NoticeRejected) as rejected:
        channel.open_notice(headers, body, now=NOW)

    assert rejected.value.reason == "bad_signature"


def test_another_signature_scheme_is_refused(channel: WechatPay) -> None:
    headers, body = WechatNotice().sent()
    headers["wechatpay-signature-type"] = "WECHATPAY2-SM2-WITH-SM3"

    with pytest.raises(NoticeRejected) as rejected:
        channel.open_notice(headers, body, now=NOW)

    assert rejected.value.reason == "bad_signature"


def test_the_same_json_written_otherwise_is_not_what_was_signed(channel: WechatPay) -> None:
    headers, body = WechatNotice().sent()

    with pytest.raises(NoticeRejected) as rejected:
        channel.open_notice(headers, body.replace(b": ", b":"), now=NOW)

    assert rejected.value.reason == "bad_signature"


def test_a_signed_body_that_is_no_notice_is_malformed(channel: WechatPay) -> None:
    for body in (b"", b"[]", b"{", b'"x"', b"{}", b"\xff", b"[" * 5000):
        headers = WechatNotice().headers(body)

        with pytest.raises(NoticeRejected) as rejected:
            channel.open_notice(headers, body, now=NOW)

        assert rejected.value.reason == "malformed"
        assert rejected.value.status == 400


def test_an_over_long_body_is_refused_before_it_is_read(channel: WechatPay) -> None:
    body = b" " * 300_000

    with pytest.raises(NoticeRejected) as rejected:
        channel.open_notice(WechatNotice().headers(body), body, now=NOW)

    assert rejected.value.reason == "malformed"


@pytest.mark.parametrize(
    "change",
    [
        {"nonce": ""},
        {"nonce": "a"},
        {"nonce": "abcdef"},
        {"nonce": "abcdef0123456"},
        {"nonce": "中文中文"},
        {"ciphertext": "not base64!"},
        {"ciphertext": ""},
        {"ciphertext": base64.b64encode(b"short").decode()},
        {"associated_data": "other"},
        {"algorithm": "AEAD_SM4_GCM"},
        {"algorithm": None},
    ],
)
def test_what_does_not_decrypt_is_refused(channel: WechatPay, change: dict[str, str]) -> None:
    resource = {**sealed(b"{}"), **change}

    assert reason(channel, WechatNotice(resource=resource)) == "undecryptable"


@pytest.mark.parametrize("change", [{"nonce": 12}, {"ciphertext": None}, {"associated_data": 5}])
def test_a_resource_of_another_shape_is_malformed(
    channel: WechatPay, change: dict[str, object]
) -> None:
    assert reason(channel, WechatNotice(resource={**sealed(b"{}"), **change})) == "malformed"


def test_another_api_v3_key_is_undecryptable(channel: WechatPay) -> None:
    assert reason(channel, WechatNotice(api_v3_key=b"f" * 32)) == "undecryptable"


@pytest.mark.parametrize(
    "change", [{"mchid": "1900000110"}, {"appid": "wx9999999999999999"}, {"mchid": None}]
)
def test_a_payment_to_somebody_else_is_refused(
    channel: WechatPay, change: dict[str, object]
) -> None:
    assert reason(channel, WechatNotice(transaction(**change))) == "wrong_addressee"


@pytest.mark.parametrize(
    "total", [0, -1, 1.0, 8175.24, True, "817524", None, [817524], 10**16, 10**40]
)
def test_only_a_positive_whole_number_of_fen_is_money(channel: WechatPay, total: object) -> None:
    amount = {"total": total, "currency": "CNY"}

    assert_kept_unread(opened(channel, WechatNotice(transaction(amount=amount))))


def test_another_currency_is_not_money(channel: WechatPay) -> None:
    amount = {"total": 817524, "currency": "USD"}

    assert_kept_unread(opened(channel, WechatNotice(transaction(amount=amount))))


@pytest.mark.parametrize(
    "change",
    [
        {"out_trade_no": ""},
        {"out_trade_no": "12345"},
        {"out_trade_no": "a" * 33},
        {"out_trade_no": 20260301},
        {"out_trade_no": "2026'; drop table"},
        {"transaction_id": None},
        {"trade_state": 1},
        {"amount": 817524},
        {"success_time": "yesterday"},
        {"success_time": "2026-03-01T09:59:58"},
        {"success_time": 1772330400},
    ],
)
def test_news_with_fields_of_another_kind_is_kept_for_a_person(
    channel: WechatPay, change: dict[str, object]
) -> None:
    assert_kept_unread(opened(channel, WechatNotice(transaction(**change))))


def test_unreadable_news_is_the_same_when_delivered_again_and_other_when_it_differs(
    channel: WechatPay,
) -> None:
    first = opened(channel, WechatNotice(transaction(amount={}), notice_id="EV-1"))
    again = opened(channel, WechatNotice(transaction(amount={}), notice_id="EV-2"))
    other = opened(channel, WechatNotice(transaction(amount=None)))

    assert first.out_trade_no == transaction()["out_trade_no"]
    assert first.event_key == again.event_key != other.event_key


def test_unreadable_news_to_somebody_else_is_refused(channel: WechatPay) -> None:
    change = {"amount": None, "mchid": "1900000110"}

    assert reason(channel, WechatNotice(transaction(**change))) == "wrong_addressee"


def test_refund_news_without_its_numbers_is_kept_for_a_person(channel: WechatPay) -> None:
    assert_kept_unread(opened(channel, WechatNotice({"mchid": MCHID}, event_type="REFUND.SUCCESS")))


def test_the_same_news_under_another_id_has_the_same_key(channel: WechatPay) -> None:
    first = opened(channel, WechatNotice(notice_id="EV-1"))
    second = opened(channel, WechatNotice(notice_id="EV-2"))
    other = opened(
        channel, WechatNotice(transaction(transaction_id="4200000000000000000000000001"))
    )

    assert first.event_key == second.event_key
    assert first.event_key != other.event_key


def test_refund_news_is_kept_without_a_payment_report(channel: WechatPay) -> None:
    refund = {
        "mchid": MCHID,
        "out_trade_no": "20260301ABCDEFGHJKMNPQRS",
        "transaction_id": "4200002026030112345678901234",
        "out_refund_no": "R20260301-1",
        "refund_id": "50000709672026030108420787722",
        "refund_status": "SUCCESS",
        "amount": {"total": 817524, "refund": 100, "payer_total": 817524, "payer_refund": 100},
    }
    done = opened(channel, WechatNotice(refund, event_type="REFUND.SUCCESS"))
    abnormal = opened(
        channel,
        WechatNotice({**refund, "refund_status": "ABNORMAL"}, event_type="REFUND.ABNORMAL"),
    )

    assert done.report is None
    assert done.out_trade_no == "20260301ABCDEFGHJKMNPQRS"
    assert done.event_key != abnormal.event_key
    assert (
        reason(channel, WechatNotice({**refund, "mchid": "1"}, event_type="REFUND.SUCCESS"))
        == "wrong_addressee"
    )


def test_news_of_an_unknown_kind_is_kept(channel: WechatPay) -> None:
    echo = opened(channel, WechatNotice({"sp_mchid": "1"}, event_type="SECURITY_ECHO.SUCCESS"))
    combined = opened(
        channel, WechatNotice({"combine_mchid": MCHID, "combine_out_trade_no": "C20260301"})
    )
    state = opened(channel, WechatNotice(transaction(trade_state="ACCEPT")))

    assert (echo.report, echo.out_trade_no) == (None, "")
    assert (combined.report, combined.out_trade_no) == (None, "C20260301")
    assert state.report is None
    assert reason(channel, WechatNotice({"combine_mchid": "1", "combine_out_trade_no": "C"})) == (
        "wrong_addressee"
    )


@pytest.mark.parametrize(
    ("trade_state", "expected"),
    [
        ("SUCCESS", ChannelState.PAID),
        ("REFUND", ChannelState.PAID),
        ("NOTPAY", ChannelState.NOT_PAID),
        ("USERPAYING", ChannelState.PAYING),
        ("PAYERROR", ChannelState.NOT_PAID),
        ("CLOSED", ChannelState.CLOSED),
        ("REVOKED", ChannelState.CLOSED),
    ],
)
def test_every_trade_state_has_a_meaning(
    channel: WechatPay, trade_state: str, expected: ChannelState
) -> None:
    notice = opened(channel, WechatNotice(transaction(trade_state=trade_state)))

    assert notice.report is not None
    assert notice.report.state is expected
    assert (notice.report.paid_fen is not None) == (expected is ChannelState.PAID)


def test_news_that_nothing_was_paid_needs_no_trade_number(channel: WechatPay) -> None:
    notice = opened(channel, WechatNotice(transaction(trade_state="NOTPAY", transaction_id=7)))

    assert notice.report is not None
    assert notice.report.channel_trade_no is None


def test_a_nul_in_a_comment_does_not_stop_the_money(channel: WechatPay) -> None:
    notice = opened(channel, WechatNotice(transaction(attach="a\x00b")))

    assert notice.plaintext["attach"] == "a\N{REPLACEMENT CHARACTER}b"
    assert notice.report is not None


@settings(MANY, max_examples=1000)
@given(chance=randoms(use_true_random=False))
def test_a_thousand_mutations_are_refused_or_mean_the_same(
    channel: WechatPay, chance: Random
) -> None:
    headers, body = GENUINE
    mutated_headers, mutated_body = mutated(chance, headers, body)
    try:
        notice = channel.open_notice(mutated_headers, mutated_body, now=NOW)
    except NoticeRejected:
        return
    assert clear(notice) == clear(channel.open_notice(headers, body, now=NOW))


@settings(MANY, max_examples=500)
@given(chance=randoms(use_true_random=False))
def test_mutations_of_a_signed_plaintext_never_raise_anything_else(
    channel: WechatPay, chance: Random
) -> None:
    plaintext = transaction()
    for name in chance.sample(sorted(plaintext), chance.randint(1, 3)):
        plaintext[name] = chance.choice(STRANGE)
    kind = chance.choice(["TRANSACTION.SUCCESS", "REFUND.SUCCESS", "OTHER"])

    reason_or_none = outcome(channel, *WechatNotice(plaintext, event_type=kind).sent())

    assert reason_or_none in (None, "malformed", "wrong_addressee", "not_money")


def outcome(channel: PayChannel, headers: dict[str, str], body: bytes) -> str | None:
    """Why it was rejected, None when it was believed."""
    try:
        channel.open_notice(headers, body, now=NOW)
    except NoticeRejected as rejected:
        return rejected.reason
    return None


def mutated(chance: Random, headers: dict[str, str], body: bytes) -> tuple[dict[str, str], bytes]:
    """One random change of a header or of the body."""
    headers = dict(headers)
    if chance.random() < 0.5:
        name = chance.choice(sorted(headers))
        value = headers[name]
        place = chance.randrange(len(value))
        character = chance.choice("0aA=+/ \n\x00é中\udc80" + value)
        headers[name] = chance.choice(
            [value[:place] + character + value[place + 1 :], value[:place], value + character, ""]
        )
        return headers, body
    place = chance.randrange(len(body))
    byte = bytes([chance.randrange(256)])
    changed = chance.choice(
        [
            body[:place] + byte + body[place + 1 :],
            body[:place] + body[place + 1 :],
            body[:place],
            body + byte,
            body[:place] + byte + body[place:],
        ]
    )
    return headers, changed


def test_the_answers_are_what_wechat_pay_expects(channel: WechatPay) -> None:
    accepted = channel.notice_answer(accepted=True)
    refused = channel.notice_answer(accepted=False, status=401)
    careless = channel.notice_answer(accepted=False)

    assert accepted.status == 200
    assert refused.status == 401
    assert b'"code":"FAIL"' in refused.body
    assert len(refused.body) < 128
    assert careless.status == 500  # A 200 that says FAIL would count as taken.


def test_keys_must_be_rsa_of_2048_bits_and_the_api_key_32_bytes() -> None:
    bare = b"".join(public_pem("platform").splitlines()[1:-1])
    assert load_public_key(bare).key_size == 2048
    assert load_private_key(private_pem("merchant")).key_size == 2048
    with pytest.raises(ValueError, match="at least 2048"):
        load_public_key(
            b"-----BEGIN PUBLIC KEY-----\n"
            b"MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n"
            b"-----END PUBLIC KEY-----\n"
        )


def test_notices_of_two_accounts_do_not_mix() -> None:
    notice = replace(WechatNotice(), plaintext=transaction(appid=APPID, mchid="1900000110"))

    assert reason(wechat_pay_channel(), notice) == "wrong_addressee"
