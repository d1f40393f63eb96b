"""Lies in WeChat Pay's form: unsigned ones, and signed ones nobody may believe."""

import base64
import json
from dataclasses import replace
from random import Random
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.forgery.forging import (
    SECOND,
    Forgery,
    Genuine,
    Maker,
    b64,
    spoilt_signature,
)
from tests.outside.counterparts import (
    API_V3_KEY,
    PUBLIC_KEY_ID,
    sealed,
    wechat_signature,
)

# WeChat Pay: the platform did not say so.


def _w_signature(chance: Random, genuine: Genuine) -> Forgery:
    notice = genuine.wechat
    message = f"{SECOND}\n{notice.header('wechatpay-nonce')}\n".encode() + notice.body + b"\n"
    right = notice.header("wechatpay-signature")
    return notice.with_header(
        "wechatpay-signature", spoilt_signature(chance, right, message, "platform")
    )


def _w_serial(chance: Random, genuine: Genuine) -> Forgery:
    hexes = "".join(chance.choice("0123456789ABCDEF") for _ in range(chance.randrange(8, 41)))
    serial = chance.choice(
        [
            hexes, hexes, hexes.lower(), f"PUB_KEY_ID_{hexes}", PUBLIC_KEY_ID.lower(), "x" * 3000,
            f"{PUBLIC_KEY_ID}1", PUBLIC_KEY_ID[:-1], "not hex", "../../etc/passwd", "*", "é", "0",
            f"{PUBLIC_KEY_ID},{hexes}", "none", "undefined", f'"{PUBLIC_KEY_ID}"',
        ]
    )  # fmt: skip
    return genuine.wechat.with_header("wechatpay-serial", serial)


def _w_missing(chance: Random, genuine: Genuine) -> Forgery:
    """D17: the signature, or what it is made over, is absent or empty."""
    name = chance.choice(["timestamp", "nonce", "signature", "serial"])
    if chance.random() < 0.5:
        return genuine.wechat.with_header(f"wechatpay-{name}", "")
    return genuine.wechat.without_header(f"wechatpay-{name}")


def _w_nonce(chance: Random, genuine: Genuine) -> Forgery:
    nonce = genuine.wechat.header("wechatpay-nonce")
    changed = chance.choice(
        [
            "x" * chance.randrange(1, 1001), nonce[::-1], nonce[:-1], nonce + "0", nonce.lower(),
            nonce + "\x01", "\x7f" * 5, nonce[:5] + "\t" + nonce[5:], "é" * 32, "\udcff" * 4,
        ]
    )  # fmt: skip
    return genuine.wechat.with_header("wechatpay-nonce", changed)


def _w_age(chance: Random, genuine: Genuine) -> Forgery:
    """Rightly signed over a moment that is not now, or over no moment at all."""
    past = chance.choice([301, 302, 3600, 10**6, SECOND])
    moments = [SECOND - past, SECOND + chance.choice([301, 302, 3600, 10**8])]
    text = chance.choice([*map(str, moments), str(SECOND * 1000), "-5", "1e9", "", "NaN", "inf",
                          f"{SECOND}.5", "+" + str(SECOND), "0x69a3", "9" * 30, "١٧٧٢", "now",
                          "2026-03-01T10:00:00+08:00", f"{SECOND} ", f"{SECOND}0"])  # fmt: skip
    notice = genuine.wechat
    return replace(
        notice,
        headers=(
            ("content-type", "application/json"),
            *wechat_signature(notice.body, timestamp=text).items(),
        ),
    )


def _w_age_unsigned(chance: Random, genuine: Genuine) -> Forgery:
    moment = SECOND + chance.choice([-300, -1, 1, 300, chance.randrange(-300, 300) or 7])
    return genuine.wechat.with_header("wechatpay-timestamp", str(moment))


