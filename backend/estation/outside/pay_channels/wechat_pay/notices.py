"""Opening WeChat Pay's notices: the hot path, so keys are ready and each JSON is read once."""

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import orjson

from estation.outside.pay_channels import NoticeAnswer, VerifiedNotice
from estation.outside.pay_channels.believing import (
    NOTICE_BYTES,
    Disbelief,
    event_key,
    text_of,
    unreadable_news,
    without_nul,
)
from estation.outside.pay_channels.wechat_pay.combined_orders import (
    NUMBER,
    check_combiner,
    combined_report_of,
    sub_orders_of,
)
from estation.outside.pay_channels.wechat_pay.refunds import refund_report_of
from estation.outside.pay_channels.wechat_pay.resources import open_resource
from estation.outside.pay_channels.wechat_pay.signing import Merchant, check_signature
from estation.outside.pay_channels.wechat_pay.transactions import check_addressee, report_of
from estation.outside.pay_channels.wechat_pay.transport import Transport

_ACCEPTED = NoticeAnswer(
    200, "application/json", b'{"code":"SUCCESS","message":"\xe6\x88\x90\xe5\x8a\x9f"}'
)


def open_envelope(
    transport: Transport, headers: Mapping[str, str], body: bytes, *, now: datetime
) -> tuple[str, dict[str, Any]]:
    """Event type and plaintext: signature and age first, then encryption. Raises Disbelief.

    An unknown serial may start a certificate refresh in the background.
    """
    if len(body) > NOTICE_BYTES:
        raise Disbelief("malformed", "too long")
    try:
        check_signature(transport.keys, headers, body, now=now)
    except Disbelief as disbelief:
        if disbelief.reason == "unknown_serial":
            transport.wish_certificates(headers["wechatpay-serial"], now=now)
        raise
    envelope = _object(body)
    kind = text_of(envelope, "event_type", most=32)
    cipher = transport.merchant.cipher
    return kind, _plaintext(open_resource(cipher, envelope.get("resource"), cipher.algorithm))


def answer(*, accepted: bool, status: int) -> NoticeAnswer:
    """Only the status counts for WeChat Pay: a 200 that says FAIL would count as taken."""
    if accepted:
        return _ACCEPTED
    failure = orjson.dumps({"code": "FAIL", "message": "通知未受理，请稍后重发"})
    return NoticeAnswer(status if status >= 400 else 500, "application/json", failure)


def news_of(
    merchant: Merchant, kind: str, plaintext: dict[str, Any], *, now: datetime
) -> VerifiedNotice:
    """News to one merchant: addressee first, then money. Raises Disbelief.

    Once the addressee is right nothing is lost: what cannot be read has kind UNREADABLE.
    """
    if NUMBER in plaintext:
        return _other_news(merchant, kind, plaintext, number_field=NUMBER)
    if kind.startswith("REFUND."):
        return _refund_news(merchant, kind, plaintext, now)
    if kind.startswith("TRANSACTION."):
        return _transaction_news(merchant, kind, plaintext)
    return _other_news(merchant, kind, plaintext, number_field="out_trade_no")


def combined_news_of(
    merchant: Merchant, payees: Mapping[str, str], kind: str, plaintext: dict[str, Any]
) -> VerifiedNotice:
    """News to a combining merchant, one for the whole order. As `news_of`."""
    if NUMBER not in plaintext or not kind.startswith("TRANSACTION."):
        return _other_news(merchant, kind, plaintext, number_field="out_trade_no")
    check_combiner(merchant, plaintext)
    try:
        report = combined_report_of(merchant, payees, plaintext)
        states = sorted(
            f"{part['mchid']}/{part['out_trade_no']}/{part.get('transaction_id') or ''}"
            f"/{part['trade_state']}"
            for part in sub_orders_of(plaintext)
        )
    except Disbelief as disbelief:
        return unreadable_news(plaintext, plaintext.get(NUMBER), disbelief)
    number = plaintext[NUMBER]
    digest = hashlib.sha256("\n".join(states).encode(errors="replace")).hexdigest()
    return VerifiedNotice(event_key(kind, number, digest), kind, number, report, plaintext)


def _transaction_news(merchant: Merchant, kind: str, plaintext: dict[str, Any]) -> VerifiedNotice:
    try:
        report = report_of(merchant, plaintext)
    except Disbelief as disbelief:
        return unreadable_news(plaintext, plaintext.get("out_trade_no"), disbelief)
    number = plaintext["out_trade_no"]
    transaction_id = str(plaintext.get("transaction_id") or "")
    return VerifiedNotice(
        # Not the vendor's id: the same news may come again under another one.
        event_key=event_key(kind, number, transaction_id, plaintext["trade_state"]),
        kind=kind,
        out_trade_no=number,
        report=report,
        plaintext=plaintext,
    )


def _refund_news(
    merchant: Merchant, kind: str, plaintext: dict[str, Any], now: datetime
) -> VerifiedNotice:
    check_addressee(merchant, plaintext, with_appid=False)
    try:
        refund = refund_report_of(merchant, plaintext, status_field="refund_status", told_at=now)
    except Disbelief as disbelief:
        return unreadable_news(plaintext, plaintext.get("out_trade_no"), disbelief)
    return VerifiedNotice(
        event_key=event_key("REFUND", plaintext["out_refund_no"], plaintext["refund_status"]),
        kind=kind,
        out_trade_no=plaintext["out_trade_no"],
        report=None,
        plaintext=plaintext,
        refund=refund,
    )


def _other_news(
    merchant: Merchant, kind: str, plaintext: dict[str, Any], *, number_field: str
) -> VerifiedNotice:
    """Kept, though it says nothing of a payment we know how to read."""
    for field in ("mchid", "combine_mchid"):
        if plaintext.get(field, merchant.mchid) != merchant.mchid:
            raise Disbelief("wrong_addressee", field)
    number = plaintext.get(number_field)
    digest = hashlib.sha256(orjson.dumps(plaintext, option=orjson.OPT_SORT_KEYS)).hexdigest()
    return VerifiedNotice(
        event_key=event_key(kind, digest),
        kind=kind,
        out_trade_no=number[:64] if isinstance(number, str) else "",
        report=None,
        plaintext=plaintext,
    )


def _plaintext(data: bytes) -> dict[str, Any]:
    if b"\\u0000" not in data:
        return _object(data)
    cleaned: dict[str, Any] = _cleaned(_object(data))
    return cleaned


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return without_nul(value)
    if isinstance(value, dict):
        return {without_nul(name): _cleaned(inner) for name, inner in value.items()}
    return [_cleaned(inner) for inner in value] if isinstance(value, list) else value


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise Disbelief("malformed", "JSON") from None
    if not isinstance(value, dict):
        raise Disbelief("malformed", "JSON")
    return value
