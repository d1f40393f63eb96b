"""Opening Alipay's notices: a signed form, the signature over its decoded bytes.

Source: Alipay open platform, 异步通知说明.
"""

import binascii
import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from estation.outside.pay_channels import NoticeAnswer, VerifiedNotice
from estation.outside.pay_channels.alipay.refunds import told_by_notice
from estation.outside.pay_channels.alipay.signing import SIGN_TYPE, Application, verify_by_one
from estation.outside.pay_channels.alipay.trades import report_of
from estation.outside.pay_channels.believing import (
    NOTICE_BYTES,
    Disbelief,
    event_key,
    text_of,
    unreadable_news,
    without_nul,
)

_FORM: Final = "application/x-www-form-urlencoded"
_NOT_SIGNED: Final = frozenset({b"sign", b"sign_type", b"alipay_cert_sn"})
_CHARSETS: Final = {
    "utf-8": "utf-8",
    "utf8": "utf-8",
    "gbk": "gb18030",
    "gb2312": "gb18030",
    "gb18030": "gb18030",
}
_SIGN_TYPE: Final = SIGN_TYPE.encode()
_TRADE_NEWS: Final = "trade_status_sync"
_ACCEPTED: Final = NoticeAnswer(200, "text/plain", b"success")


class UnknownCertificate(Disbelief):
    """The notice names a certificate that we do not know, or not yet."""

    def __init__(self, serial: str) -> None:
        super().__init__("unknown_serial")
        self.serial = serial


def read_notice(
    application: Application, headers: Mapping[str, str], body: bytes, *, now: datetime
) -> VerifiedNotice:
    """Form, signature, charset, addressee, money, in this order. Raises Disbelief.

    Once the addressee is right nothing is lost: what cannot be read has kind UNREADABLE. There is
    no age limit: Alipay re-delivers the same notice for 25 hours, so only the
    idempotent change of state protects against a replay.
    """
    if headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        raise Disbelief("malformed", "content type")
    if len(body) > NOTICE_BYTES:
        raise Disbelief("malformed", "too long")
    form = _form(body)
    _check_signature(application, form, now)
    plaintext = _decoded(form)
    if plaintext.get("app_id") != application.app_id:
        raise Disbelief("wrong_addressee", "app_id")
    return _news(application, plaintext)


def answer(*, accepted: bool, status: int) -> NoticeAnswer:
    """Exactly `success`, or Alipay delivers again, eight times in all."""
    if accepted:
        return _ACCEPTED
    return NoticeAnswer(status if status >= 400 else 500, "text/plain", b"fail")


def _news(application: Application, plaintext: dict[str, Any]) -> VerifiedNotice:
    # A page return has the same signature and is in the payer's hands: without a kind, no notice.
    kind = text_of(plaintext, "notify_type", most=32)
    try:
        return _readable_news(application, kind, plaintext)
    except Disbelief as disbelief:
        return unreadable_news(plaintext, plaintext.get("out_trade_no"), disbelief)


def _readable_news(
    application: Application, kind: str, plaintext: dict[str, Any]
) -> VerifiedNotice:
    if kind != _TRADE_NEWS:
        digest = hashlib.sha256(repr(sorted(plaintext.items())).encode()).hexdigest()
        number = plaintext.get("out_trade_no", "")[:64]
        return VerifiedNotice(event_key(kind, digest), kind, number, None, plaintext)
    if plaintext.get("seller_id") != application.seller_id:
        raise Disbelief("wrong_addressee", "seller_id")
    number = text_of(plaintext, "out_trade_no")
    report = report_of(application, plaintext, paid_at_field="gmt_payment")
    return VerifiedNotice(
        # Not notify_id: a partial refund sends TRADE_SUCCESS again, which is other news of the
        # same payment, while re-deliveries are the same news.
        event_key=event_key(
            plaintext["trade_status"],
            number,
            plaintext.get("trade_no", ""),
            plaintext.get("out_biz_no", ""),
            plaintext.get("refund_fee", ""),
        ),
        kind=kind,
        out_trade_no=number,
        report=report,
        plaintext=plaintext,
        refund=told_by_notice(application, plaintext),
    )


def _form(body: bytes) -> dict[bytes, bytes]:
    """Name -> value, percent-decoded once, still in the sender's charset."""
    form: dict[bytes, bytes] = {}
    for pair in body.split(b"&"):
        name, equals, value = pair.partition(b"=")
        name = _unescaped(name)
        if not equals or not name or name in form:
            raise Disbelief("malformed", "form")
        form[name] = _unescaped(value)
    return form


def _unescaped(text: bytes) -> bytes:
    """Once: a plus on the wire is a space, %2B a plus.

    Percent escapes are quoted-printable with another sign, and that decoder is written in C:
    a third of urllib's time on the hottest path. What it makes of a broken escape does not
    matter, because the signature is checked over what came out.
    """
    if b"+" in text:
        text = text.replace(b"+", b" ")
    if b"%" not in text:
        return text
    return binascii.a2b_qp(text.replace(b"=", b"%3D").replace(b"%", b"="))


def _check_signature(application: Application, form: dict[bytes, bytes], now: datetime) -> None:
    signature = form.get(b"sign")
    if not signature:
        raise Disbelief("unsigned")
    if form.get(b"sign_type") != _SIGN_TYPE:
        # Pinned: sign_type itself is not signed, so it must not choose a weaker algorithm.
        raise Disbelief("bad_signature", "sign_type")
    kept = sorted(item for item in form.items() if item[1] and item[0] not in _NOT_SIGNED)
    message = b"&".join([b"%b=%b" % item for item in kept])
    # The number is not signed: it chooses among keys that are all Alipay's.
    serial = form.get(b"alipay_cert_sn", b"").decode("latin-1")
    keys = application.alipay.candidates(serial, now=now)
    if not keys:
        raise UnknownCertificate(serial)
    verify_by_one(keys, message, signature)


def _decoded(form: dict[bytes, bytes]) -> dict[str, Any]:
    """Signed, non-empty fields as text."""
    charset = _CHARSETS.get(form.get(b"charset", b"utf-8").decode("latin-1").lower())
    if charset is None:
        raise Disbelief("malformed", "charset")
    try:
        return {
            name.decode("ascii"): without_nul(value.decode(charset))
            for name, value in form.items()
            if value and name not in _NOT_SIGNED
        }
    except UnicodeDecodeError:
        raise Disbelief("malformed", "charset") from None