def _w_scheme(chance: Random, genuine: Genuine) -> Forgery:
    schemes = [
        "WECHATPAY2-SM2-WITH-SM3",
        "WECHATPAY2-SHA1",
        "",
        "none",
        "MD5",
        "wechatpay2-sha256-rsa2048",
    ]
    return genuine.wechat.with_header("wechatpay-signature-type", chance.choice(schemes) or "-")


def _w_body(chance: Random, genuine: Genuine) -> Forgery:
    """Altered after it was signed."""
    body = genuine.wechat.body
    at = chance.randrange(len(body))
    changed = chance.choice(
        [
            body[:at] + bytes([body[at] ^ 1 << chance.randrange(8)]) + body[at + 1 :],
            body[:at], body + b" ", b" " + body, body + b"\n", body + body, b"",
            body[:-1] + b',"event_type":"TRANSACTION.SUCCESS"}',
            json.dumps(json.loads(body)).encode(),
            json.dumps(json.loads(body), separators=(",", ":")).encode(),
            b"\xef\xbb\xbf" + body, body.decode().encode("gbk"), body.decode().encode("utf-16"),
            body + b"\x00", body.replace(b"transaction", b"transactio\\u006e"),
            body + b" " * 40_000,
        ]
    )  # fmt: skip
    return replace(genuine.wechat, body=changed)


def _w_mixed(chance: Random, genuine: Genuine) -> Forgery:
    """One order's signature over another's words."""
    other = Genuine(genuine.number[::-1], genuine.fen + 1)
    return replace(genuine.wechat, body=other.wechat.body)


# WeChat Pay: signed by the platform, and still nothing we may believe.


def rightly_signed(kind_of: Forgery, body: bytes) -> Forgery:
    headers = {"content-type": "application/json", **wechat_signature(body)}
    return replace(kind_of, headers=tuple(headers.items()), body=body)


def envelope(resource: Any, **changes: Any) -> bytes:
    fields = {"id": "EV-1", "event_type": "TRANSACTION.SUCCESS", "resource": resource, **changes}
    return json.dumps(fields, ensure_ascii=False).encode(errors="surrogatepass")


def _w_shape(chance: Random, genuine: Genuine) -> Forgery:
    whole = json.loads(genuine.wechat.body)
    resource = whole["resource"]
    depth = chance.choice([100, 1100, 5000])
    body = chance.choice(
        [
            b"", b"[]", b"{}", b"null", b'"x"', b"1e999", b"{", b"\xff\xfe", b"NaN", b"\x00",
            b"[" * depth, b'{"a":' * depth + b"1" + b"}" * depth, b'{"event_type":"A"}',
            genuine.wechat.body + b"x", genuine.wechat.body + genuine.wechat.body,
            b"\xef\xbb\xbf" + genuine.wechat.body, genuine.wechat.body.decode().encode("gbk"),
            genuine.wechat.body.decode().encode("utf-16"), b"<xml></xml>",
            envelope(None), envelope([]), envelope("x"), envelope({}), envelope(5),
            envelope({**resource, "nonce": 5}), envelope({**resource, "ciphertext": None}),
            envelope({**resource, "associated_data": 7}), envelope(resource, event_type=None),
            envelope(resource, event_type=""), envelope(resource, event_type="x" * 500),
            envelope(resource, event_type=["TRANSACTION.SUCCESS"]),
            b'{"x":"' + b"x" * chance.randrange(1, 60_000) + b'"}',
        ]
    )  # fmt: skip
    return rightly_signed(genuine.wechat, body)


def _w_encryption(chance: Random, genuine: Genuine) -> Forgery:
    plaintext = json.dumps(genuine.transaction(), ensure_ascii=False).encode()
    right = sealed(plaintext)
    raw = base64.b64decode(right["ciphertext"])
    at = chance.randrange(len(raw))
    nonce = "".join(chance.choice("abcdef0123456789") for _ in range(chance.randrange(0, 40)))
    other_nonce = nonce if len(nonce) not in (0, 12) else "abcdef012346"
    changed = chance.choice(
        [
            {"ciphertext": b64(raw[:at])}, {"ciphertext": b64(raw[:-16])},
            {"ciphertext": b64(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])},
            {"ciphertext": b64(raw + b"\x00")}, {"ciphertext": ""}, {"ciphertext": "no base64!"},
            {"ciphertext": right["ciphertext"] + "=="}, {"ciphertext": "中文"},
            {"ciphertext": raw.hex()}, {"ciphertext": " " + right["ciphertext"]},
            {"associated_data": "refund"}, {"associated_data": ""}, {"associated_data": None},
            {"associated_data": "transaction\x00"}, {"nonce": ""}, {"nonce": other_nonce},
            {"nonce": "中文中文"}, {"nonce": "\udc80" * 12}, {"algorithm": "AEAD_SM4_GCM"},
            {"algorithm": None}, {"algorithm": "none"}, {"algorithm": ["AEAD_AES_256_GCM"]},
            {"ciphertext": b64(plaintext)},
            {"ciphertext": b64(AESGCM(b"f" * 32).encrypt(b"abcdef012345", plaintext,
                                                          b"transaction"))},
            {"ciphertext": b64(AESGCM(API_V3_KEY[:16]).encrypt(b"abcdef012345", plaintext,
                                                                b"transaction"))},
        ]
    )  # fmt: skip
    return rightly_signed(genuine.wechat, envelope({**right, **changed}))


def _w_plaintext(chance: Random, genuine: Genuine) -> Forgery:
    """Rightly sealed, and no object inside."""
    inside = chance.choice([b"", b"[]", b"null", b"1", b"{", b"\xff", b'"x"', b"[" * 2000, b"<a/>"])
    return rightly_signed(genuine.wechat, envelope(sealed(inside)))


def _w_addressee(chance: Random, genuine: Genuine) -> Forgery:
    """Another merchant's money, rightly signed and sealed with our key."""
    other = str(chance.randrange(10**9, 10**10))
    changes: list[dict[str, Any]] = [
        {"mchid": other}, {"appid": f"wx{other}"}, {"mchid": None}, {"appid": None}, {"mchid": 1},
        {"mchid": "1900000109 "}, {"mchid": ["1900000109"]}, {"appid": "WX8888888888888888"},
        {"mchid": other, "amount": None}, {"mchid": 1900000109}, {"appid": ""},
        {"combine_mchid": other, "combine_out_trade_no": genuine.number},
    ]  # fmt: skip
    plaintext = genuine.transaction(**chance.choice(changes))
    return rightly_signed(genuine.wechat, envelope(sealed(json.dumps(plaintext).encode())))


def _w_refund_of_another(chance: Random, genuine: Genuine) -> Forgery:
    plaintext = {
        "mchid": str(chance.randrange(10**9)),
        "out_trade_no": genuine.number,
        "out_refund_no": "R1",
        "refund_status": "SUCCESS",
    }
    body = envelope(sealed(json.dumps(plaintext).encode()), event_type="REFUND.SUCCESS")
    return rightly_signed(genuine.wechat, body)


def _w_from_alipay(chance: Random, genuine: Genuine) -> Forgery:
    body = genuine.alipay.body
    if chance.random() < 0.5:
        return replace(genuine.wechat, body=body)
    return rightly_signed(genuine.wechat, body)


WECHAT: dict[str, Maker] = {
    "signature": _w_signature,
    "serial": _w_serial,
    "missing header": _w_missing,
    "nonce": _w_nonce,
    "age, signed": _w_age,
    "age, altered": _w_age_unsigned,
    "scheme": _w_scheme,
    "body altered": _w_body,
    "body of another": _w_mixed,
    "signed shape": _w_shape,
    "signed encryption": _w_encryption,
    "signed plaintext": _w_plaintext,
    "signed addressee": _w_addressee,
    "signed refund of another": _w_refund_of_another,
    "alipay's words": _w_from_alipay,
}
